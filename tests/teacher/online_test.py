import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
import types

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.budget import Budget, Pace, Prices, most_tokens
from instructrec_jax.teacher.online import (
  KEY_VARIABLE,
  Limits,
  answer_all,
  make_client,
  retry_after,
)
from instructrec_jax.teacher.store import Store

from .openai_server import KEY
from .samples import billed, make_requests

# The timeout stays long: a loaded machine may take seconds for an answer, and
# a send that is given up is rightly sent, billed and counted once more.
FAST = Limits(first_pause=0.01)


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "a.sqlite", dataset="d") as store:
    yield store


def _answer(requests, server, store, *, limits=FAST, **options):
  client = make_client(server.url)
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
  limits = Limits(first_pause=0.01, timeout=0.3, attempts=20)
  tally = _answer(make_requests(4), server, store, limits=limits)
  assert store.count() == {"answered": 4}
  # More where the machine is too slow for this timeout.
  assert tally.sent == 4 + tally.retries >= 8
  assert time.monotonic() - started < 20


def test_a_dead_server_stops_the_run(store):
  nowhere = types.SimpleNamespace(url="http://127.0.0.1:9/v1")
  limits = Limits(first_pause=0.001, failures_in_a_row=20)
  with pytest.raises(InputError, match="20 sends in a row failed"):
    _answer(make_requests(500), nowhere, store, limits=limits)


def test_retry_after_is_honoured(openai_server, store):
  server = openai_server(_429=1.0)
  started = time.monotonic()
  limits = Limits(first_pause=1e-6)
  _answer(make_requests(1), server, store, limits=limits)
  assert time.monotonic() - started > 0.05


@pytest.mark.parametrize(
  ("value", "least", "most"),
  [
    ("7", 7, 7),
    ("0.5", 0.5, 0.5),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ("Wed, 21 Oct 2499 07:28:00 GMT", 1e6, 1e12),
    ("soon", 0, 0),
    ("", 0, 0),
  ],
)
def test_both_forms_of_retry_after_are_read(value, least, most):
  response = types.SimpleNamespace(headers={"retry-after": value})
  error = types.SimpleNamespace(response=response)
  assert least <= retry_after(error) <= most  # type: ignore[arg-type]


def test_a_run_goes_on_where_it_was(openai_server, store):
  server = openai_server()
  requests = make_requests(60)
  _answer(requests[:40], server, store)
  _answer([*requests, *requests], server, store)
  assert server.received.total() == 60
  assert store.count() == {"answered": 60}


@pytest.mark.parametrize("faults", [{}, {"_500": 0.3, "malformed": 0.3}])
def test_requests_keep_to_their_cap(openai_server, store, faults):
  server = openai_server(latency=0.01, **faults)
  budget = Budget(max_requests=77)
  tally = _answer(make_requests(500), server, store, budget=budget)
  assert server.received.total() == tally.sent == budget.sends == 77
  assert "cap" in tally.stopped


PRICES = Prices(prompt=1000.0, completion=1000.0)
MOST = PRICES.usd(*most_tokens(make_requests(1)[0]))
BILL = PRICES.usd(20, 10)


@pytest.mark.parametrize(
  "faults", [{}, {"_429": 0.2, "malformed": 0.2, "_500": 0.2}]
)
def test_dollars_keep_to_their_cap(openai_server, store, faults):
  server = openai_server(latency=0.01, **faults)
  # Fewer may be in flight than there are workers.
  budget = Budget(prices=PRICES, max_usd=10 * MOST)
  tally = _answer(make_requests(300), server, store, budget=budget)
  assert "cap" in tally.stopped
  billed = PRICES.usd(tally.prompt_tokens, tally.completion_tokens)
  assert tally.usd == pytest.approx(billed)
  # No room for one more, but all the room was used.
  assert 9 * MOST - BILL < tally.usd <= 10 * MOST


@pytest.mark.parametrize("fault", ["cut", "not_json", "no_usage", "hang"])
def test_sends_without_a_bill_count_in_full(openai_server, store, fault):
  server = openai_server(**{fault: 1.0})
  limits = Limits(first_pause=0.01, timeout=0.5) if fault == "hang" else FAST
  budget = Budget(prices=PRICES)
  tally = _answer(make_requests(5), server, store, limits=limits, budget=budget)
  assert store.count() == {"answered": 5}
  bills = 0 if fault == "no_usage" else 5
  unbilled = tally.sent - bills
  # More where the machine is too slow for that timeout.
  assert unbilled >= 5 if fault == "hang" else unbilled == 5
  assert tally.usd == pytest.approx(unbilled * MOST + bills * BILL)


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
  for url in (None, "https://example.org/v1"):
    with pytest.raises(InputError, match=f"set {KEY_VARIABLE}"):
      make_client(url)
  make_client("http://localhost:8000/v1")


@pytest.mark.parametrize("key", ["sk-1\n2", "sk-\u00e9"])
def test_a_key_that_no_header_holds_is_one_sentence(monkeypatch, key):
  monkeypatch.setenv(KEY_VARIABLE, key)
  with pytest.raises(InputError, match="cannot be sent") as error:
    make_client("http://localhost:8000/v1")
  assert key not in str(error.value)


@pytest.mark.parametrize(
  "url", ["not a url", "", "ftp://a.example", "http://["]
)
def test_an_address_in_the_environment_is_checked(monkeypatch, url):
  monkeypatch.setenv(KEY_VARIABLE, "sk-1")
  monkeypatch.setenv("OPENAI_BASE_URL", url)
  with pytest.raises(InputError, match="OPENAI_BASE_URL is .* is needed"):
    make_client()
  make_client("http://localhost:8000/v1")


def test_certificates_that_are_not_there_are_one_sentence(monkeypatch):
  monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
  with pytest.raises(InputError, match=r"\(No such file.*SSL_CERT_FILE"):
    make_client("http://localhost:8000/v1")


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:9", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_one_sentence(monkeypatch, proxy):
  monkeypatch.setenv("ALL_PROXY", proxy)
  with pytest.raises(InputError, match="look at HTTPS_PROXY"):
    make_client("http://example.org/v1")


@pytest.mark.parametrize(("status", "sends"), [("404", 1), ("400", 8)])
def test_a_server_that_takes_no_request_stops_the_run(
  openai_server, store, status, sends
):
  server = openai_server(**{f"_{status}_always": 1.0})
  with pytest.raises(InputError, match=f"status {status}.*check --model"):
    _answer(make_requests(200), server, store)
  # Beside what was in flight at that moment.
  assert server.received.total() < FAST.workers + sends


def test_a_single_refused_request_stops_the_run_too(openai_server, store):
  server = openai_server(_400_always=1.0)
  with pytest.raises(InputError, match="status 400: no.*check --model"):
    _answer(make_requests(1), server, store)
  assert server.received.total() == 1


def test_a_request_that_is_unfit_does_not_stop_the_others(openai_server, store):
  server = openai_server(_400_always=0.02)
  tally = _answer(make_requests(300), server, store)
  unfit = store.count()["failed"]
  assert 0 < unfit < 20
  assert store.count() == {"answered": 300 - unfit, "failed": unfit}
  assert server.received.total() == 300 and tally.retries == 0


def test_an_empty_account_stops_the_run(openai_server, store):
  server = openai_server(quota_always=1.0)
  with pytest.raises(InputError, match="quota is used up"):
    _answer(make_requests(200), server, store)
  assert server.received.total() <= FAST.workers


def test_a_run_that_is_over_waits_for_nobody(openai_server, store):
  server = openai_server(_404_always=1.0)
  started = time.monotonic()
  # At this pace the second request would be sent after an hour.
  pace = Pace(requests_per_minute=1 / 60)
  with pytest.raises(InputError, match="status 404"):
    _answer(make_requests(9), server, store, pace=pace)
  assert time.monotonic() - started < 30


def test_what_is_in_flight_comes_in_when_the_requests_end_badly(
  openai_server, store
):
  server = openai_server(latency=0.2)

  def broken():
    yield from make_requests(5)
    raise InputError("a broken file")

  with pytest.raises(InputError, match="a broken file"):
    _answer(broken(), server, store)
  assert store.count() == {"answered": 5}


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


def test_kills_cost_at_most_what_is_in_flight(openai_server, tmp_path):
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
  with sqlite3.connect(path) as db:
    return db.execute("SELECT key, status, answer FROM requests").fetchall()
