import contextlib
import dataclasses
import os
import pathlib
import sqlite3
import threading
import unittest.mock

import hypothesis
import pytest
from hypothesis import strategies as st

from instructrec_jax.errors import InputError
from instructrec_jax.teacher import store as store_module
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.store import Keys, Store, Subject, unanswered

from .samples import billed, make_requests


def _request(user="a", **changes) -> ChatRequest:
  return dataclasses.replace(make_requests(1)[0], user=user, **changes)


def _answer(request, text="{}", status=Status.ANSWERED, **more) -> ChatAnswer:
  return ChatAnswer(request.key, status, text=text, **more)


def _texts(store) -> list[str]:
  return [row["answer"] for row in store.rows()]


@pytest.fixture
def store(tmp_path):
  with Store(tmp_path / "a.sqlite", dataset="d") as store:
    yield store


def test_what_is_answered_stays_when_answered_again(store):
  request = _request()
  store.put(request, _answer(request, "first"), teacher="online")
  store.put(request, _answer(request, "second"), teacher="online")
  store.add_subjects([Subject("preference", 0, 3, request.key)])
  assert _texts(store) == ["first"]
  assert store.answered_keys() == {request.key}


def test_a_failed_request_is_open_and_can_be_answered(store):
  request = _request()
  failed = _answer(
    request, "", Status.FAILED, error="no answer", attempts=4, prompt_tokens=2
  )
  store.put(request, failed, teacher="online")
  assert store.answered_keys() == set()
  assert store.count() == {"failed": 1}
  store.put(request, _answer(request, prompt_tokens=7), teacher="online")
  assert store.answered_keys() == {request.key}
  # Both attempts were billed.
  assert billed(store) == (9, 0)


@pytest.mark.parametrize(
  "changes", [{"model": "n"}, {"prompt_version": "2"}, {"system": "t"}]
)
def test_another_model_or_wording_makes_another_row(store, changes):
  for request in (_request(), _request(**changes)):
    store.put(request, _answer(request), teacher="online")
    store.add_subjects([Subject("preference", 0, 3, request.key)])
  assert len(_texts(store)) == 2


def test_the_latest_answer_comes_last(store):
  requests = [_request(str(n)) for n in range(6)]
  # By their hashes they would come in another order.
  assert [r.key for r in requests] != sorted(r.key for r in requests)
  for request in requests:
    store.put(request, _answer(request, request.user), teacher="online")
    store.add_subjects([Subject("preference", 0, 3, request.key)])
  assert _texts(store) == list("012345")


def test_an_answer_keeps_a_time_of_its_own(store):
  times = ["2020-01-01T00:00:00+00:00", "2019-01-01T00:00:00+00:00"]
  requests = [_request(str(n)) for n in range(2)]
  store.put_all(
    [(r, _answer(r, r.user)) for r in requests], teacher="t", times=times
  )
  store.add_subjects(Subject("preference", 0, 3, r.key) for r in requests)
  assert _texts(store) == ["1", "0"]


def test_one_answer_serves_all_its_subjects_in_their_order(store):
  request = _request()
  store.put(request, _answer(request, "x"), teacher="offline")
  subjects = [Subject("preference", user, 3, request.key) for user in (5, 1)]
  store.add_subjects([*subjects, *subjects])
  names = "user_number", "answer", "teacher"
  found = [tuple(map(row.get, names)) for row in store.rows()]
  assert found == [(1, "x", "offline"), (5, "x", "offline")]


def test_answers_survive_reopening(tmp_path):
  path, request = tmp_path / "a.sqlite", _request()
  with Store(path, dataset="d") as store:
    store.put(request, _answer(request), teacher="online")
  with Store(path, dataset="d") as store:
    assert store.answered_keys() == {request.key}


# Of the first version.
_OLD_STORE = """
CREATE TABLE requests (
  key TEXT PRIMARY KEY, teacher TEXT NOT NULL, model TEXT NOT NULL,
  prompt_version TEXT NOT NULL, schema_name TEXT NOT NULL,
  schema TEXT NOT NULL, parameters TEXT NOT NULL, system TEXT NOT NULL,
  user TEXT NOT NULL, status TEXT NOT NULL, answer TEXT NOT NULL,
  finish_reason TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, attempts INTEGER NOT NULL,
  error TEXT NOT NULL, answered_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE subjects (
  key TEXT NOT NULL, kind TEXT NOT NULL, user INTEGER NOT NULL,
  position INTEGER NOT NULL, PRIMARY KEY (kind, user, position, key)
) WITHOUT ROWID;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO about VALUES ('version', '1'), ('dataset', 'd');
"""


def test_a_store_of_an_earlier_version_is_read_and_continued(tmp_path):
  path, requests = tmp_path / "a.sqlite", [_request(u) for u in "abc"]
  with contextlib.closing(sqlite3.connect(path)) as db, db:
    db.executescript(_OLD_STORE)
    for request, status in zip(requests, ("answered", "failed"), strict=False):
      row = (request.key, *"tm1n{{su", status, "x", "stop", 3, 2, 6, "", "2026")
      db.execute(f"INSERT INTO requests VALUES ({','.join('?' * 17)})", row)
      db.execute(
        "INSERT INTO subjects VALUES (?, 'preference', 0, 3)", (request.key,)
      )
  with Store(path, dataset="d") as store:
    assert list(unanswered(requests, store)) == requests[1:]
    for request in requests:
      store.put(request, _answer(request, "new", prompt_tokens=7), teacher="t")
    assert {row["key"]: row["answer"] for row in store.rows()} == {
      requests[0].key: "x",
      requests[1].key: "new",
    }
    assert store.count() == {"answered": 3}
    assert billed(store) == (3 + 10 + 7, 4)


def test_another_datasets_file_is_refused(tmp_path):
  Store(tmp_path / "a.sqlite", dataset="d").close()
  with pytest.raises(InputError, match="another dataset"):
    Store(tmp_path / "a.sqlite", dataset="e")


def test_a_file_that_is_no_store_is_refused(tmp_path):
  (tmp_path / "a.sqlite").write_text("not a database, but long enough" * 99)
  with pytest.raises(InputError, match="not a file of annotations"):
    Store(tmp_path / "a.sqlite", dataset="d")


def test_another_programs_database_is_not_written_to(tmp_path):
  path = tmp_path / "a.sqlite"
  with contextlib.closing(sqlite3.connect(path)) as db:
    db.execute("CREATE TABLE mine (a)")
  before = path.read_bytes()
  with pytest.raises(InputError, match="not a file of annotations"):
    Store(path, dataset="d")
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]


def test_threads_lose_nothing(store):
  def put(start):
    for number in range(start, start + 50):
      request = _request(user=str(number))
      store.put(request, _answer(request), teacher="online")

  threads = [threading.Thread(target=put, args=(50 * n,)) for n in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(store.answered_keys()) == 400


def test_a_store_in_memory_leaves_no_file(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for dataset in ("a", "b"):
    with Store(pathlib.Path(":memory:"), dataset=dataset) as store:
      assert store.count() == {}
  assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_loss_and_no_new_store(tmp_path):
  path = tmp_path / "a.sqlite"
  path.touch()
  with pytest.raises(InputError, match="is empty: restore it from a copy"):
    Store(path, dataset="d")
  assert not path.stat().st_size


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
  path = tmp_path / "a.sqlite"
  path.symlink_to("a.sqlite") if kind == "link" else os.mkfifo(path)
  with pytest.raises(InputError, match="a.sqlite: cannot be read"):
    Store(path, dataset="d")


def test_a_damaged_file_leaves_nothing_beside_it(tmp_path):
  path = tmp_path / "a.sqlite"
  with Store(path, dataset="d") as store:
    for number in range(300):
      request = _request(f"{number} " * 99)
      store.put(request, _answer(request), teacher="online")
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
  with pytest.raises(InputError, match="damaged") as caught:
    Store(path, dataset="d")
  # While the traceback, and what it holds, is alive.
  assert caught.tb and [p.name for p in tmp_path.iterdir()] == ["a.sqlite"]


@hypothesis.given(numbers=st.lists(st.integers(0, 30)))
def test_keys_are_a_set(numbers):
  known = set()
  with unittest.mock.patch.object(store_module, "_RECENT_KEYS", 3):
    keys = Keys()
    for number in numbers:
      # They end in zero bytes, which numpy drops.
      name = f"{number % 7:02x}{number:02x}".ljust(64, "0")
      assert keys.add(name) == (number not in known)
      known.add(number)
