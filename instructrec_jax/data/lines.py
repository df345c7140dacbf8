"""Raw files in blocks of rows, and what a row must satisfy.

Files are plain or gzip; broken lines are counted. polars converts a whole block
where that gives what a row-by-row conversion would. Otherwise its rows are
checked one by one, so that messages name the file, the line and the reason.
"""

import contextlib
import csv
import gzip
import io
import itertools
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import polars as pl

from instructrec_jax.data.cleaning import clean_categories, clean_title
from instructrec_jax.errors import InputError
from instructrec_jax.progress import progress

REVIEW_SCHEMA = pl.Schema(
  {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "rating": pl.Float32,
    "summary": pl.String,
    "text": pl.String,
  }
)
ITEM_SCHEMA = pl.Schema(
  {
    "item_id": pl.String,
    "title": pl.String,
    "categories": pl.List(pl.String),
  }
)

_TIME_LIMIT = 1 << 62
_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24
_BLOCK_ROWS = 1 << 15
# So many broken lines before the first good one: a file of another format.
_WRONG_FORMAT = 1000
# Broken lines that are reported one by one.
_SHOWN = 5

Numbered = Iterable[tuple[int, Any]]
"""Pairs of a line number from 1 and what a reader's `convert` takes."""


class BrokenLines:
  """Counts unreadable lines, or raises InputError at the first if `strict`."""

  def __init__(self, *, strict: bool = False):
    self._strict = strict
    self._by_file: dict[str, dict[str, Any]] = {}

  def add(self, path: pathlib.Path, *, line: int, reason: str) -> None:
    """Counts one line, or raises InputError."""
    where = f"{path}:{line}: {reason}"
    if self._strict:
      raise InputError(f"{where}; leave out --strict to skip such lines.")
    found = self._by_file.setdefault(str(path), {"count": 0, "first": []})
    found["count"] += 1
    if found["count"] <= _SHOWN:
      found["first"].append(where)

  def count(self, path: pathlib.Path) -> int:
    """Returns how many lines of a file were broken."""
    return self._by_file.get(str(path), {"count": 0})["count"]

  def as_json(self) -> dict[str, Any]:
    """Returns, for each file that has any, their `count` and the `first`."""
    return self._by_file


@contextlib.contextmanager
def open_input(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a plain or gzip file, by its first bytes, with a progress bar.

  Raises:
    InputError: it is unreadable or (while reading) a damaged gzip file.
  """
  try:
    raw = _WatchedFile(path)
  except OSError as error:
    reason = (error.strerror or str(error)).lower()
    raise InputError(f"{path}: cannot be read ({reason}).") from None
  with raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
    if file.peek(2)[:2] != _GZIP_MAGIC:
      yield file
      return
    try:
      unzipped: Any = gzip.GzipFile(fileobj=file)
      yield io.BufferedReader(unzipped, _BUFFER_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
      raise InputError(
        f"{path}: the gzip file is cut short or corrupt ({error}): fetch it "
        "again."
      ) from None


def line_blocks(path: pathlib.Path) -> Iterator[Numbered]:
  """Yields the lines of blocks of some 16 MiB, without blank lines."""
  with open_input(path) as file:
    first = 1
    while block := file.read(_BLOCK_BYTES):
      block += file.readline()
      lines = enumerate(io.BytesIO(block), first)
      yield ((number, line) for number, line in lines if not line.isspace())
      first += block.count(b"\n")


def numbered_csv_rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
  """Yields (number of the row's last line, fields), header included.

  Raises:
    InputError: the file is not UTF-8 text.
  """
  with open_input(path) as file:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = csv.reader(text)
    try:
      for row in rows:
        if row:
          yield rows.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
      raise InputError(
        f"{path}:{rows.line_num + 1}: not a csv file in UTF-8 ({error})."
      ) from None


def row_blocks(rows: Numbered) -> Iterator[list[tuple[int, Any]]]:
  """Yields lists of some 30,000 rows."""
  iterator = iter(rows)
  while block := list(itertools.islice(iterator, _BLOCK_ROWS)):
    yield block


def frames(
  path: pathlib.Path,
  blocks: Iterable[tuple[pl.DataFrame | None, Numbered]],
  *,
  convert: Callable[[Any], tuple],
  schema: pl.Schema,
  what: str,
  broken: BrokenLines,
) -> Iterator[pl.DataFrame]:
  """Yields a frame for each block of rows.

  Args:
    path: the file, for messages.
    blocks: pairs of the block's frame, None unless all rows are known to be
      good, and of its rows, read only where there is no frame.
    convert: returns one row; its ValueError means that the line is broken.
    schema: of the frames.
    what: what a line should be, for messages.
    broken: where broken lines are counted.

  Raises:
    InputError: there are no rows, or only broken lines at the start.
  """
  good, reason = 0, ""
  for frame, numbered in blocks:
    if frame is None:
      rows: list[tuple] = []
      for number, raw in numbered:
        try:
          rows.append(convert(raw))
        except ValueError as error:
          reason = reason or f"line {number}: {error}"
          broken.add(path, line=number, reason=str(error))
          if not good and not rows and broken.count(path) >= _WRONG_FORMAT:
            break
      columns = zip(*rows, strict=True) if rows else [()] * len(schema)
      frame = pl.DataFrame(
        [
          pl.Series(name, column, dtype=dtype)
          for (name, dtype), column in zip(schema.items(), columns, strict=True)
        ]
      )
    good += frame.height
    yield frame
    if not good and broken.count(path) >= _WRONG_FORMAT:
      break
  if not good:
    raise InputError(
      f"{path}: holds not one {what} ({reason or 'it is empty'}); is it of "
      "another --format, or in the place of the other file?"
    )


def checked_reviews(
  frame: pl.DataFrame, *, time_limit: int = _TIME_LIMIT
) -> pl.DataFrame | None:
  """Returns a frame whose every row `review_row` would accept, else None."""
  times = frame["timestamp"]
  if times.null_count() or not (
    times.is_between(-_TIME_LIMIT, time_limit, closed="none").all()
  ):
    return None
  ids = pl.concat([frame["user_id"], frame["item_id"]]).unique()
  return frame if all(map(_is_id, ids)) else None


def review_row(
  user_id: Any,
  item_id: Any,
  *,
  timestamp: Any,
  rating: Any,
  summary: Any,
  text: Any,
) -> tuple:
  """Checks one review; returns it as a row of `REVIEW_SCHEMA`.

  Raises:
    ValueError: what is wrong with it.
  """
  if not (_is_id(user_id) and _is_id(item_id)):
    raise ValueError("the user or item is not a non-empty string")
  if type(timestamp) not in (int, float) or not abs(timestamp) < _TIME_LIMIT:
    raise ValueError(f"the time {timestamp!r} is not a number")
  if rating is not None and type(rating) not in (int, float):
    raise ValueError(f"the rating {rating!r} is not a number")
  summary = "" if summary is None else summary
  text = "" if text is None else text
  if type(summary) is not str or type(text) is not str:
    raise ValueError("the summary or text is not a string")
  return user_id, item_id, int(timestamp), rating, summary, text


def item_row(item_id: Any, *, title: Any, categories: Any) -> tuple:
  """Checks and cleans one item; returns it as a row of `ITEM_SCHEMA`.

  A title that is absent or not a string becomes "".

  Raises:
    ValueError: what is wrong with it.
  """
  if not _is_id(item_id):
    raise ValueError("the item is not a non-empty string")
  if categories is not None and not isinstance(categories, list | tuple):
    raise ValueError("the categories are not a list")
  title = clean_title(title) if isinstance(title, str) else ""
  return item_id, title, list(clean_categories(categories or ()))


class _WatchedFile(io.FileIO):
  """A file that moves a progress bar as it is read."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path)
    self._bar = progress(
      total=os.fstat(self.fileno()).st_size,
      desc=pathlib.Path(path).name,
      unit="B",
      unit_scale=True,
    )

  def readinto(self, buffer: Any, /) -> int | None:
    count = super().readinto(buffer)
    self._bar.update(count or 0)
    return count

  def close(self) -> None:
    if not self.closed:
      self._bar.close()
    super().close()


def _is_id(value: Any) -> bool:
  return type(value) is str and value != "" and value.isprintable()
