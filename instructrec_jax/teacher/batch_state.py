"""Requests sent in batches, in a small SQLite file beside the store."""

import contextlib
import dataclasses
import json
import pathlib
import sqlite3
from collections.abc import Iterable
from typing import Any

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.store import database_errors

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (tag TEXT PRIMARY KEY, batch_id TEXT);
CREATE TABLE IF NOT EXISTS requests (
  key TEXT PRIMARY KEY,
  tag TEXT,
  attempts INTEGER NOT NULL,
  request TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_by_tag ON requests (tag);
"""


class BatchState:
  """The open file of what was sent; locked against other processes."""

  def __init__(self, path: pathlib.Path):
    """Opens or makes the file; an InputError if another process has it open."""
    self._path = path
    with self._errors():
      self._db = sqlite3.connect(path, timeout=0)
    try:
      # Answered requests leave the file, which then shrinks.
      self._db.execute("PRAGMA auto_vacuum = FULL")
      # Freed by the system when the process dies, however it does.
      self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
      self._db.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
    except sqlite3.Error as error:
      self._db.close()
      raise InputError(
        f"{path}: another process sends batches at this moment, or this is "
        f"no file of batches ({error})."
      ) from None

  def close(self) -> None:
    self._db.close()

  def keys(self, *, waiting: bool) -> set[str]:
    """Returns the keys that wait for a retry, or those in batches."""
    null = "IS NULL" if waiting else "IS NOT NULL"
    sql = f"SELECT key FROM requests WHERE tag {null}"
    return {key for (key,) in self._query(sql)}

  def batches(self, *, created: bool) -> list[tuple[str, str]]:
    """Returns (tag, id) of the open batches, or (tag, None) of intended."""
    null = "IS NOT NULL" if created else "IS NULL"
    return self._query(
      f"SELECT tag, batch_id FROM batches WHERE batch_id {null} ORDER BY rowid"
    )

  def requests(self, tag: str) -> dict[str, tuple[ChatRequest, int]]:
    """Returns a batch's requests by key, with how often each was tried."""
    rows = self._query(
      "SELECT key, request, attempts FROM requests WHERE tag = ?", tag
    )
    try:
      return {key: (ChatRequest(**json.loads(r)), n) for key, r, n in rows}
    except (ValueError, TypeError, RecursionError) as error:
      raise InputError(
        f"{self._path}: a request in it is damaged ({error}): restore the file "
        "from a copy."
      ) from None

  def intend(self, tag: str, requests: Iterable[ChatRequest]) -> None:
    """Notes that a batch is about to be created."""
    with self._errors(), self._db:
      self._db.execute("INSERT INTO batches VALUES (?, NULL)", (tag,))
      self._db.executemany(
        "INSERT INTO requests VALUES (?, ?, 1, ?) ON CONFLICT (key) DO UPDATE "
        "SET tag = excluded.tag, attempts = attempts + 1",
        ((r.key, tag, json.dumps(dataclasses.asdict(r))) for r in requests),
      )

  def created(self, tag: str, batch_id: str) -> None:
    """Notes that the server has the batch."""
    with self._errors(), self._db:
      self._db.execute(
        "UPDATE batches SET batch_id = ? WHERE tag = ?", (batch_id, tag)
      )

  def end(
    self, tag: str, *, settled: Iterable[str] = (), tried: bool = True
  ) -> None:
    """Deletes a batch and the requests of keys `settled`; the rest waits.

    Unless `tried`, this is no attempt on the rest.
    """
    with self._errors(), self._db:
      self._db.executemany(
        "DELETE FROM requests WHERE key = ?", ((key,) for key in settled)
      )
      self._db.execute(
        "UPDATE requests SET tag = NULL, attempts = attempts - ? WHERE tag = ?",
        (0 if tried else 1, tag),
      )
      self._db.execute("DELETE FROM batches WHERE tag = ?", (tag,))

  def _query(self, sql: str, *values: str) -> list[Any]:
    with self._errors():
      return self._db.execute(sql, values).fetchall()

  def _errors(self) -> contextlib.AbstractContextManager[None]:
    return database_errors(self._path, "batches")
