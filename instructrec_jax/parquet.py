"""Parquet files that our own commands wrote, read and checked with polars."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow.parquet

from instructrec_jax.errors import InputError, check_file

# What polars raises on damaged bytes; a panic is no Exception of Python's.
_DAMAGED = (
  OSError,
  ValueError,
  pl.exceptions.PolarsError,
  pl.exceptions.PanicException,
)

# Of a block.
_ROWS = 1 << 16


def read(
  path: pathlib.Path, columns: Mapping[str, Any] | None, *, remedy: str
) -> pl.DataFrame:
  """Reads the columns named, in this order, or all as they are.

  Args:
    path: the file.
    columns: each with its kind: int (of any width), float or str without
      nulls, `[int]` or `[str]` for lists of them, or None for any.
    remedy: what to do about a damaged file, to end its sentence.

  Raises:
    InputError: the file is missing, damaged or of another form.
  """
  _check(path, remedy)
  names = None if columns is None else list(columns)
  try:
    there = _schema(path)
    for name in names or ():
      if name not in there:
        raise InputError(f"{path}: it has no column {name}: {remedy}.")
    frame = pl.read_parquet(path, columns=names, glob=False)
  except _DAMAGED as error:
    raise _error(path, error, remedy) from None
  for name, kind in (columns or {}).items():
    column = frame[name]
    if kind is None:
      continue
    is_list = isinstance(column.dtype, pl.List)
    flat = column.explode(empty_as_null=False) if is_list else column
    (inner,) = kind if isinstance(kind, list) else (kind,)
    fits = {
      int: flat.dtype.is_integer(),
      float: flat.dtype.is_float(),
      str: flat.dtype == pl.String,
    }
    fits_list = is_list == isinstance(kind, list)
    nulls = column.null_count() + flat.null_count()
    if not fits_list or not fits[inner] or nulls:
      raise InputError(
        f"{path}: the column {name} is of {column.dtype} with {nulls:,} nulls, "
        f"which is not what is written there: {remedy}."
      )
  return frame if names is None else frame.select(names)


def blocks(
  path: pathlib.Path, columns: Sequence[str], *, remedy: str
) -> Iterator[pl.DataFrame]:
  """Yields the columns of some rows at a time, in their order.

  Raises:
    InputError: as `read`; blocks before a damaged one were yielded by then.
  """
  _check(path, remedy)
  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      for name in columns:
        if name not in file.schema_arrow.names:
          raise InputError(f"{path}: it has no column {name}: {remedy}.")
      for batch in file.iter_batches(_ROWS, columns=[*columns]):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame.select(columns)
  except (*_DAMAGED, pyarrow.ArrowException) as error:
    raise _error(path, error, remedy) from None


def metadata(path: pathlib.Path, *, remedy: str) -> dict[str, str]:
  """Reads the texts that a file's writer put into its footer.

  Raises:
    InputError: the file is missing or damaged.
  """
  _check(path, remedy)
  try:
    return pl.read_parquet_metadata(path)
  except _DAMAGED as error:
    raise _error(path, error, remedy) from None


def columns(path: pathlib.Path, *, remedy: str) -> list[str]:
  """Reads the names of a file's columns; raises as `metadata` does."""
  _check(path, remedy)
  try:
    return list(_schema(path))
  except _DAMAGED as error:
    raise _error(path, error, remedy) from None


def _schema(path: pathlib.Path) -> Mapping[str, Any]:
  # Of an open file: of a name polars takes brackets for a pattern.
  with path.open("rb") as file:
    return pl.read_parquet_schema(file)


def _check(path: pathlib.Path, remedy: str) -> None:
  """Raises InputError if there is no such file, or a pipe in its place."""
  if not path.exists():
    raise InputError(f"{path}: no such file: {remedy}.")
  check_file(path)


def _error(path: pathlib.Path, error: BaseException, remedy: str) -> InputError:
  reason = (str(error).splitlines() or [type(error).__name__])[0]
  return InputError(
    f"{path}: not a Parquet file, or damaged ({reason}): {remedy}."
  )
