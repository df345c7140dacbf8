"""Readers of a user's own csv or Parquet files, columns named by the user."""

import dataclasses
import datetime
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow
import pyarrow.parquet

from instructrec_jax.data import lines, schema
from instructrec_jax.errors import InputError

FORMATS = ("csv", "parquet")
# Between an item's categories, in a column of strings.
CATEGORY_SEPARATOR = "|"

_TEXT_COLUMNS = ("summary", "text")
_UTC = datetime.UTC
# The year 10000 in Unix time.
_TIME_LIMIT = 253_402_300_800


@dataclasses.dataclass(frozen=True)
class Columns:
  """The names of the columns.

  `rating` and `categories` may be absent if they have these default names;
  review text is taken from columns `summary` and `text`, where there are any.
  """

  user: str = "user_id"
  item: str = "item_id"
  time: str = "timestamp"
  rating: str = "rating"
  title: str = "title"
  categories: str = "categories"


def read_reviews(
  path: pathlib.Path,
  *,
  format: str,
  columns: Columns,
  broken: lines.BrokenLines,
) -> Iterator[pl.DataFrame]:
  """Streams interactions as frames of `schema.REVIEW_SCHEMA`.

  Raises:
    InputError: the file is missing, truncated, of another format, or lacks a
      column.
  """
  wanted = [columns.user, columns.item, columns.time, columns.rating]
  header, rows = _open_table(path, format)
  pick = _Picker(
    path,
    header,
    wanted=[*wanted, *_TEXT_COLUMNS],
    optional={Columns.rating, *_TEXT_COLUMNS},
  )
  return lines.frames(
    path,
    rows,
    convert=lambda row: _review(columns.time, *pick(row)),
    schema=schema.REVIEW_SCHEMA,
    what="interaction",
    broken=broken,
  )


def read_items(
  path: pathlib.Path,
  *,
  format: str,
  columns: Columns,
  broken: lines.BrokenLines,
) -> Iterator[pl.DataFrame]:
  """Streams items as frames of `schema.ITEM_SCHEMA`, titles cleaned.

  Raises:
    InputError: as `read_reviews`.
  """
  header, rows = _open_table(path, format)
  pick = _Picker(
    path,
    header,
    wanted=[columns.item, columns.title, columns.categories],
    optional={Columns.categories},
  )
  return lines.frames(
    path,
    rows,
    convert=lambda row: _item(*pick(row)),
    schema=schema.ITEM_SCHEMA,
    what="item",
    broken=broken,
  )


class _Picker:
  """Takes the wanted fields out of rows; optional ones may be None."""

  def __init__(
    self,
    path: pathlib.Path,
    header: Sequence[str],
    *,
    wanted: Sequence[str],
    optional: set[str],
  ):
    for name in wanted:
      if name not in header and name not in optional:
        raise InputError(
          f"{path}: no column {name!r} among {', '.join(header)}; say with "
          "the --...-column options which one it is."
        )
    self._width = len(header)
    self._places = [
      header.index(name) if name in header else None for name in wanted
    ]

  def __call__(self, row: Sequence[Any]) -> list[Any]:
    if len(row) != self._width:
      raise ValueError(f"{len(row)} fields under {self._width} columns")
    return [None if p is None else row[p] for p in self._places]


def _review(
  time_column: str,
  user: Any,
  item: Any,
  time: Any,
  rating: Any,
  summary: Any,
  text: Any,
) -> tuple:
  timestamp = _number(time)
  if isinstance(timestamp, int | float) and timestamp >= _TIME_LIMIT:
    raise ValueError(
      f"as seconds the {time_column} {time} is after the year 9999: divide "
      "milliseconds by 1000"
    )
  return schema.review_row(
    _text(user),
    _text(item),
    timestamp=timestamp,
    rating=_number(rating),
    summary=summary,
    text=text,
  )


def _item(item: Any, title: Any, categories: Any) -> tuple:
  if isinstance(categories, str):
    categories = categories.split(CATEGORY_SEPARATOR)
  return schema.item_row(_text(item), title=title, categories=categories)


def _text(value: Any) -> str:
  return "" if value is None else str(value)


def _number(value: Any) -> Any:
  """Reads a csv field (empty: None) or a Parquet time (seconds, UTC)."""
  if isinstance(value, datetime.datetime):
    return (value if value.tzinfo else value.replace(tzinfo=_UTC)).timestamp()
  if not isinstance(value, str):
    return value
  if not value.strip():
    return None
  try:
    return int(value)
  except ValueError:
    pass
  try:
    return float(value)
  except ValueError:
    raise ValueError(f"{value!r} is not a number") from None


def _open_table(
  path: pathlib.Path, format: str
) -> tuple[Sequence[str], Iterator[tuple[int, Sequence[Any]]]]:
  """Returns the header and the numbered rows below it."""
  if format == "parquet":
    return _open_parquet(path)
  rows = lines.numbered_csv_rows(path)
  _, header = next(rows, (0, []))
  return header, rows


def _open_parquet(
  path: pathlib.Path,
) -> tuple[Sequence[str], Iterator[tuple[int, Sequence[Any]]]]:
  try:
    file = pyarrow.parquet.ParquetFile(path)
  except FileNotFoundError:
    raise InputError(f"{path}: cannot be read (no such file).") from None
  except (OSError, pyarrow.ArrowException) as error:
    raise InputError(f"{path}: not a Parquet file ({error}).") from None
  rows = itertools.chain.from_iterable(
    zip(*batch.to_pydict().values(), strict=True)
    for batch in file.iter_batches()
  )
  return file.schema_arrow.names, enumerate(rows, 1)
