"""Raw files in blocks of rows, and what a row must satisfy.

Files are plain or gzip; broken lines are counted. What makes a time, an id and
a rating is decided here. polars converts a whole block
where that gives what a row-by-row conversion would. Otherwise its rows are
checked one by one, so that messages name the file, the line and the reason.
"""

import collections
import concurrent.futures
import contextlib
import csv
import dataclasses
import gzip
import io
import itertools
import math
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, BinaryIO

import polars as pl

from instructrec_jax import workers
from instructrec_jax.data.cleaning import clean_categories, clean_title
from instructrec_jax.errors import InputError, check_file
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
    "image": pl.String,
  }
)

_MAX_ADDRESS = 2000
_ADDRESS = re.compile(r"https?://[^\s/\"'<>]+/[^\s\"'<>]+")
# The year 10000 in Unix time.
_TIME_LIMIT = 253_402_300_800
# Milliseconds before 1973 are rather seconds.
LEAST_MILLISECONDS = 100_000_000_000
_RATING_LIMIT = 1e9
_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16 = "text in UTF-16: save it in UTF-8"
# How files begin that are none of ours: what they are, what to do.
_OTHER_FILES = {
  b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as csv",
  b"BZh": "compressed with bzip2: unpack it",
  b"\xfd7zXZ": "compressed with xz: unpack it",
  b"(\xb5/\xfd": "compressed with zstd: unpack it",
  _GZIP_MAGIC: "gzip within gzip: unpack it once",
  b"PAR1": "a Parquet file: pass --format parquet",
  b"SQLite format 3": "an SQLite database: export a table as csv",
  b"\xff\xfe": _UTF16,
  b"\xfe\xff": _UTF16,
  b"<!doctype": "a web page: download the file again",
  b"<html": "a web page: download the file again",
}
_BUFFER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24
_BLOCK_ROWS = 1 << 15
_MOST_THREADS = 8
# Longer lines are another file: one that is a single JSON array, say.
_LINE_LIMIT = 1 << 26
# So many broken lines before the first good one: a file of another format.
_WRONG_FORMAT = 1000
# Broken lines that are reported one by one.
_SHOWN = 5

Numbered = Iterable[tuple[int, Any]]
"""Pairs of a line number from 1 and what a reader's `convert` takes."""
Rows = Callable[[int], None]
"""Shows how many rows have been read."""


@dataclasses.dataclass(frozen=True, slots=True)
class LineBlock:
  """Whole lines of a file; iterates over those that are not blank.

  Attributes:
    first: the number of the first, from 1.
    content: the lines, without a byte order mark.
  """

  first: int
  content: bytes

  def __iter__(self) -> Iterator[tuple[int, bytes]]:
    """Yields pairs of a line's number and the line."""
    lines = enumerate(io.BytesIO(self.content), self.first)
    return ((number, line) for number, line in lines if not line.isspace())


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

  def first(self, path: pathlib.Path) -> str:
    """Returns the line and reason of a file's first, "" if there is none."""
    found = self._by_file.get(str(path), {"first": [""]})
    return found["first"][0].removeprefix(f"{path}:")

  def as_json(self) -> dict[str, Any]:
    """Returns, for each file that has any, their `count` and the `first`."""
    return self._by_file


@contextlib.contextmanager
def open_input(path: pathlib.Path) -> Iterator[tuple[BinaryIO, Rows]]:
  """Opens a plain or gzip file, by its first bytes, with a progress bar.

  The bar counts bytes, as only their number is known; what is yielded beside
  the file shows how many rows these were, and how many a second.

  Raises:
    InputError: it is unreadable, of a known other kind, or (while reading) a
      damaged gzip file.
  """
  check_file(path)
  try:
    with (
      _WatchedFile(path) as raw,
      io.BufferedReader(raw, _BUFFER_BYTES) as file,
    ):
      if file.peek(2)[:2] == _GZIP_MAGIC:
        unzipped: Any = gzip.GzipFile(fileobj=file)
        file = io.BufferedReader(unzipped, _BUFFER_BYTES)
      head = file.peek(512)
      for start, what in _OTHER_FILES.items():
        if head[: len(start)].lower() == start.lower():
          raise InputError(f"{path} is {what}.")
      if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive: unpack it.")
      # Without its mark, every other byte of plain letters is 0.
      is_zero = [head[start:8:2] == b"\0" * 4 for start in (0, 1)]
      if any(is_zero) and not all(is_zero):
        raise InputError(f"{path} is {_UTF16}.")
      yield file, raw.show_rows
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise InputError(
      f"{path}: the gzip file is cut short or corrupt ({error}): fetch it "
      "again."
    ) from None
  except OSError as error:
    reason = (error.strerror or str(error)).lower()
    raise InputError(f"{path}: cannot be read ({reason}).") from None


def line_blocks(path: pathlib.Path) -> Iterator[LineBlock]:
  """Yields blocks of some 16 MiB.

  Raises:
    InputError: as `open_input`, or a line is too long.
  """
  with open_input(path) as (file, show_rows):
    first = 1
    while block := file.read(_BLOCK_BYTES):
      rest = file.readline(_LINE_LIMIT)
      if len(rest) == _LINE_LIMIT:
        number = first + block.count(b"\n")
        raise InputError(
          f"{path}:{number}: a line of more than {_LINE_LIMIT >> 20} MiB; one "
          "JSON object a line is expected."
        )
      if first == 1:
        block = block.removeprefix(_BOM)
      block += rest
      yield LineBlock(first, block)
      first += block.count(b"\n")
      show_rows(first - 1)


def converted_ahead(
  blocks: Iterable[LineBlock],
  convert: Callable[[LineBlock], pl.DataFrame | None],
) -> Iterator[tuple[pl.DataFrame | None, LineBlock]]:
  """Yields each block with what `convert` makes of it, in order.

  As many blocks are converted at once as there are cores, in threads: Arrow
  and polars let go of Python's lock. With more than `_MOST_THREADS` the file is
  not read faster, and blocks fill the memory.
  """
  threads = min(workers.cores(), _MOST_THREADS)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    waiting: collections.deque[tuple[Any, LineBlock]] = collections.deque()
    trouble = None
    try:
      for block in blocks:
        waiting.append((pool.submit(convert, block), block))
        if len(waiting) > threads:
          result, block = waiting.popleft()
          yield result.result(), block
    except InputError as error:
      # What is wrong with the blocks before it is told first.
      trouble = error
    for result, block in waiting:
      yield result.result(), block
    if trouble is not None:
      raise trouble


class BrokenRow(list):
  """Stands for a csv row that cannot be read: no fields, but the reason."""

  def __init__(self, reason: str):
    super().__init__()
    self.reason = reason


def numbered_csv_rows(
  path: pathlib.Path, *, delimiter: Callable[[str], str] = lambda _: ","
) -> Iterator[tuple[int, list[str]]]:
  """Yields (number of the row's first line, fields), header included.

  A quote that is never closed, or that something other than a delimiter
  follows lines later, breaks its own line alone: the lines that it swallowed
  are read again.

  Args:
    path: plain or gzip.
    delimiter: returns it from the first line.

  Raises:
    InputError: as `open_input`.
  """
  with open_input(path) as (file, show_rows):
    text = io.TextIOWrapper(
      file, encoding="utf-8-sig", errors="surrogateescape", newline=""
    )
    # Lines to read, and those of the row that is read.
    ahead: collections.deque[str] = collections.deque()
    taken: list[str] = []
    number, has_ended, mark = 1, False, ""

    def read_on() -> bool:
      block = text.read(_BLOCK_BYTES)
      rest = text.readline(_LINE_LIMIT)
      if len(rest) == _LINE_LIMIT:
        raise InputError(
          f"{path}: a line of more than {_LINE_LIMIT >> 20} million characters "
          "is no row of csv."
        )
      ahead.extend(io.StringIO(block + rest, newline=""))
      show_rows(number - 1)
      return bool(ahead)

    def feed() -> Iterator[str]:
      nonlocal has_ended
      while ahead or read_on():
        taken.append(line := ahead.popleft())
        yield line
      has_ended = True

    while ahead or read_on():
      if not mark:
        mark = delimiter(next(itertools.filterfalse(str.isspace, ahead), ""))
      if _is_plain(ahead):
        for where, row in enumerate(csv.reader(ahead, delimiter=mark), number):
          if row:
            yield where, row
        number += len(ahead)
        ahead.clear()
        continue
      rows = csv.reader(feed(), delimiter=mark)
      while ahead:
        try:
          row, reason = next(rows), ""
        except csv.Error as error:
          row, reason = [], str(error)
        if reason or has_ended or len(taken) > 1:
          reason = reason or _unclosed(taken, mark)
          if reason and (has_ended or len(taken) > 1):
            reason = f'a quote (") is opened and not closed ({reason})'
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
            has_ended, rows = False, csv.reader(feed(), delimiter=mark)
        where = number
        for offset, line in enumerate(taken):
          if byte := _wrong_byte(line):
            reason = f"the byte {byte} is not UTF-8: save the file in UTF-8"
            where = number + offset
            break
        number += len(taken)
        taken.clear()
        if reason:
          yield where, BrokenRow(reason)
        elif row:
          yield where, row


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
  advice: str = ".",
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
    advice: what to do about a file of nothing but broken lines.

  Raises:
    InputError: there are no rows, or only broken lines at the start.
  """
  good = 0
  for frame, numbered in blocks:
    if frame is None:
      rows: list[tuple] = []
      for number, raw in numbered:
        try:
          rows.append(convert(raw))
        except (ValueError, RecursionError) as error:
          is_deep = isinstance(error, RecursionError)
          reason = "nested too deep" if is_deep else str(error)
          broken.add(path, line=number, reason=reason)
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
    first = broken.first(path)
    reason = f"line {first}" if first else "there is nothing in it"
    raise InputError(
      f"{path}: holds not one {what} ({reason}){advice if first else '.'}"
    )


def checked_reviews(frame: pl.DataFrame) -> pl.DataFrame | None:
  """Returns a frame whose every row `review_row` would accept, else None."""
  times, ratings = frame["timestamp"], frame["rating"]
  if times.null_count() or not (
    times.is_between(0, _TIME_LIMIT, closed="left").all()
    and (ratings.abs() < _RATING_LIMIT).all()
  ):
    return None
  ids = pl.concat([frame["user_id"], frame["item_id"]])
  if ids.null_count():
    return None
  # What is not of plain ASCII is looked at one by one.
  others = ids.filter(~ids.str.contains("^[!-~]+$")).unique()
  return frame if all(map(_is_id, others)) else None


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
  _check_id("user", user_id)
  _check_id("item", item_id)
  timestamp = seconds(timestamp)
  if rating is not None:
    if type(rating) not in (int, float) or abs(rating) >= _RATING_LIMIT:
      raise ValueError(f"the rating {rating!r:.80} is not a number")
    if math.isnan(rating):
      rating = None
  summary = "" if summary is None else summary
  text = "" if text is None else text
  if type(summary) is not str or type(text) is not str:
    raise ValueError("the summary or text is not a string")
  return user_id, item_id, timestamp, rating, summary, text


def seconds(time: Any, *, per_second: int = 1) -> int:
  """Returns a time in whole seconds since 1970.

  Args:
    time: a number.
    per_second: its unit: 1, or 1000 for milliseconds.

  Raises:
    ValueError: it is no number, or not between 1970 (1973 in milliseconds)
      and the year 9999.
  """
  if time is None:
    raise ValueError("there is no time")
  if type(time) not in (int, float) or not abs(time) < math.inf:
    raise ValueError(f"the time {time!r:.80} is no number of seconds")
  unit = "seconds" if per_second == 1 else "milliseconds"
  smaller = "milliseconds" if per_second == 1 else "microseconds"
  if time < 0:
    raise ValueError(f"the time {time!r:.80} is before 1970")
  if time >= _TIME_LIMIT * per_second:
    raise ValueError(
      f"as {unit} the timestamp {time!r:.80} is after the year 9999: divide "
      f"{smaller} by 1000"
    )
  if per_second == 1000 and time < LEAST_MILLISECONDS:
    raise ValueError(
      f"as milliseconds the timestamp {time!r} is before 1973: multiply "
      "seconds by 1000"
    )
  return int(time // per_second)


def item_row(
  item_id: Any, *, title: Any, categories: Any, image: Any = None
) -> tuple:
  """Checks and cleans one item; returns it as a row of `ITEM_SCHEMA`.

  A title that is absent or not a string becomes "", as does what is no web
  address of an image.

  Raises:
    ValueError: what is wrong with it.
  """
  _check_id("item", item_id)
  if categories is not None and not isinstance(categories, list | tuple):
    raise ValueError("the categories are not a list")
  title = clean_title(title) if isinstance(title, str) else ""
  categories = list(clean_categories(categories or ()))
  return item_id, title, categories, image_address(image)


def image_address(image: Any) -> str:
  """Returns an image's address on the web; "" if it is none."""
  if not isinstance(image, str) or len(image) > _MAX_ADDRESS:
    return ""
  return image.strip() if _ADDRESS.fullmatch(image.strip()) else ""


class _WatchedFile(io.FileIO):
  """A file that moves a progress bar as it is read."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path)
    self._start = monotonic()
    self._bar = progress(
      total=os.fstat(self.fileno()).st_size,
      desc=pathlib.Path(path).name,
      unit="B",
      unit_scale=True,
    )

  def show_rows(self, count: int) -> None:
    """Shows rows and their rate beside the bytes."""
    passed = max(monotonic() - self._start, 1e-3)
    self._bar.set_postfix_str(
      f"{count:,} rows, {count / passed:,.0f} a second", refresh=False
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
  return type(value) is str and value.isprintable() and value.strip() != ""


def _check_id(name: str, value: Any) -> None:
  if not _is_id(value):
    raise ValueError(
      f"the {name} {value!r:.80} is not a string"
      if type(value) is not str
      else f"the {name} {value!r:.80} has invisible characters"
      if value.strip()
      else f"the {name} is empty"
    )


def _is_plain(lines: Sequence[str]) -> bool:
  """Whether each line is a row, and none is broken, for all that csv asks."""
  text = "".join(lines)
  is_short = max(map(len, lines)) <= csv.field_size_limit()
  return is_short and '"' not in text and not _wrong_byte(text)


def _unclosed(lines: list[str], delimiter: str) -> str:
  """Returns what is wrong with the quotes of a row's lines, or nothing."""
  try:
    list(csv.reader(lines, strict=True, delimiter=delimiter))
  except csv.Error as error:
    return str(error)
  return ""


def _wrong_byte(line: str) -> str:
  """Returns the first byte of a text that was no UTF-8, as 0xff, or nothing."""
  try:
    # For ASCII this is a copy.
    line.encode()
  except UnicodeEncodeError as error:
    return f"0x{ord(line[error.start]) - 0xDC00:x}"
  return ""
