import pathlib
import random
import signal
import subprocess
import sys
import time

from instructrec_jax.teacher.online import (
  KEY_VARIABLE,
  answer_all,
  make_client,
)
from instructrec_jax.teacher.store import Store

from .openai_server import KEY
from .samples import billed, make_requests

HERE = pathlib.Path(__file__).parent
REQUESTS, WORKERS, KILLS = 600, 16, 10
_CHILD = f"""
import sys
sys.path.insert(0, sys.argv[1])
from samples import make_requests
from instructrec_jax.teacher import online, store
with store.Store(sys.argv[3], dataset="d") as kept:
  online.answer_all(
    make_requests({REQUESTS}),
    store=kept,
    client=online.make_client(sys.argv[2]),
    limits=online.Limits(workers={WORKERS}, first_pause=0.01),
  )
"""


def test_kills_cost_at_most_what_is_in_flight(
  openai_server, tmp_path, monkeypatch
):
  monkeypatch.setenv(KEY_VARIABLE, KEY)
  server = openai_server(latency=0.05)
  path = tmp_path / "killed.sqlite"
  command = [sys.executable, "-c", _CHILD, str(HERE), server.url, str(path)]
  rng = random.Random(0)
  for _ in range(KILLS):
    wanted = server.received.total() + rng.randint(1, 40)
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while server.received.total() < wanted:
      assert child.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
  subprocess.run(command, check=True)
  assert server.received.total() <= REQUESTS + KILLS * WORKERS

  undisturbed = tmp_path / "undisturbed.sqlite"
  with (
    Store(undisturbed, dataset="d") as store,
    Store(path, dataset="d") as killed,
  ):
    requests = make_requests(REQUESTS)
    answer_all(requests, store=store, client=make_client(openai_server().url))
    assert killed.count() == store.count() == {"answered": REQUESTS}
    assert billed(killed) == billed(store)
    # A killed run has no subjects here: compare what the answers say.
    assert _answers(path) == _answers(undisturbed)


def _answers(path: pathlib.Path) -> list[tuple]:
  import sqlite3

  with sqlite3.connect(path) as db:
    return db.execute("SELECT key, status, answer FROM requests").fetchall()
