import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.budget import Budget, Prices, most_tokens
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.online import (
  KEY_VARIABLE,
  Limits,
  answer_all,
  make_client,
)
from instructrec_jax.teacher.prompts import IntentionAnswer, strict_schema
from instructrec_jax.teacher.store import Store

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from openai_server import KEY  # noqa: E402

FAST = Limits(first_pause=0.01, timeout=2.0)


def make_requests(count: int) -> list[ChatRequest]:
  return [
    ChatRequest(
      model="m",
      system="What is wanted?",
      user=f"review {number}",
      schema_name="intention",
      schema=strict_schema(IntentionAnswer),
      parameters={"max_completion_tokens": 64},
      prompt_version="1",
    )
    for number in range(count)
  ]


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "a.sqlite", dataset="d") as store:
    yield store


def _answer(requests, server, store, *, limits=FAST, **options):
  client = make_client(server.url, timeout=limits.timeout)
  return answer_all(
    requests, store=store, client=client, limits=limits, **options
  )


def test_everything_is_answered_once_whatever_happens(openai_server, store):
  server = openai_server(
    _429=0.1, _500=0.1, cut=0.05, not_json=0.05, malformed=0.05, truncated=0.05
  )
  requests = make_requests(1000)
  tally = _answer(requests, server, store)
  assert store.count() == {"answered": 1000}
  assert store.answered_keys() == {request.key for request in requests}
  received = server.received
  assert len(received) == 1000
  assert tally.sent == received.total() == 1000 + tally.retries
  # Each request that met a fault was sent once more, and no other.
  faults = server.faults.total() - server.faults[""]
  assert tally.retries == faults > 200


@pytest.mark.parametrize(
  ("fault", "status", "sends"),
  [
    ("_500_always", "failed", FAST.attempts),
    ("malformed_always", "malformed", FAST.bad_answers),
    ("truncated_always", "truncated", FAST.bad_answers),
    ("refusal_always", "refused", 1),
    ("not_json_always", "failed", FAST.attempts),
    ("cut_always", "failed", FAST.attempts),
  ],
)
def test_lasting_faults_end_in_a_status(
  openai_server, store, fault, status, sends
):
  server = openai_server(**{fault: 1.0})
  tally = _answer(make_requests(5), server, store)
  assert store.count() == {status: 5}
  assert tally.sent == server.received.total() == 5 * sends
  # What failed is open, what was answered badly is not asked again.
  assert len(store.answered_keys()) == (0 if status == "failed" else 5)


def test_a_server_that_hangs_is_given_up(openai_server, store):
  server = openai_server(hang=1.0)
  started = time.monotonic()
  limits = Limits(first_pause=0.01, timeout=0.3)
  _answer(make_requests(4), server, store, limits=limits)
  assert store.count() == {"answered": 4}
  assert time.monotonic() - started < 20


def test_a_dead_server_stops_the_run(store):
  class Nowhere:
    url = "http://127.0.0.1:9/v1"

  limits = Limits(first_pause=0.001, failures_in_a_row=20)
  with pytest.raises(InputError, match="20 sends in a row failed"):
    _answer(make_requests(500), Nowhere, store, limits=limits)


def test_retry_after_is_honoured(openai_server, store):
  server = openai_server(_429=1.0)
  started = time.monotonic()
  limits = Limits(first_pause=1e-6)
  _answer(make_requests(1), server, store, limits=limits)
  assert time.monotonic() - started > 0.05


def test_a_run_goes_on_where_it_was(openai_server, store):
  server = openai_server()
  requests = make_requests(60)
  _answer(requests[:40], server, store)
  done = store.answered_keys()
  _answer((r for r in requests if r.key not in done), server, store)
  assert server.received.total() == 60
  assert store.count() == {"answered": 60}


@pytest.mark.parametrize("faults", [{}, {"_500": 0.3, "malformed": 0.3}])
def test_caps_are_never_exceeded(openai_server, store, faults):
  server = openai_server(latency=0.01, **faults)
  budget = Budget(max_requests=77)
  tally = _answer(make_requests(500), server, store, budget=budget)
  assert server.received.total() == tally.sent == 77
  assert "cap" in tally.stopped
  prices = Prices(prompt=1000.0, completion=1000.0)
  most = prices.usd(*most_tokens(make_requests(1)[0]))
  # Another 30 tokens are billed for each; as many as may be in flight.
  capped = Budget(prices=prices, max_usd=10 * most)
  requests = make_requests(900)[500:]
  tally = _answer(requests, server, store, budget=capped)
  assert tally.stopped and 0 < tally.usd <= 10 * most
  billed = prices.usd(tally.prompt_tokens, tally.completion_tokens)
  assert tally.usd == pytest.approx(billed)


def test_no_key_is_anywhere(openai_server, store, tmp_path, monkeypatch, capfd):
  server = openai_server()
  _answer(make_requests(20), server, store)
  monkeypatch.setenv(KEY_VARIABLE, "sk-wrong")
  with pytest.raises(InputError, match="refuses the key") as error:
    _answer(make_requests(40), server, store)
  assert KEY not in str(error.value) and "sk-wrong" not in str(error.value)
  store.close()
  printed = capfd.readouterr()
  written = b"".join(p.read_bytes() for p in tmp_path.glob("a.sqlite*"))
  for secret in (KEY, "sk-wrong"):
    assert secret.encode() not in written
    assert secret not in printed.out + printed.err


def test_a_missing_key_is_one_sentence(monkeypatch):
  monkeypatch.delenv(KEY_VARIABLE)
  with pytest.raises(InputError, match=f"set {KEY_VARIABLE}"):
    make_client()
  with pytest.raises(InputError, match=f"set {KEY_VARIABLE}"):
    make_client("https://example.org/v1")
  make_client("http://localhost:8000/v1")


@pytest.mark.parametrize("status", ["400", "404"])
def test_a_request_that_is_refused_stops_the_run(openai_server, store, status):
  server = openai_server(**{f"_{status}_always": 1.0})
  with pytest.raises(InputError, match=f"status {status}.*check --model"):
    _answer(make_requests(200), server, store)
  # Only what was in flight at that moment was sent.
  assert server.received.total() <= FAST.workers


_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import online_test
from instructrec_jax.teacher import online, store
from instructrec_jax.teacher.jsonl import unanswered
with store.Store(sys.argv[3], dataset="d") as kept:
  online.answer_all(
    unanswered(online_test.make_requests(600), kept),
    store=kept,
    client=online.make_client(sys.argv[2]),
    limits=online.Limits(workers=16, first_pause=0.01),
  )
"""


def test_kills_cost_at_most_what_is_in_flight(openai_server, tmp_path, store):
  server = openai_server(latency=0.05)
  path = tmp_path / "killed.sqlite"
  command = [sys.executable, "-c", _CHILD, str(HERE), server.url, str(path)]
  rng, kills = random.Random(0), 10
  for _ in range(kills):
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    before = server.received.total() if server.received else 0
    wanted = before + rng.randint(1, 40)
    while server.received.total() < wanted and child.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
  subprocess.run(command, check=True)
  undisturbed = openai_server()
  requests = make_requests(600)
  _answer(requests, undisturbed, store)
  with Store(path, dataset="d") as killed:
    assert killed.answered_keys() == store.answered_keys()
    assert killed.count() == store.count() == {"answered": 600}
    assert killed.usage() == store.usage()
  assert server.received.total() <= 600 + kills * 16
