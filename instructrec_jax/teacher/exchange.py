"""Annotations as a Parquet file: export, and import without cost.

Users and items are named by their identifiers, so that a file fits any dataset
folder that was prepared from the same reviews.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from typing import Any

import polars as pl

from instructrec_jax import locks, parquet, storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.teacher.annotations import open_store
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.store import Subject

_KINDS = ("preference", "intention")
_NUMBERS = {
  "position": pl.Int32,
  "prompt_tokens": pl.Int64,
  "completion_tokens": pl.Int64,
  "attempts": pl.Int64,
}
_COLUMNS = {
  name: _NUMBERS.get(name, pl.String)
  for name in (
    "kind user_id position item_id teacher model system user schema_name "
    "schema parameters prompt_version status answer finish_reason "
    "prompt_tokens completion_tokens attempts error answered_at"
  ).split()
}
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


def export_annotations(
  dataset: pathlib.Path, path: pathlib.Path, *, force: bool = False
) -> int:
  """Writes a folder's answers, one row a subject; returns how many.

  `item_id` is the last item of a preference's history, and the target of an
  intention, so that an import can check that it is the same item.

  Raises:
    InputError: there are none, or `path` exists and `force` is not set.
  """
  folder = DatasetFolder.open(dataset)
  user_ids = folder.user_ids
  with open_store(folder, to_read=True) as store:
    rows = [
      {
        **row,
        "user_id": user_ids[row["user_number"]],
        "item_id": _item_id(folder, row),
      }
      for row in store.rows()
    ]
  if not rows:
    raise InputError(
      f"{folder.path}: no annotations to export; run `instructrec annotate` "
      "first."
    )
  with (
    storage.output_file(path, force=force, is_ours=_is_export),
    storage.staged_file(path) as partial,
  ):
    pl.DataFrame(rows, schema=_COLUMNS).write_parquet(partial)
  return len(rows)


def _is_export(path: pathlib.Path) -> bool:
  try:
    return set(pl.read_parquet_schema(path)) == set(_COLUMNS)
  except (OSError, pl.exceptions.PolarsError):
    return False


def import_annotations(
  dataset: pathlib.Path, path: pathlib.Path
) -> dict[str, int]:
  """Adds a file's answers to a folder's store; nothing there is replaced.

  They keep the time at which they were answered. A file of an older version
  has none: its answers count as older than all others, in the file's order. A
  * in its name stands for several files, of which memory holds one.

  Returns:
    `rows` of the file; `taken`; `elsewhere`, rows about users or items that
    are not in this folder at that place.

  Raises:
    InputError: the file is missing, not of `export_annotations`, or about other
      users and items alone; files before a wrong one are taken by then.
  """
  folder = DatasetFolder.open(dataset)
  numbers = {name: user for user, name in enumerate(folder.user_ids)}
  rows = taken = 0
  with contextlib.ExitStack() as opened:
    store = None
    for each in storage.matching(path):
      frame = _read_file(each)
      answers, times, subjects = _answers(frame, each, folder, numbers)
      rows, taken = rows + frame.height, taken + len(subjects)
      if subjects and store is None:
        opened.enter_context(locks.writing_in(folder.path))
        store = opened.enter_context(open_store(folder))
      if subjects and store is not None:
        for teacher, found in answers.items():
          store.put_all(found, teacher=teacher, times=times[teacher])
        store.add_subjects(subjects)
  if not taken:
    raise InputError(
      f"{path}: none of its {rows:,} annotations is about a user and an item "
      f"of {folder.path}: was that prepared from other reviews?"
    )
  return {"rows": rows, "taken": taken, "elsewhere": rows - taken}


def _read_file(path: pathlib.Path) -> pl.DataFrame:
  """Reads a file of `export_annotations`."""
  frame = parquet.read(
    path, None, remedy="name a Parquet file of `instructrec annotate --export`"
  )
  if "answered_at" not in frame.columns:
    old = [
      (_EPOCH + datetime.timedelta(microseconds=row)).isoformat()
      for row in range(frame.height)
    ]
    frame = frame.with_columns(pl.Series("answered_at", old, pl.String))
  if dict(frame.schema) != _COLUMNS:
    raise InputError(
      f"{path}: not a file of `instructrec annotate --export`; its columns "
      f"must be {', '.join(_COLUMNS)}."
    )
  return frame


def _answers(
  frame: pl.DataFrame,
  path: pathlib.Path,
  folder: DatasetFolder,
  numbers: dict[str, int],
) -> tuple[
  dict[str, list[tuple[ChatRequest, ChatAnswer]]],
  dict[str, list[str]],
  list[Subject],
]:
  """Returns answers and times by teacher, and subjects that are in a folder."""
  answers: dict[str, list[tuple[ChatRequest, ChatAnswer]]] = {}
  times: dict[str, list[str]] = {}
  subjects = []
  for number, row in enumerate(frame.iter_rows(named=True), 1):
    if row["kind"] not in _KINDS or row["position"] is None:
      raise InputError(
        f"{path}, row {number}: the kind {row['kind']!r:.80} at position "
        f"{row['position']}: {' or '.join(_KINDS)} and a number are needed."
      )
    user = numbers.get(row["user_id"])
    if (
      user is None
      or _item_id(folder, {**row, "user_number": user}) != row["item_id"]
    ):
      continue
    try:
      request, answer = _read(row)
    except (ValueError, TypeError) as error:
      raise InputError(f"{path}, row {number}: {error}.") from None
    answers.setdefault(row["teacher"], []).append((request, answer))
    times.setdefault(row["teacher"], []).append(row["answered_at"])
    subjects.append(Subject(row["kind"], user, row["position"], request.key))
  return answers, times, subjects


def _read(row: dict[str, Any]) -> tuple[ChatRequest, ChatAnswer]:
  datetime.datetime.fromisoformat(row["answered_at"])
  for name in ("prompt_tokens", "completion_tokens", "attempts"):
    if row[name] is None or row[name] < 0:
      raise ValueError(f"{name} is {row[name]}, but must be 0 or more")
  if row["answer"] is None:
    raise ValueError("the answer is null")
  names = [field.name for field in dataclasses.fields(ChatRequest)]
  parsed = {name: json.loads(row[name]) for name in ("schema", "parameters")}
  request = ChatRequest(**{name: row[name] for name in names} | parsed)
  return request, ChatAnswer(
    key=request.key,
    status=Status(row["status"]),
    text=row["answer"],
    finish_reason=row["finish_reason"],
    prompt_tokens=row["prompt_tokens"],
    completion_tokens=row["completion_tokens"],
    attempts=row["attempts"],
    error=row["error"],
  )


def _item_id(folder: DatasetFolder, row: dict[str, Any]) -> str | None:
  """Returns the id of a row's item; None if the folder has none there."""
  place = row["position"] - (row["kind"] == "preference")
  items = folder.sequences.user(row["user_number"])
  if not 0 <= place < len(items):
    return None
  return folder.items[int(items[place])].item_id
