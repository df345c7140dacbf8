"""Ranking requests on disk: Parquet, or a user's own JSON lines.

Of the columns only `instruction` and `candidates` are needed; the rest are
those of `records.RankingRequest`.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest

COLUMNS = (
  "request_id",
  "instruction",
  "candidates",
  "target",
  "user",
  "history_items",
  "candidate_items",
  "query",
)
_ROWS_AT_ONCE = 2048


def read_requests(
  path: pathlib.Path, *, limit: int | None = None
) -> Iterator[RankingRequest]:
  """Streams requests from a .parquet or .jsonl file.

  Raises:
    InputError: the file is missing or of another kind, or a row of it is no
      request; the message names the row or line.
  """
  path = pathlib.Path(path)
  rows = _read_jsonl(path) if _is_jsonl(path) else _read_parquet(path)
  for number, (where, row) in enumerate(rows):
    if limit is not None and number >= limit:
      return
    yield _request(row, where=where, number=number)


def count_requests(path: pathlib.Path) -> int:
  """Returns how many requests a file has.

  Raises:
    InputError: the file is missing or of another kind.
  """
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
  """Writes a Parquet file, whole or not at all; returns the number of rows."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  texts, items = pa.list_(pa.string()), pa.list_(pa.int32())
  kinds = (
    pa.string(),
    pa.string(),
    texts,
    pa.int32(),
    pa.int32(),
    items,
    items,
    pa.string(),
  )
  schema = pa.schema(
    list(zip(COLUMNS, kinds, strict=True)), metadata=dict(metadata or {})
  )
  count = 0
  with storage.staged_file(pathlib.Path(path)) as partial:
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
      for chunk in _chunks(requests):
        columns = {
          name: [getattr(request, name) for request in chunk]
          for name in COLUMNS
        }
        writer.write_table(pa.table(columns, schema=schema))
        count += len(chunk)
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
  number = 0
  for batch in _open_parquet(path).iter_batches(batch_size=_ROWS_AT_ONCE):
    for row in batch.to_pylist():
      number += 1
      yield f"{path}, row {number}", row


def _request(row: Any, *, where: str, number: int) -> RankingRequest:
  """Checks one row; every wrong one gets its own sentence."""
  if not isinstance(row, dict):
    raise InputError(f"{where}: an object with instruction and candidates.")
  unknown = row.keys() - set(COLUMNS)
  if unknown:
    raise InputError(
      f"{where}: unknown column {sorted(unknown)[0]!r}; known are "
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
  _check_unicode(instruction, *candidates, where=where)
  target = row.get("target")
  if target is not None and not _is_index(target, len(candidates)):
    raise InputError(
      f"{where}: `target` is {target!r}, but must count into the "
      f"{len(candidates)} candidates from 0."
    )
  _check_numbers(row, where=where)
  items = row.get("candidate_items") or ()
  if items and len(items) != len(candidates):
    raise InputError(
      f"{where}: {len(items)} candidate_items for {len(candidates)} candidates."
    )
  query = row.get("query") or ""
  if not isinstance(query, str):
    raise InputError(f"{where}: `query` is {query!r}, but must be a text.")
  _check_unicode(query, where=where)
  request_id = row.get("request_id")
  return RankingRequest(
    request_id=str(number + 1) if request_id is None else str(request_id),
    instruction=instruction,
    candidates=tuple(candidates),
    target=target,
    user=row.get("user"),
    history_items=tuple(row.get("history_items") or ()),
    candidate_items=tuple(items),
    query=query,
  )


def _check_unicode(*texts: str, where: str) -> None:
  for text in texts:
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise InputError(
        f"{where}: {text[error.start : error.end]!r} is half of a character, "
        "as where a title was cut within an emoji: leave it out."
      ) from None


def _check_numbers(row: dict[str, Any], *, where: str) -> None:
  user = row.get("user")
  if user is not None and type(user) is not int:
    raise InputError(f"{where}: `user` is {user!r}, but must be a number.")
  for name in ("history_items", "candidate_items"):
    items = row.get(name) or []
    if not isinstance(items, list) or any(type(i) is not int for i in items):
      raise InputError(f"{where}: `{name}` must be a list of item numbers.")


def _is_index(value: Any, size: int) -> bool:
  return type(value) is int and 0 <= value < size


def _chunks(requests: Iterable[RankingRequest]) -> Iterator[list]:
  chunk = []
  for request in requests:
    chunk.append(request)
    if len(chunk) == _ROWS_AT_ONCE:
      yield chunk
      chunk = []
  if chunk:
    yield chunk
