"""Ranking requests on disk: Parquet, or a user's own JSON lines.

Only the columns `instruction` and `candidates` are required; the others are the
optional fields of `records.RankingRequest`.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from instructrec_jax import storage
from instructrec_jax.errors import InputError, check_file
from instructrec_jax.records import RankingRequest

COLUMNS = tuple(field.name for field in dataclasses.fields(RankingRequest))
_BATCH_ROWS = 2048
_LINE_LIMIT = 1 << 28
# More are searched (`instructrec ask`), not listed.
_MOST_CANDIDATES = 1_000_000
_NUMBERS = 1 << 31
# Letters and signs, as Unicode has it, that show nothing.
_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"


def read_requests(
  path: pathlib.Path,
  *,
  limit: int | None = None,
  needs_candidates: bool = True,
) -> Iterator[RankingRequest]:
  """Streams requests from a .parquet or .jsonl file.

  Args:
    path: the file.
    limit: only the first so many.
    needs_candidates: whether a request without candidates is refused; one to
      be answered freely has none.

  Raises:
    InputError: the file is missing or of another type, a row is not a valid
      request, or a request id comes twice; the message names the row or line.
  """
  path = pathlib.Path(path)
  rows = _read_jsonl(path) if _is_jsonl(path) else _read_parquet(path)
  # Hashes, as a file may have any number of rows.
  seen: set[int] = set()
  for number, (where, row) in enumerate(itertools.islice(rows, limit)):
    if not needs_candidates and isinstance(row, dict):
      # Any will do: they are not read.
      row = {**row, "candidates": row.get("candidates") or ["-"]}
    request = _parse(row, where=where, number=number)
    seen.add(hash(request.request_id))
    if len(seen) == number:
      raise InputError(
        f"{where}: the `request_id` {request.request_id!r:.80} is another "
        "request's, too: give each its own, or leave the column out."
      )
    yield request


def count_requests(path: pathlib.Path) -> int:
  """Returns the number of requests in a file."""
  path = pathlib.Path(path)
  if _is_jsonl(path):
    return sum(1 for line in _lines(path) if line.strip())
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
  check_file(path)
  if path.suffix not in (".jsonl", ".parquet"):
    raise InputError(
      f"{path}: requests are read from .parquet or .jsonl files, by suffix."
    )
  return path.suffix == ".jsonl"


def _lines(path: pathlib.Path) -> Iterator[bytes]:
  with path.open("rb") as file:
    while line := file.readline(_LINE_LIMIT):
      if len(line) == _LINE_LIMIT:
        raise InputError(
          f"{path}: a line of more than {_LINE_LIMIT >> 20} MiB; one object a "
          "line is expected."
        )
      yield line


def _read_jsonl(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Yields (place for error messages, row), as `_read_parquet` does."""
  for number, line in enumerate(_lines(path), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
      raise InputError(
        f"{path}, line {number}: not JSON ({getattr(error, 'msg', error)}); "
        "one object a line is expected."
      ) from None
    yield f"{path}, line {number}", row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  row = dict(pairs)
  if len(row) < len(pairs):
    raise ValueError("a key comes twice")
  return row


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
  """Makes what pyarrow says of a file an InputError."""
  import pyarrow as pa

  try:
    yield
  except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(
      f"{path}: not a Parquet file, or truncated or damaged ({reason})."
    ) from None


def _open_parquet(path: pathlib.Path):
  import pyarrow.parquet as pq

  with _told(path):
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
  if len(set(names)) < len(names):
    raise InputError(f"{path}: two of its columns have the same name.")
  return file


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  file = _open_parquet(path)
  with _told(path):
    batches = file.iter_batches(batch_size=_BATCH_ROWS)
    rows = itertools.chain.from_iterable(b.to_pylist() for b in batches)
    for number, row in enumerate(rows, start=1):
      yield f"{path}, row {number}", row


def _parse(row: Any, *, where: str, number: int) -> RankingRequest:
  """Checks one row; each mistake has a sentence of its own."""
  if not isinstance(row, dict):
    raise InputError(f"{where}: an object with instruction and candidates.")
  if unknown := row.keys() - set(COLUMNS):
    raise InputError(
      f"{where}: unknown column {min(unknown)!r:.80}; known are "
      f"{', '.join(COLUMNS)}."
    )
  instruction, candidates = row.get("instruction"), row.get("candidates")
  if not isinstance(instruction, str) or not _shows(instruction):
    raise InputError(f"{where}: `instruction` must be a text, and not empty.")
  if not isinstance(candidates, list) or not candidates:
    raise InputError(
      f"{where}: `candidates` must be a list of at least one text."
    )
  if len(candidates) > _MOST_CANDIDATES:
    raise InputError(
      f"{where}: {len(candidates):,} candidates; at most {_MOST_CANDIDATES:,} "
      "are ranked."
    )
  # Most begin with a letter or digit.
  if not all(
    isinstance(c, str) and ("0" <= c[:1] <= "z" or _shows(c))
    for c in candidates
  ):
    raise InputError(f"{where}: a candidate is empty or no text.")
  query = row.get("query") or ""
  if not isinstance(query, str):
    raise InputError(f"{where}: `query` is {query!r:.80}, but must be a text.")
  request_id = row.get("request_id")
  if request_id is None:
    request_id = str(number + 1)
  elif type(request_id) is int:
    request_id = str(request_id)
  elif not isinstance(request_id, str) or not request_id.strip():
    raise InputError(
      f"{where}: `request_id` is {request_id!r:.80}, but must be a text or a "
      "whole number."
    )
  said = row.get("said") or ""
  if not isinstance(said, str):
    raise InputError(f"{where}: `said` is {said!r:.80}, but must be a text.")
  for text in (instruction, *candidates, query, said, request_id):
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
      f"{where}: `target` is {target!r:.80}, but must be an index into the "
      f"{len(candidates)} candidates, from 0."
    )
  if user is not None and not _are_numbers([user]):
    raise InputError(
      f"{where}: `user` is {user!r:.80}, but must be a number from 0."
    )
  for name in ("history_items", "candidate_items"):
    items = row.get(name) or []
    if not isinstance(items, list) or not _are_numbers(items):
      raise InputError(f"{where}: `{name}` must be a list of item numbers.")
  items = row.get("candidate_items") or ()
  if items and len(items) != len(candidates):
    raise InputError(
      f"{where}: {len(items)} candidate_items for {len(candidates)} candidates."
    )
  return RankingRequest(
    request_id=request_id,
    instruction=instruction,
    candidates=tuple(candidates),
    target=target,
    user=user,
    history_items=tuple(row.get("history_items") or ()),
    candidate_items=tuple(items),
    query=query,
    said=said,
  )


def _shows(text: str) -> bool:
  """Whether a text has a sign to see: no characters of no width alone."""
  categories = (unicodedata.category(c) for c in text if c not in _FILLERS)
  return any(name[0] in "LNPS" or name == "Cs" for name in categories)


def _are_numbers(items: list[Any]) -> bool:
  return not items or (
    {*map(type, items)} == {int} and 0 <= min(items) <= max(items) < _NUMBERS
  )
