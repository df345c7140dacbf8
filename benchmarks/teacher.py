"""How fast the online teacher is, against a server with a fixed latency.

    python benchmarks/teacher.py --requests 20000 --latency 0.2 --workers 64

The server (tests/teacher/openai_server.py) runs in a process of its own on the
same machine. With W workers and L seconds of latency no client can do more
than W / L requests a second.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.online import (
  KEY_VARIABLE,
  Limits,
  answer_all,
  make_client,
)
from instructrec_jax.teacher.questions import VIEWS, strict_schema
from instructrec_jax.teacher.store import Store

SERVER = (
  pathlib.Path(__file__).parents[1] / "tests" / "teacher" / "openai_server.py"
)


def requests(count: int):
  """Yields distinct requests of a review's usual length."""
  for number in range(count):
    yield ChatRequest(
      model="m",
      system="Write down the wish that the customer had before buying.",
      user=f"Review {number}. " + "I like it very much. " * 20,
      schema_name="intention",
      schema=strict_schema(VIEWS),
      parameters={"max_completion_tokens": 128},
      prompt_version="1",
    )


def main() -> None:
  """Sends the requests and prints one row."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--requests", type=int, default=20_000)
  parser.add_argument("--latency", type=float, default=0.2)
  parser.add_argument("--workers", type=int, default=64)
  parser.add_argument(
    "--faults",
    default="{}",
    help='JSON, such as {"429": 0.05, "500": 0.05, "malformed": 0.02}',
  )
  args = parser.parse_args()
  os.environ[KEY_VARIABLE] = "sk-secret-of-the-tests-0123456789"
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder) / "log"
    server = subprocess.Popen(
      [sys.executable, SERVER, log, str(args.latency), args.faults],
      stdout=subprocess.PIPE,
      text=True,
    )
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    path = pathlib.Path(folder) / "annotations.sqlite"
    with Store(path, dataset="benchmark") as store:
      started, cpu = time.monotonic(), time.process_time()
      tally = answer_all(
        requests(args.requests),
        store=store,
        client=make_client(url),
        limits=Limits(workers=args.workers),
        total=args.requests,
      )
      seconds = time.monotonic() - started
      cpu = time.process_time() - cpu
      counts = store.count()
    server.kill()
    received = collections.Counter(log.read_text().splitlines())
  row = {
    "requests": args.requests,
    "stored": counts,
    "sent": tally.sent,
    "retries": tally.retries,
    "received": received.total(),
    "seconds": round(seconds, 1),
    "client_cpu_seconds": round(cpu, 1),
    "requests_per_second": round(tally.sent / seconds, 1),
    "possible": round(args.workers / args.latency, 1),
  }
  print(json.dumps(row, indent=1))


if __name__ == "__main__":
  main()
