"""Reviews on disk while `prepare` decides which of them stay.

Texts are most of a review, and only the order of ids and times decides what
stays. So the first pass keeps numbers in memory and writes the rest here, to
one file for every range of users, in the order of the input; the second reads
one range after the other, and sorts no more than a piece of it at a time.
Users are numbered as they first appear, so the ranges are in the order in which
interactions.parquet has them.
"""

import concurrent.futures
import itertools
import pathlib
import shutil
from collections.abc import Iterator
from typing import Self

import numpy as np
import polars as pl
import pyarrow.ipc
from jaxtyping import Int32, Int64

# Of which each has one file.
_USERS = 1 << 13
# What waits in memory until it is dealt to the files.
_WAITING_BYTES = 1 << 26
# Rows that are sorted at once; a file is read again for each piece of it.
_PIECE = 1 << 17
_OPTIONS = pyarrow.ipc.IpcWriteOptions(compression="lz4")


class ReviewStore:
  """Rows of a frame by their users, written once and read once, sorted.

  A context, in which its files are there.
  """

  def __init__(self, folder: pathlib.Path):
    """An empty store.

    Args:
      folder: where the files will be; there must be none of the name.
    """
    self._folder = folder
    self._waiting: list[pl.DataFrame] = []
    self._bytes = 0
    self._rows = 0
    self._writer = concurrent.futures.ThreadPoolExecutor(1)
    self._written: concurrent.futures.Future[None] | None = None

  def __enter__(self) -> Self:
    """Makes the folder."""
    self._folder.mkdir()
    return self

  def __exit__(self, *_: object) -> None:
    """Removes the folder."""
    self._writer.shutdown(cancel_futures=True)
    shutil.rmtree(self._folder)

  def add(self, frame: pl.DataFrame, users: Int32[np.ndarray, " rows"]) -> None:
    """Appends rows; they are numbered from 0 over all calls.

    Args:
      frame: of the same columns in each call.
      users: the user number of each row.
    """
    rows = np.arange(self._rows, self._rows + len(users))
    self._rows += len(users)
    self._waiting.append(frame.with_columns(_row=rows, _file=users // _USERS))
    self._bytes += int(frame.estimated_size())
    if self._bytes >= _WAITING_BYTES:
      self._flush()

  def _flush(self) -> None:
    """Has a thread write what waits, and waits for what it wrote before."""
    if self._written is not None:
      self._written.result()
    if self._waiting:
      self._written = self._writer.submit(self._write, self._waiting)
      self._waiting, self._bytes = [], 0

  def sorted(
    self,
    place: Int32[np.ndarray, " rows"] | Int64[np.ndarray, " rows"],
    users: Int32[np.ndarray, " kept"],
  ) -> Iterator[pl.DataFrame]:
    """Yields the rows that stay, in the order of their places.

    Args:
      place: where each row goes, or -1: the places are 0 to the number of rows
        that stay, rising with the user.
      users: the user number of each place.
    """
    self._flush()
    self._flush()
    last = int(users[-1]) // _USERS if len(users) else -1
    ends = np.searchsorted(users, np.arange(1, last + 2) * _USERS)
    start = 0
    for number, end in enumerate(ends.tolist()):
      for first in range(start, end, _PIECE):
        yield self._piece(number, place, first, min(first + _PIECE, end))
      start = end
      self._path(number).unlink(missing_ok=True)

  def _piece(
    self, number: int, place: np.ndarray, first: int, end: int
  ) -> pl.DataFrame:
    """Returns a file's rows whose places are from `first` to `end`."""
    parts, places = [], []
    for frame in self._read(number):
      own = place[frame["_row"].to_numpy()]
      wanted = (own >= first) & (own < end)
      parts.append(frame.drop("_row").filter(pl.Series(wanted)))
      places.append(own[wanted])
    order = np.argsort(np.concatenate(places))
    return pl.concat(parts)[order]

  def _write(self, frames: list[pl.DataFrame]) -> None:
    """Deals rows to the files of their users."""
    frame = pl.concat(frames)
    numbers = frame["_file"].to_numpy()
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    frame = frame.drop("_file")[order]
    for start, end in itertools.pairwise([*starts.tolist(), len(order)]):
      table = frame[start:end].to_arrow()
      # Opened for each: there may be more files than a process may hold open.
      with (
        open(self._path(int(numbers[order[start]])), "ab") as file,
        pyarrow.ipc.new_stream(file, table.schema, options=_OPTIONS) as stream,
      ):
        stream.write_table(table)

  def _read(self, number: int) -> Iterator[pl.DataFrame]:
    """Yields what was written to a file, a frame for each time."""
    with open(self._path(number), "rb") as file:
      while file.peek(1):
        with pyarrow.ipc.open_stream(file) as stream:
          table = stream.read_all()
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        yield frame

  def _path(self, number: int) -> pathlib.Path:
    return self._folder / f"reviews_{number}.arrow"
