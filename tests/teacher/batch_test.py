"""OpenAI's Batch API against a real server on loopback."""

import contextlib
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys

import openai
import pytest

from instructrec_jax.data.folder import BATCHES_FILE
from instructrec_jax.errors import InputError
from instructrec_jax.teacher import batch
from instructrec_jax.teacher.batch import (
  Batches,
  BatchTally,
  Limits,
  run_batches,
)
from instructrec_jax.teacher.batch_state import BatchState
from instructrec_jax.teacher.chat import ChatAnswer, Status
from instructrec_jax.teacher.store import Store

_HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(_HERE))
from batch_server import KEY, BatchServer, done, expired  # noqa: E402
from samples import SCHEMA, billed, make_requests  # noqa: E402

_THREE = Limits(requests=3)
REQUESTS = make_requests(8)
TEXTS = [request.user for request in REQUESTS]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
  monkeypatch.setattr(batch, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server():
  with BatchServer() as server:
    yield server


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "annotations.sqlite", dataset="d") as store:
    yield store


@pytest.fixture
def places(server, store, tmp_path):
  """The keyword arguments that all functions take."""
  client = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
  return dict(store=store, client=client, state_path=tmp_path / BATCHES_FILE)


def _run(places, requests=REQUESTS, **options):
  return run_batches(requests, **places, **options, poll_seconds=0.01)


def _submit(places, requests=REQUESTS, **limits) -> BatchTally:
  with Batches(**places, **limits) as batches:
    return batches.submit(requests)


def _collect(places) -> BatchTally:
  tally = BatchTally()
  with Batches(**places) as batches:
    batches.collect(tally)
  return tally


def _rows(path) -> dict[str, tuple[str, str, int]]:
  """Returns the text, status and attempts of each question."""
  with contextlib.closing(sqlite3.connect(path)) as db:
    rows = db.execute("SELECT user, answer, status, attempts FROM requests")
    return {row[0]: row[1:] for row in rows}


def _assert_all_answered(path, texts=TEXTS) -> None:
  rows = _rows(path)
  assert sorted(rows) == sorted(texts)
  for user, (answer, status, _) in rows.items():
    assert (json.loads(answer), status) == ({"text": user}, "answered")


def test_every_answer_finds_its_request(server, store, places):
  tally = _run(places, [*REQUESTS, *REQUESTS[:3]], limits=_THREE)
  assert tally.submitted == 8 and tally.statuses == {Status.ANSWERED: 8}
  assert (tally.open, tally.requeued, tally.unknown) == (0, 0, 0)
  assert [len(b["lines"]) for b in server.batches.values()] == [3, 3, 2]
  _assert_all_answered(store.path)
  assert billed(store) == (8 * 7, 8 * 5)
  # Again costs nothing.
  assert _run(places).submitted == 0
  assert len(server.batches) == 3


def test_what_is_open_or_answered_is_not_submitted(server, store, places):
  server.open_polls = None
  store.put(
    REQUESTS[0],
    ChatAnswer(REQUESTS[0].key, Status.ANSWERED, '{"text": ""}'),
    teacher="openai",
  )
  assert _submit(places, REQUESTS[:4]).submitted == 3
  assert _collect(places).open == 3
  again = _submit(places)
  assert (again.submitted, again.open) == (4, 7)
  assert sorted(server.submitted()) == TEXTS[1:]
  server.open_polls = 0
  ended = _collect(places)
  assert ended.statuses == {Status.ANSWERED: 7} and not ended.open


def test_batches_are_cut_by_bytes_and_by_model(server, places):
  line = len(batch.request_line(REQUESTS[0]))
  others = make_requests(2, model="other")
  _submit(
    places, [*others, *REQUESTS], limits=Limits(requests=3, bytes=2 * line)
  )
  models = [
    [line["body"]["model"] for line in b["lines"]]
    for b in server.batches.values()
  ]
  # A line of the other model is a little too long for two of it.
  assert models == [["m"] * 2] * 4 + [["other"]] * 2
  assert max(map(len, server.files.values())) == 2 * line


def test_expired_and_failed_rows_are_tried_again_with_a_cap(
  server, store, places
):
  def answer(number: int, line: dict):
    which = TEXTS.index(line["body"]["messages"][1]["content"])
    if which == 0:
      return expired(line)
    if which == 1 and number == 0:
      return done(line, status=500, body={"error": {"message": "oops"}})
    if which == 2:
      return done(line, status=400, body={"error": {"message": "too long"}})
    if which == 3 and number == 0:
      return None
    if which == 4 and number == 0:
      return b'{"custom_id": "cut sho'
    if which == 5:
      return done(line) | ({"custom_id": "stranger"} if number == 0 else {})
    return done(line)

  server.answer = answer
  server.end = lambda number: ("expired" if number == 0 else "completed", [])
  tally = _run(places)
  rows = _rows(store.path)
  assert rows[TEXTS[0]] == ("", "failed", 3)
  assert rows[TEXTS[2]] == ("", "failed", 1)
  assert [rows[TEXTS[n]][2] for n in (1, 3, 4, 5)] == [2] * 4
  assert rows[TEXTS[6]][2] == 1
  assert tally.statuses == {Status.ANSWERED: 6, Status.FAILED: 2}
  assert [len(b["lines"]) for b in server.batches.values()] == [8, 5, 1]
  assert (tally.requeued, tally.unknown, tally.broken) == (6, 1, 1)
  assert tally.submitted == 14
  # A later run may try what failed anew.
  server.answer = lambda _, line: done(line)
  assert _run(places).statuses == {Status.ANSWERED: 2}


def test_a_batch_that_fails_as_a_whole_is_tried_again(server, store, places):
  error = {"code": "internal", "message": "Could not read the file."}
  server.end = lambda n: ("failed", [error]) if n == 0 else ("completed", [])
  tally = _run(places)
  assert (tally.submitted, tally.requeued) == (16, 8)
  _assert_all_answered(store.path)


def test_a_cancelled_batch_is_not_submitted_again(server, store, places):
  server.end = lambda _: ("cancelled", [])
  server.answer = lambda _, line: (
    done(line) if line["body"]["messages"][1]["content"] in TEXTS[:2] else None
  )
  tally = _run(places)
  assert tally.statuses == {Status.ANSWERED: 2, Status.FAILED: 6}
  assert len(server.batches) == 1


_FULL = ("failed", [{"code": "token_limit_exceeded", "message": "Too many."}])


def test_a_full_queue_is_no_attempt(server, store, places):
  server.end = lambda n: _FULL if n in (0, 2) else ("completed", [])
  tally = _run(places, limits=Limits(requests=2, attempts=1))
  assert tally.deferred == 4 and tally.statuses == {Status.ANSWERED: 8}
  _assert_all_answered(store.path)
  assert {attempts for *_, attempts in _rows(store.path).values()} == {1}


def test_a_queue_without_room_for_any_batch_stops_the_run(server, places):
  server.end = lambda _: _FULL
  with pytest.raises(InputError, match="no room for these 8 requests"):
    _run(places)


def test_the_cap_holds_over_tries(server, places):
  left = iter([True] * 5)
  server.answer = lambda number, line: None if number == 0 else done(line)
  tally = _run(
    places, reserve=lambda _: next(left, False), limits=Limits(attempts=9)
  )
  assert len(server.submitted()) == tally.submitted == 5
  assert tally.over_cap == 8 and tally.open == 0
  assert _run(places).submitted == 8


def test_a_lost_answer_does_not_make_a_second_batch(server, store, places):
  server.lose = 1
  places["client"] = places["client"].with_options(max_retries=2)
  _run(places, limits=_THREE)
  assert sorted(server.submitted()) == TEXTS
  _assert_all_answered(store.path)


def test_polls_outlast_a_server_that_is_down_for_a_while(server, store, places):
  server.polls_down = 3
  assert _run(places).statuses == {Status.ANSWERED: 8}
  _assert_all_answered(store.path)
  server.polls_down = 99
  with pytest.raises(InputError, match="cannot be reached .*to go on"):
    _run(places, make_requests(9)[8:])
  server.polls_down = 0
  assert _run(places, []).statuses == {Status.ANSWERED: 1}


def test_a_refused_key_is_one_sentence_without_the_key(places, tmp_path):
  key = "sk-wrong-9876543210"
  places["client"] = places["client"].with_options(api_key=key)
  with pytest.raises(InputError, match="refuses the key") as caught:
    _run(places)
  assert key not in str(caught.value) and caught.value.__cause__ is None
  for path in tmp_path.iterdir():
    assert key.encode() not in path.read_bytes()


def test_an_unknown_batch_is_one_sentence(server, places):
  _submit(places)
  server.batches.clear()
  with pytest.raises(InputError, match="no such batch"):
    _collect(places)


def test_two_processes_do_not_share_the_state(places, tmp_path):
  with contextlib.closing(BatchState(places["state_path"])):
    with pytest.raises(InputError, match="another process"):
      _submit(places)
  _submit(places)


# Of the first version.
_OLD_STATE = """
CREATE TABLE batches (tag TEXT PRIMARY KEY, batch_id TEXT);
CREATE TABLE requests (
  key TEXT PRIMARY KEY, tag TEXT,
  attempts INTEGER NOT NULL, request TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_by_tag ON requests (tag);
INSERT INTO batches VALUES ('t', 'batch_0');
"""


def test_an_open_batch_of_an_earlier_version_is_collected(
  server, store, places
):
  file = server.store_file(batch.request_line(REQUESTS[0]))
  server.create({"input_file_id": file["id"]})
  fields = {
    "model": "m",
    "system": "What is wanted?",
    "user": TEXTS[0],
    "schema_name": "intention",
    "schema": SCHEMA,
    "parameters": {"max_completion_tokens": 64},
    "prompt_version": "1",
  }
  with contextlib.closing(sqlite3.connect(places["state_path"])) as db, db:
    db.executescript(_OLD_STATE)
    db.execute(
      "INSERT INTO requests VALUES (?, 't', 1, ?)",
      (REQUESTS[0].key, json.dumps(fields)),
    )
  assert _run(places, REQUESTS[:1]).submitted == 0
  _assert_all_answered(store.path, TEXTS[:1])
  assert len(server.batches) == 1


_CHILD = """
import functools, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import openai
from instructrec_jax.teacher import batch, batch_state, store
import batch_test
url, folder, owner, method, calls = sys.argv[2:]
State = batch_state.BatchState
owners = {"state": State, "server": batch.BatchApi, "store": store.Store}
owner, method = owners.get(owner, State), method or "close"
whole, left = getattr(owner, method), [int(calls)]
@functools.wraps(whole)
def dying(*args, **options):
  result = whole(*args, **options)
  left[0] -= 1
  if not left[0]:
    os.kill(os.getpid(), signal.SIGKILL)
  return result
setattr(owner, method, dying)
folder = pathlib.Path(folder)
batch.run_batches(
  batch_test.REQUESTS,
  store=store.Store(folder / "annotations.sqlite", dataset="d"),
  client=openai.OpenAI(base_url=url, api_key=batch_test.KEY),
  state_path=folder / "annotations.batches.sqlite",
  limits=batch.Limits(requests=3),
  poll_seconds=0.01,
)
"""


@pytest.mark.parametrize(
  ("owner", "method", "calls"),
  [
    ("state", "intend", 2),
    ("server", "create", 2),
    ("state", "created", 2),
    ("server", "batch", 1),
    ("store", "put_all", 2),
    ("state", "end", 1),
    ("network", "", 0),
  ],
)
def test_killed_anywhere_it_goes_on_and_submits_nothing_twice(
  server, store, places, tmp_path, owner, method, calls
):
  child = subprocess.Popen(
    [sys.executable, "-c", _CHILD, _HERE, server.url, tmp_path]
    + [owner, method, str(calls)],
    stderr=subprocess.PIPE,
    text=True,
  )
  if owner == "network":
    # Killed while it waits to hear of the batch that the server has made.
    server.on_create = child.kill
  _, said = child.communicate(timeout=120)
  assert child.returncode == -signal.SIGKILL, said
  server.on_create = lambda: None
  _run(places, limits=_THREE)
  assert sorted(server.submitted()) == TEXTS
  _assert_all_answered(store.path)
  assert billed(store) == (8 * 7, 8 * 5)
