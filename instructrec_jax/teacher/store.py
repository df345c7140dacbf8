"""Every answer that was ever paid for, in one SQLite file.

Table `requests` has a row for each distinct request, by the hash of all its
fields; another model or wording makes other rows. Table `subjects` says which
users and positions the requests are about. Killing the process loses at most
what was in flight.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from instructrec_jax import storage
from instructrec_jax.errors import InputError, check_file
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status

VERSION = 1
# In place of a file that is not there, and only read.
MEMORY = pathlib.Path(":memory:")
ROWS_PER_COMMIT = 1000
# Bytes of a key that are kept to know it by, and keys that are not sorted yet.
_DIGEST = 16
_RECENT_KEYS = 1 << 16

_WHAT = "annotations"
# SQLite's names of what a disk refuses.
_UNWRITABLE = (
  *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN"),
  "SQLITE_PERM",
)
_TABLES = """
CREATE TABLE requests (
  key TEXT PRIMARY KEY,
  teacher TEXT NOT NULL,
  model TEXT NOT NULL,
  prompt_version TEXT NOT NULL,
  schema_name TEXT NOT NULL,
  schema TEXT NOT NULL,
  parameters TEXT NOT NULL,
  system TEXT NOT NULL,
  user TEXT NOT NULL,
  status TEXT NOT NULL,
  answer TEXT NOT NULL,
  finish_reason TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  error TEXT NOT NULL,
  answered_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE subjects (
  key TEXT NOT NULL,
  kind TEXT NOT NULL,
  user INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (kind, user, position, key)
) WITHOUT ROWID;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_BY_SUBJECT = """
FROM subjects s JOIN requests r USING (key)
ORDER BY s.kind, s.user, s.position, r.answered_at, s.key
"""


@contextlib.contextmanager
def database_errors(path: pathlib.Path, what: str) -> Iterator[None]:
  """Words SQLite's errors: damaged pages, another schema, a full disk."""
  try:
    yield
  except (sqlite3.Error, ValueError) as error:
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(_UNWRITABLE):
      raise InputError(f"{path}: it cannot be written ({error}).") from None
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
      raise InputError(
        f"{path}: another process is writing to it: wait until it has ended."
      ) from None
    raise InputError(
      f"{path}: not a file of {what}, or a damaged one ({error}): restore it "
      "from a copy, or save what is left of it with sqlite3's .recover."
    ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
  """The user and the position that a request is about.

  Attributes:
    kind: "preference", "intention", or "rejected": the request is then a
      judge's, who said no to one of that user and position.
    position: of a preference, the end of the history that it was made of
      (the first item that it has not seen); of an intention, its target's.
    key: of the request.
  """

  kind: str
  user: int
  position: int
  key: str


class Store:
  """An open file of answers; safe to use from several threads."""

  def __init__(self, path: pathlib.Path, *, dataset: str):
    """Opens or makes the file.

    Args:
      path: of the file.
      dataset: hash of the dataset that users and positions belong to; a file
        of another dataset is refused.

    Raises:
      InputError: it is no such file, or another dataset's.
    """
    self.path = path = pathlib.Path(path)
    self._lock = threading.Lock()
    if path != MEMORY:
      _make(path, dataset)
    with database_errors(path, _WHAT):
      # A read-only disk has no place for the files that WAL needs.
      fixed = path.exists() and not os.access(path.parent, os.W_OK)
      place = f"{path.absolute().as_uri()}{'?immutable=1' if fixed else ''}"
      self._db = sqlite3.connect(
        ":memory:" if path == MEMORY else place,
        uri=True,
        check_same_thread=False,
      )
      self._db.row_factory = sqlite3.Row
      try:
        if path == MEMORY:
          _make_tables(self._db, dataset)
        about = dict(self._db.execute("SELECT name, value FROM about"))
        if about != {"version": str(VERSION), "dataset": dataset}:
          raise InputError(
            f"{self.path}: annotations of another dataset or version; move "
            "the file away, or annotate the folder that it belongs to."
          )
        # Not before it is known to be ours: this writes to the file.
        if path != MEMORY and not fixed:
          self._db.execute("PRAGMA journal_mode = WAL")
          # A killed process loses nothing; only a power cut could.
          self._db.execute("PRAGMA synchronous = NORMAL")
      except BaseException:
        # Or what WAL needs would stay beside the file.
        self._db.close()
        raise

  def __enter__(self) -> "Store":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    with self._lock:
      self._db.close()

  def put(
    self, request: ChatRequest, answer: ChatAnswer, *, teacher: str
  ) -> None:
    """Stores one answer; see `put_all`."""
    self.put_all([(request, answer)], teacher=teacher)

  def put_all(
    self,
    answers: Iterable[tuple[ChatRequest, ChatAnswer]],
    *,
    teacher: str,
    times: Iterable[str] | None = None,
  ) -> None:
    """Stores answers in one transaction.

    A failed request can be answered later; an answer is never replaced.

    Args:
      answers: with their requests.
      teacher: who answered.
      times: when each was answered, ISO 8601 in UTC; now if None.
    """
    if times is None:
      # Microseconds tell apart two teachers that answer within a second.
      now = datetime.datetime.now(datetime.UTC)
      times = itertools.repeat(now.isoformat(timespec="microseconds"))
    rows = [
      (
        request.key,
        teacher,
        request.model,
        request.prompt_version,
        request.schema_name,
        json.dumps(request.schema, sort_keys=True),
        json.dumps(request.parameters, sort_keys=True),
        request.system,
        request.user,
        answer.status,
        answer.text,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.attempts,
        answer.error,
        time,
      )
      for (request, answer), time in zip(answers, times, strict=False)
    ]
    with self._lock, database_errors(self.path, _WHAT), self._db as db:
      db.executemany(
        f"INSERT INTO requests VALUES ({', '.join('?' * 17)}) "
        "ON CONFLICT (key) DO UPDATE SET status = excluded.status, "
        "teacher = excluded.teacher, "
        "answer = excluded.answer, finish_reason = excluded.finish_reason, "
        "prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
        "completion_tokens = completion_tokens + excluded.completion_tokens, "
        "attempts = attempts + excluded.attempts, error = excluded.error, "
        "answered_at = excluded.answered_at "
        f"WHERE requests.status = '{Status.FAILED}'",
        rows,
      )

  def add_subjects(self, subjects: Iterable[Subject]) -> None:
    """Stores what requests are about; known subjects stay as they are."""
    with self._lock, database_errors(self.path, _WHAT), self._db as db:
      db.executemany(
        "INSERT OR IGNORE INTO subjects VALUES (?, ?, ?, ?)",
        ((s.key, s.kind, s.user, s.position) for s in subjects),
      )

  def answered_keys(self) -> set[str]:
    """Returns the keys of requests that need not be sent again."""
    rows = self._query(
      "SELECT key FROM requests WHERE status != ?", Status.FAILED
    )
    return {key for (key,) in rows}

  def answered(self) -> "Keys":
    """Returns what `answered_keys` does, for many of them."""
    keys = Keys()
    with self._lock, database_errors(self.path, _WHAT):
      rows = self._db.execute(
        "SELECT key FROM requests WHERE status != ?", (Status.FAILED,)
      )
      for (key,) in rows:
        keys.add(key)
    return keys

  def texts(self, keys: Iterable[str]) -> dict[str, str]:
    """Returns the raw answers of the requests with status ANSWERED."""
    found = self.found(keys)
    return {
      k: t for k, (status, t) in found.items() if status is Status.ANSWERED
    }

  def found(self, keys: Iterable[str]) -> dict[str, tuple[Status, str]]:
    """Returns status and raw answer of those requests that were sent."""
    wanted = set(keys)
    rows = self._query("SELECT key, status, answer FROM requests")
    with database_errors(self.path, _WHAT):
      return {k: (Status(status), a) for k, status, a in rows if k in wanted}

  def verdicts(self) -> list[tuple[int, int, str]]:
    """Returns user, position and judge's request of each rejected text."""
    return [
      (user, position, asked)
      for user, position, asked in self._query(
        "SELECT s.user, s.position, r.user FROM subjects s "
        "JOIN requests r USING (key) WHERE s.kind = 'rejected'"
      )
    ]

  def count(self) -> dict[str, int]:
    """Returns how many requests have each status."""
    rows = self._query("SELECT status, count(*) FROM requests GROUP BY status")
    return {status: count for status, count in rows}

  def rows(self, columns: str = "r.*") -> Iterator[dict[str, Any]]:
    """Yields every answer once for each of its subjects, in their order.

    Of several answers on one subject the latest comes last.
    """
    rows = self._query(
      "SELECT s.kind, s.user AS user_number, s.position, "
      f"{columns} {_BY_SUBJECT}"
    )
    yield from map(dict, rows)

  def _query(self, sql: str, *values: str) -> list[sqlite3.Row]:
    with self._lock, database_errors(self.path, _WHAT):
      return self._db.execute(sql, values).fetchall()


def _make(path: pathlib.Path, dataset: str) -> None:
  """Makes the file of no answers yet, whole, if there is none.

  Raises:
    InputError: what is there is no file, or has nothing in it.
  """
  if os.path.lexists(path):
    check_file(path)
    if not path.stat().st_size:
      raise InputError(
        f"{path}: the file of {_WHAT} is empty: restore it from a copy, or "
        "delete it to begin anew."
      )
    return
  with (
    contextlib.closing(sqlite3.connect(":memory:")) as db,
    storage.staged_file(path) as partial,
  ):
    _make_tables(db, dataset)
    partial.write_bytes(db.serialize())


def _make_tables(db: sqlite3.Connection, dataset: str) -> None:
  db.executescript(_TABLES)
  db.executemany(
    "INSERT INTO about VALUES (?, ?)",
    [("version", str(VERSION)), ("dataset", dataset)],
  )
  db.commit()


class Keys:
  """A set of requests' keys, in 16 bytes each.

  They are hashes, of which so much tells any two apart.
  """

  def __init__(self):
    """No keys yet."""
    self._recent: set[bytes] = set()
    # Sorted, each at least twice as long as the next.
    self._parts: list[np.ndarray] = []

  def add(self, key: str) -> bool:
    """Adds a key; returns whether it was not there."""
    # numpy drops zeros at the end.
    digest = bytes.fromhex(key)[:_DIGEST].rstrip(b"\0")
    if digest in self._recent or any(
      place < len(part) and part[place] == digest
      for part in self._parts
      for place in [part.searchsorted(digest)]
    ):
      return False
    self._recent.add(digest)
    if len(self._recent) == _RECENT_KEYS:
      self._parts.append(np.sort(np.array([*self._recent], f"S{_DIGEST}")))
      self._recent.clear()
    while len(self._parts) > 1 and (
      len(self._parts[-2]) < 2 * len(self._parts[-1])
    ):
      last = self._parts.pop()
      both = np.concatenate([self._parts.pop(), last])
      both.sort(kind="stable")
      self._parts.append(both)
    return True


def unanswered(
  requests: Iterable[ChatRequest], store: Store
) -> Iterator[ChatRequest]:
  """Yields each distinct request that the store has no answer to."""
  seen = store.answered()
  for request in requests:
    if seen.add(request.key):
      yield request
