"""Load on `instructrec serve`, over loopback.

Prints requests a second and latencies of several numbers of connections, each
answer compared with the library's; what an overload does; the server's memory
over many requests; and whether a SIGTERM in mid-load loses a request.

  python benchmarks/serving.py --model runs/quickstart/model \
    --dataset runs/quickstart/shop
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

from instructrec_jax.serving.recommender import Recommender

# Of a log-likelihood, or of one part of it: batches of other sizes round
# otherwise.
TOLERANCE = 1e-5
# Seconds; less than the server says, for more of a load.
RETRY_AFTER = 0.5
WISHES = ("Climbing, Rope", "Water Sports, Kayak", "I need a tent", "for rain")


@dataclasses.dataclass
class Load:
  """What came of some requests.

  Attributes:
    seconds: that all took together.
    latencies: of those that were answered, in seconds.
    statuses: of all, 0 where the connection broke.
    wrong: answers that differ from the library's.
  """

  seconds: float
  latencies: list[float]
  statuses: list[int]
  wrong: int

  @property
  def rate(self) -> float:
    """Answers a second."""
    return len(self.latencies) / self.seconds

  def percentile(self, share: float) -> float:
    """Returns a latency in milliseconds."""
    return 1e3 * float(np.percentile(self.latencies, share))


def main() -> None:
  """Runs all and prints it."""
  parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--requests", type=int, default=2000)
  parser.add_argument(
    "--connections", type=int, nargs="+", default=[1, 8, 32, 128]
  )
  parser.add_argument("--memory-requests", type=int, default=10_000)
  args = parser.parse_args()
  asked = questions(args.model, args.dataset)
  serving = [
    *(sys.executable, "-m", "instructrec_jax.cli.main", "serve"),
    *("--model", str(args.model), "--dataset", str(args.dataset)),
    *("--port", "0"),
  ]
  with server(serving) as (process, port):
    print("| connections | requests/s | p50 ms | p99 ms | wrong |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for connections in args.connections:
      count = max(args.requests // 4, min(args.requests, 60 * connections))
      each = asyncio.run(load(port, asked, count, connections=connections))
      print(
        f"| {connections} | {each.rate:.0f} | {each.percentile(50):.1f} | "
        f"{each.percentile(99):.1f} | {each.wrong} of {len(each.statuses)} |"
      )
    print()
    memory(process.pid, port, asked, args.memory_requests)
    stopped = asyncio.run(stop_in_mid_load(process, port, asked))
    print(f"SIGTERM in mid-load: {stopped}; exit status {process.wait()}")
  with server([*serving, "--waiting", "32"]) as (_, port):
    load_of = load(port, asked, args.requests, connections=256)
    over = asyncio.run(load_of)
    refused = over.statuses.count(503)
    print(
      f"overload, 256 connections for 32 places: {len(over.latencies)} "
      f"answered, {refused} refused with 503, "
      f"{len(over.statuses) - refused - len(over.latencies)} others; of the "
      f"answered p50 {over.percentile(50):.0f} ms, p99 "
      f"{over.percentile(99):.0f} ms, {over.wrong} wrong"
    )


def questions(
  model: pathlib.Path, dataset: pathlib.Path, count: int = 200
) -> list[tuple[bytes, list[tuple[int, float]]]]:
  """Returns bodies of requests, and for each (index, score) of the library."""
  recommender = Recommender.load(model, dataset=dataset)
  rng = np.random.default_rng(0)
  asked = []
  for number in range(count):
    drawn = rng.choice(recommender.titles, 16, replace=False).tolist()
    wish, history, candidates = WISHES[number % 4], drawn[:6], drawn[6:]
    found = recommender.rank(wish, history=history, candidates=candidates)
    body = {"query": wish, "history": history, "documents": candidates}
    ranking = [
      (candidates.index(each.title), each.log_likelihood)
      for each in found.ranking
    ]
    asked.append((json.dumps(body).encode(), ranking))
  return asked


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[tuple[subprocess.Popen, int]]:
  """Starts the server; yields it and its port when it is ready."""
  started = time.monotonic()
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)$", line.strip())
    if not found:
      sys.exit(f"the server did not start: {line!r}")
    print(f"\nready after {time.monotonic() - started:.0f} s")
    yield process, int(found[1])
  finally:
    process.terminate()
    process.wait()


async def load(
  port: int, asked: list[Any], count: int, *, connections: int
) -> Load:
  """Sends requests, the next on a connection when the last is answered."""
  numbers = iter(range(count))
  found = Load(0, [], [], 0)

  async def connection() -> None:
    async with connected(port) as (reader, writer):
      for number in numbers:
        body, expected = asked[number % len(asked)]
        while True:
          started = time.monotonic()
          status, answer = await post(reader, writer, body)
          found.statuses.append(status)
          if status != 503:
            break
          await asyncio.sleep(RETRY_AFTER)
        if status == 200:
          found.latencies.append(time.monotonic() - started)
          found.wrong += not agrees(answer, expected)

  started = time.monotonic()
  await asyncio.gather(*(connection() for _ in range(connections)))
  found.seconds = time.monotonic() - started
  return found


def agrees(answer: bytes, expected: list[tuple[int, float]]) -> bool:
  """Whether an answer has the library's scores, and its order but for ties."""
  results = json.loads(answer)["results"]
  scores = dict(expected)
  found = [(each["index"], each["log_likelihood"]) for each in results]
  return len(found) == len(expected) and all(
    np.isclose(score, scores[index], rtol=TOLERANCE, atol=TOLERANCE)
    and np.isclose(score, at_place, rtol=TOLERANCE, atol=TOLERANCE)
    for (index, score), (_, at_place) in zip(found, expected, strict=True)
  )


def memory(pid: int, port: int, asked: list[Any], count: int) -> None:
  """Prints the server's resident memory as requests go by."""
  sizes = [resident(pid)]
  for _ in range(5):
    asyncio.run(load(port, asked, count // 5, connections=32))
    sizes.append(resident(pid))
  shown = ", ".join(f"{size:.0f}" for size in sizes)
  print(f"resident MiB, each {count // 5} requests: {shown}")


def resident(pid: int) -> float:
  """Returns a process' resident memory in MiB."""
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  found = re.search(r"VmRSS:\s+(\d+)", status)
  assert found
  return int(found[1]) / 1024


async def stop_in_mid_load(
  process: subprocess.Popen, port: int, asked: list[Any]
) -> str:
  """Sends SIGTERM while 32 connections ask; returns what became of them."""
  sent: dict[int, float] = {}
  done: dict[int, int] = {}
  numbers = itertools.count()

  async def connection() -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
      async with connected(port) as (reader, writer):
        while True:
          number = next(numbers)
          body, expected = asked[number % len(asked)]
          sent[number] = time.monotonic()
          status, answer = await post(reader, writer, body)
          right = status == 200 and agrees(answer, expected)
          done[number] = status if right else -status

  tasks = [asyncio.create_task(connection()) for _ in range(32)]
  await asyncio.sleep(2)
  process.send_signal(signal.SIGTERM)
  stopped = time.monotonic()
  await asyncio.gather(*tasks)
  accepted = [number for number, at in sent.items() if at < stopped]
  lost = [number for number in accepted if done.get(number) != 200]
  return (
    f"{len(accepted)} requests before it, {len(lost)} lost, "
    f"{len(sent) - len(accepted)} after it, "
    f"{sum(number in done for number in sent) - len(accepted) + len(lost)} of "
    "them answered"
  )


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Any]:
  """Yields the two ends of a connection."""
  reader, writer = await asyncio.open_connection("127.0.0.1", port)
  try:
    yield reader, writer
  finally:
    writer.close()


async def post(
  reader: asyncio.StreamReader,
  writer: asyncio.StreamWriter,
  body: bytes,
  path: str = "/v1/rerank",
) -> tuple[int, bytes]:
  """Asks; a client of a few lines, to load the server alone."""
  writer.write(
    b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (path.encode(), len(body), body)
  )
  head = await reader.readuntil(b"\r\n\r\n")
  length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
  assert length
  return int(head[9:12]), await reader.readexactly(int(length[1]))


if __name__ == "__main__":
  main()
