"""Ranking requests on disk: Parquet, or a user's own JSON lines.

Only the columns `instruction` and `candidates` are required; the others are the
optional fields of `records.RankingRequest`.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest

COLUMNS = tuple(field.name for field in dataclasses.fields(RankingRequest))
_BATCH_ROWS = 2048


def read_requests(
  path: pathlib.Path, *, limit: int | None = None
) -> Iterator[RankingRequest]:
  """Streams requests from a .parquet or .jsonl file.

  Raises:
    InputError: the file is missing or of another type, or a row is not a valid
      request; the message names the row or line.
  """
  path = pathlib.Path(path)
  rows = _read_jsonl(path) if _is_jsonl(path) else _read_parquet(path)
  for number, (where, row) in enumerate(itertools.islice(rows, limit)):
    yield _parse(row, where=where, number=number)


def count_requests(path: pathlib.Path) -> int:
  """Returns the number of requests in a file."""
  path = pathlib.Path(path)
  if _is_jsonl(path):
    with path.open("rb") as file:
      return sum(1 for line in file if line.strip())
  return _open_parquet(path).metadata.num_rows


def write_requests(
  path: pathlib.Path,
  requests: Iterable[RankingRequest],
  *,
  metadata: Mapping[str, str] | None = None,
) -> int:
  """Writes a Parquet file atomically; returns the number of rows."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  string, number = pa.string(), pa.int32()
  types = {
    "request_id": string,
    "instruction": string,
    "candidates": pa.list_(string),
    "target": number,
    "user": number,
    "history_items": pa.list_(number),
    "candidate_items": pa.list_(number),
    "query": string,
  }
  schema = pa.schema(list(types.items()), metadata=dict(metadata or {}))
  count = 0
  requests = iter(requests)
  with storage.staged_file(pathlib.Path(path)) as partial:
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
      while batch := list(itertools.islice(requests, _BATCH_ROWS)):
        columns = {
          name: [getattr(request, name) for request in batch] for name in types
        }
        writer.write_table(pa.table(columns, schema=schema))
        count += len(batch)
  return count


def _is_jsonl(path: pathlib.Path) -> bool:
  if not path.is_file():
    raise InputError(f"{path}: no such file of requests.")
  if path.suffix not in (".jsonl", ".parquet"):
    raise InputError(
      f"{path}: requests are read from .parquet or .jsonl files, by suffix."
    )
  return path.suffix == ".jsonl"


def _read_jsonl(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Yields (place for error messages, row), as `_read_parquet` does."""
  with path.open("rb") as file:
    for number, line in enumerate(file, start=1):
      if not line.strip():
        continue
      try:
        row = json.loads(line)
      except ValueError:
        raise InputError(
          f"{path}, line {number}: not JSON; one object a line is expected."
        ) from None
      yield f"{path}, line {number}", row


def _open_parquet(path: pathlib.Path):
  import pyarrow.parquet as pq

  try:
    return pq.ParquetFile(path)
  except (OSError, ValueError) as error:
    raise InputError(
      f"{path}: not a Parquet file, or truncated ({error})."
    ) from None


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  batches = _open_parquet(path).iter_batches(batch_size=_BATCH_ROWS)
  count = 0
  while True:
    try:
      batch = next(batches, None)
      rows = batch.to_pylist() if batch is not None else []
    except (OSError, ValueError, ArithmeticError) as error:
      reason = str(error).partition("\n")[0]
      raise InputError(
        f"{path}: damaged after row {count} ({reason})."
      ) from None
    if batch is None:
      return
    for row in rows:
      count += 1
      yield f"{path}, row {count}", row


def _parse(row: Any, *, where: str, number: int) -> RankingRequest:
  """Checks one row; each mistake has a sentence of its own."""
  if not isinstance(row, dict):
    raise InputError(f"{where}: an object with instruction and candidates.")
  if unknown := row.keys() - set(COLUMNS):
    raise InputError(
      f"{where}: unknown column {min(unknown)!r}; known are "
      f"{', '.join(COLUMNS)}."
    )
  instruction, candidates = row.get("instruction"), row.get("candidates")
  if not isinstance(instruction, str) or not instruction.strip():
    raise InputError(f"{where}: `instruction` must be a text, and not empty.")
  if not isinstance(candidates, list) or not candidates:
    raise InputError(
      f"{where}: `candidates` must be a list of at least one text."
    )
  if not all(isinstance(c, str) and c.strip() for c in candidates):
    raise InputError(f"{where}: a candidate is empty or no text.")
  query = row.get("query") or ""
  if not isinstance(query, str):
    raise InputError(f"{where}: `query` is {query!r}, but must be a text.")
  for text in (instruction, *candidates, query):
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise InputError(
        f"{where}: {text[error.start : error.end]!r} is half of a character, "
        "as where a title was cut within an emoji: leave it out."
      ) from None
  target, user = row.get("target"), row.get("user")
  in_range = type(target) is int and 0 <= target < len(candidates)
  if target is not None and not in_range:
    raise InputError(
      f"{where}: `target` is {target!r}, but must be an index into the "
      f"{len(candidates)} candidates, from 0."
    )
  if user is not None and type(user) is not int:
    raise InputError(f"{where}: `user` is {user!r}, but must be a number.")
  for name in ("history_items", "candidate_items"):
    items = row.get(name) or []
    if not isinstance(items, list) or any(type(i) is not int for i in items):
      raise InputError(f"{where}: `{name}` must be a list of item numbers.")
  items = row.get("candidate_items") or ()
  if items and len(items) != len(candidates):
    raise InputError(
      f"{where}: {len(items)} candidate_items for {len(candidates)} candidates."
    )
  request_id = row.get("request_id")
  return RankingRequest(
    request_id=str(number + 1) if request_id is None else str(request_id),
    instruction=instruction,
    candidates=tuple(candidates),
    target=target,
    user=user,
    history_items=tuple(row.get("history_items") or ()),
    candidate_items=tuple(items),
    query=query,
  )
