"""Raw files as streams of rows: plain or gzip, broken lines counted."""

import contextlib
import csv
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import polars as pl
import tqdm

from instructrec_jax.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER_BYTES = 1 << 20
_FRAME_ROWS = 1 << 15
# This many broken lines and not one good one: the file is something else.
_WRONG_FORMAT = 1000
# Broken lines that are told one by one.
_SHOWN = 5


class BrokenLines:
  """Counts lines that cannot be read, or stops at the first if `strict`."""

  def __init__(self, *, strict: bool = False):
    self._strict = strict
    self._by_file: dict[str, dict[str, Any]] = {}

  def add(self, path: pathlib.Path, *, line: int, reason: str) -> None:
    """Counts one line.

    Raises:
      InputError: the reading is strict.
    """
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
  """Opens a plain or gzip file, told apart by its first bytes.

  Shows a progress bar over the bytes on disk.

  Raises:
    InputError: the file is missing or unreadable, or (while reading) is a
      gzip file that is cut short or corrupt.
  """
  try:
    raw = _WatchedFile(path)
  except OSError as error:
    reason = (error.strerror or str(error)).lower()
    raise InputError(f"{path}: cannot be read ({reason}).") from None
  with raw, io.BufferedReader(raw, _BUFFER_BYTES) as file:
    zipped = file.peek(2)[:2] == _GZIP_MAGIC
    if not zipped:
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


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
  """Yields (line number from 1, line), without blank lines."""
  with open_input(path) as file:
    for number, line in enumerate(file, 1):
      if not line.isspace():
        yield number, line


def numbered_csv_rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
  """Yields (number of the row's last line, fields), header included.

  Raises:
    InputError: the file is no UTF-8 text.
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


def frames(
  path: pathlib.Path,
  numbered: Iterable[tuple[int, Any]],
  *,
  convert: Callable[[Any], tuple],
  schema: pl.Schema,
  what: str,
  broken: BrokenLines,
) -> Iterator[pl.DataFrame]:
  """Yields the rows that `convert` makes, in frames of some 30,000.

  Args:
    path: the file, for messages.
    numbered: pairs of a line number and what `convert` takes.
    convert: returns one row; its ValueError means that the line is broken.
    schema: of the frames.
    what: what a line should be, for messages.
    broken: where broken lines are counted.

  Raises:
    InputError: there are no rows, or nothing but broken lines at the start.
  """
  rows: list[tuple] = []
  good, reason = 0, ""
  for number, raw in numbered:
    try:
      rows.append(convert(raw))
    except ValueError as error:
      reason = reason or f"line {number}: {error}"
      broken.add(path, line=number, reason=str(error))
      if not good and not rows and broken.count(path) >= _WRONG_FORMAT:
        break
    if len(rows) == _FRAME_ROWS:
      good += len(rows)
      yield _frame(rows, schema)
      rows = []
  if not good and not rows:
    raise InputError(
      f"{path}: holds not one {what} ({reason or 'it is empty'}); is it of "
      "another --format, or in the place of the other file?"
    )
  if rows:
    yield _frame(rows, schema)


class _WatchedFile(io.FileIO):
  """A file that moves a progress bar as it is read."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path)
    self._bar = tqdm.tqdm(
      total=os.fstat(self.fileno()).st_size,
      desc=pathlib.Path(path).name,
      unit="B",
      unit_scale=True,
      disable=None,
    )

  def readinto(self, buffer: Any, /) -> int | None:
    count = super().readinto(buffer)
    self._bar.update(count or 0)
    return count

  def close(self) -> None:
    if not self.closed:
      self._bar.close()
    super().close()


def _frame(rows: list[tuple], schema: pl.Schema) -> pl.DataFrame:
  columns = zip(*rows, strict=True)
  return pl.DataFrame(
    [
      pl.Series(name, column, dtype=dtype)
      for (name, dtype), column in zip(schema.items(), columns, strict=True)
    ]
  )
