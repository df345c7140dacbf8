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

from instructrec_jax.data import lines
from instructrec_jax.errors import InputError

FORMATS = ("csv", "parquet")
# Between an item's categories, in a column of strings.
CATEGORY_SEPARATOR = "|"

_TEXT_COLUMNS = ("summary", "text")
_OPTIONAL = ("rating", "categories", *_TEXT_COLUMNS)
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
  """Streams interactions as frames of `lines.REVIEW_SCHEMA`.

  Raises:
    InputError: the file is missing, truncated, of another format, or lacks a
      column.
  """
  header, rows = _open_table(path, format)
  wanted = (columns.user, columns.item, columns.time, columns.rating)
  width, places = len(header), _places(path, header, (*wanted, *_TEXT_COLUMNS))

  def convert(row: Sequence[Any]) -> tuple:
    user, item, time, rating, summary, text = _fields(row, width, places)
    timestamp = _number(time)
    if isinstance(timestamp, int | float) and timestamp >= _TIME_LIMIT:
      raise ValueError(
        f"as seconds the {columns.time} {time} is after the year 9999: divide "
        "milliseconds by 1000"
      )
    return lines.review_row(
      "" if user is None else str(user),
      "" if item is None else str(item),
      timestamp=timestamp,
      rating=_number(rating),
      summary=summary,
      text=text,
    )

  return lines.frames(
    path,
    (
      (_review_block(block, width, places), block)
      for block in lines.row_blocks(rows)
    ),
    convert=convert,
    schema=lines.REVIEW_SCHEMA,
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
  """Streams items as frames of `lines.ITEM_SCHEMA`, titles cleaned.

  Raises:
    InputError: as `read_reviews`.
  """
  header, rows = _open_table(path, format)
  wanted = (columns.item, columns.title, columns.categories)
  width, places = len(header), _places(path, header, wanted)

  def convert(row: Sequence[Any]) -> tuple:
    item, title, categories = _fields(row, width, places)
    if isinstance(categories, str):
      categories = categories.split(CATEGORY_SEPARATOR)
    item = "" if item is None else str(item)
    return lines.item_row(item, title=title, categories=categories)

  return lines.frames(
    path,
    ((None, block) for block in lines.row_blocks(rows)),
    convert=convert,
    schema=lines.ITEM_SCHEMA,
    what="item",
    broken=broken,
  )


def _open_table(
  path: pathlib.Path, format: str
) -> tuple[Sequence[str], Iterator[tuple[int, Sequence[Any]]]]:
  """Returns the header and the numbered rows below it."""
  if format == "csv":
    # Not polars: it fills up short rows and refuses quotes inside a field.
    rows = lines.numbered_csv_rows(path)
    return next(rows, (0, []))[1], rows
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


def _places(
  path: pathlib.Path, header: Sequence[str], wanted: Sequence[str]
) -> list[int | None]:
  """Returns where the wanted columns are; `_OPTIONAL` ones may be absent."""
  for name in wanted:
    if name not in header and name not in _OPTIONAL:
      raise InputError(
        f"{path}: no column {name!r} among {', '.join(header)}; say with "
        "the --...-column options which one it is."
      )
  return [header.index(name) if name in header else None for name in wanted]


def _fields(
  row: Sequence[Any], width: int, places: Sequence[int | None]
) -> list[Any]:
  if len(row) != width:
    raise ValueError(f"{len(row)} fields under {width} columns")
  return [None if p is None else row[p] for p in places]


def _review_block(
  rows: Sequence[tuple[int, Sequence[Any]]],
  width: int,
  places: Sequence[int | None],
) -> pl.DataFrame | None:
  """Returns a block's reviews, or None if a row has to be checked by itself."""
  if any(len(fields) != width for _, fields in rows):
    return None
  values = list(zip(*(fields for _, fields in rows), strict=True))
  absent = [None] * len(rows)
  try:
    user, item, time, rating, summary, text = (
      pl.Series(absent if place is None else values[place]) for place in places
    )
    # Other types, such as a Parquet file's times, are left to the row's check.
    if not all(
      c.dtype == pl.String or c.dtype.is_integer() for c in (user, item, time)
    ) or not all(c.dtype in (pl.String, pl.Null) for c in (summary, text)):
      return None
    if rating.dtype == pl.String:
      rating = rating.replace("", None).cast(pl.Float64)
    elif not (rating.dtype.is_numeric() or rating.dtype == pl.Null):
      return None
    columns = (user, item, time, rating, summary, text)
    frame = pl.DataFrame(
      [
        column.cast(dtype).alias(name)
        for column, (name, dtype) in zip(
          columns, lines.REVIEW_SCHEMA.items(), strict=True
        )
      ]
    )
  except (pl.exceptions.PolarsError, TypeError):
    return None
  return lines.checked_reviews(
    frame.with_columns(pl.col(_TEXT_COLUMNS).fill_null("")),
    time_limit=_TIME_LIMIT,
  )


def _number(value: Any) -> Any:
  """Reads a csv field (empty: None) or a Parquet time (seconds, UTC)."""
  if isinstance(value, datetime.datetime):
    return (
      value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    ).timestamp()
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
