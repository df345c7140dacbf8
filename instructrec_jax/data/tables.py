"""Readers of a user's own csv or Parquet files, columns named by the user.

Headers with types, as RecBole's atomic files have them (`user_id:token`), are
read by their bare names.
"""

import dataclasses
import datetime
import functools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow
import pyarrow.parquet

from instructrec_jax.data import lines
from instructrec_jax.errors import InputError, check_file, read_number

FORMATS = ("csv", "parquet")

# What a header is tried with, if no delimiter is named; the comma first.
_DELIMITERS = ",\t;|"
_RECBOLE_TYPE = re.compile(r":(token|float)(_seq)?$")
# By a table's option: the roles of its columns, those that it needs first.
_ROLES = {
  "interactions": ("user", "item", "time", "rating", "summary", "text"),
  "items": ("item", "title", "categories", "image"),
}
_NEEDED = {"interactions": 3, "items": 2}
_OPTIONAL = ("rating", "categories", "image_url", "summary", "text")
# Arrow's types that a role may have.
_TEXT = (pyarrow.types.is_string, pyarrow.types.is_large_string)
_NUMBER = (pyarrow.types.is_integer, pyarrow.types.is_floating)
_KINDS = {
  "text": _TEXT,
  "text or whole numbers": (*_TEXT, *_NUMBER),
  "numbers": (*_TEXT, *_NUMBER, pyarrow.types.is_decimal),
  "numbers or times": (
    *(*_TEXT, *_NUMBER, pyarrow.types.is_decimal),
    *(pyarrow.types.is_timestamp, pyarrow.types.is_date),
  ),
  "text or lists of text": _TEXT,
}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# Of ISO 8601 what shops and databases write.
_DATE = re.compile(
  r"(\d{4}-\d\d-\d\d)"
  r"(?:[ T]((?:[01]\d|2[0-3]):\d\d(?::\d\d(?:[.,]\d+)?)?)"
  r" ?(Z|UTC|[+-]\d\d(?::?\d\d)?)?)?",
  re.ASCII,
)
# What polars reads as `_time` does, a block at once.
_DATES = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-5][0-9])?$"
# What pyarrow raises where a file is not what it says.
_DAMAGED = (
  OSError,
  ValueError,
  ArithmeticError,
  MemoryError,
  pyarrow.ArrowException,
)
_KIND_OF = {
  "user": "text or whole numbers",
  "item": "text or whole numbers",
  "time": "numbers or times",
  "rating": "numbers",
  "categories": "text or lists of text",
}


@dataclasses.dataclass(frozen=True)
class Columns:
  """The names of the columns, and how csv separates what stands in them.

  `rating`, `categories` and `image` may be absent if they have these default
  names;
  review text is taken from columns `summary` and `text`, where there are any.

  Attributes:
    delimiter: a character or "tab"; None for the one that the header shows.
    category_separator: between an item's categories, in a column of text.
  """

  user: str = "user_id"
  item: str = "item_id"
  time: str = "timestamp"
  rating: str = "rating"
  title: str = "title"
  categories: str = "categories"
  image: str = "image_url"
  delimiter: str | None = None
  category_separator: str = "|"

  def __post_init__(self):
    """Raises InputError where a name or a character cannot be used."""
    for table in _ROLES:
      roles: dict[str, str] = {}
      for role, name in self.of(table).items():
        if not isinstance(name, str) or not name.strip():
          raise InputError(f"--{role}-column is {name!r}: a name is needed.")
        if (other := roles.setdefault(name, role)) != role:
          raise InputError(
            f"the column {name!r} is to be the {other} and the {role}: each "
            "needs a column of its own."
          )
    mark = "\t" if self.delimiter == "tab" else self.delimiter
    if mark is not None and mark != "\t":
      if len(mark) != 1 or mark.isalnum() or mark in '"\r\n\0':
        raise InputError(
          f"the delimiter is {mark!r}: one character, no letter, digit or "
          "quote, or the word tab is needed."
        )
    if not self.category_separator:
      raise InputError("the category separator is empty: name a character.")

  def of(self, table: str) -> dict[str, str]:
    """Returns the columns of "interactions" or of "items", by role."""
    return {role: getattr(self, role, role) for role in _ROLES[table]}


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
  width, places, rows = _open_table(path, format, columns, "interactions")

  def convert(row: Sequence[Any]) -> tuple:
    user, item, time, rating, summary, text = _fields(row, width, places)
    return lines.review_row(
      _id(user),
      _id(item),
      timestamp=_time(time),
      rating=_number("rating", rating),
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
  width, places, rows = _open_table(path, format, columns, "items")

  def convert(row: Sequence[Any]) -> tuple:
    item, title, categories, image = _fields(row, width, places)
    if isinstance(categories, str):
      categories = categories.split(columns.category_separator)
    return lines.item_row(
      _id(item), title=title, categories=categories, image=image
    )

  return lines.frames(
    path,
    ((None, block) for block in lines.row_blocks(rows)),
    convert=convert,
    schema=lines.ITEM_SCHEMA,
    what="item",
    broken=broken,
  )


def _open_table(
  path: pathlib.Path, format: str, columns: Columns, table: str
) -> tuple[int, list[int | None], Iterator[tuple[int, Sequence[Any]]]]:
  """Returns the width of rows, where each role stands, and numbered rows."""
  if format == "parquet":
    return _open_parquet(path, columns, table)
  # Not polars: it fills up short rows and refuses quotes inside a field.
  delimiter = functools.partial(_delimiter, columns=columns, table=table)
  rows = lines.numbered_csv_rows(path, delimiter=delimiter)
  number, header = next(rows, (0, []))
  if isinstance(header, lines.BrokenRow):
    raise InputError(f"{path}:{number}: no header: {header.reason}.")
  return len(header), _places(path, header, columns, table), rows


def _open_parquet(
  path: pathlib.Path, columns: Columns, table: str
) -> tuple[int, list[int | None], Iterator[tuple[int, Sequence[Any]]]]:
  check_file(path)
  try:
    file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    schema = file.schema_arrow
  except _DAMAGED as error:
    raise InputError(
      f"{path}: not a Parquet file ({_first_line(error)})."
    ) from None
  places = _places(path, schema.names, columns, table)
  present = []
  for role, place in zip(_ROLES[table], places, strict=True):
    if place is not None:
      _check_type(path, schema.field(place), role)
      present.append(schema.names[place])
  found = iter(range(len(present)))
  places = [None if place is None else next(found) for place in places]

  def rows() -> Iterator[tuple[Any, ...]]:
    try:
      for batch in file.iter_batches(columns=present):
        values = [_plain(batch.column(name)).to_pylist() for name in present]
        yield from zip(*values, strict=True)
    except _DAMAGED as error:
      raise InputError(
        f"{path}: damaged, or of values that cannot be read "
        f"({_first_line(error)}): write it again."
      ) from None

  return len(present), places, enumerate(rows(), 1)


def _places(
  path: pathlib.Path, header: Sequence[str], columns: Columns, table: str
) -> list[int | None]:
  """Returns where the roles' columns are; `_OPTIONAL` ones may be absent."""
  names = [name.strip() for name in header]
  bare = [_RECBOLE_TYPE.sub("", name) for name in names]
  if not any(names):
    raise InputError(f"{path}: it is empty; a header and rows are expected.")
  places: list[int | None] = []
  for role, name in columns.of(table).items():
    known = names if name in names else bare
    if known.count(name) > 1:
      raise InputError(
        f"{path}: {known.count(name)} columns are called {name!r}: rename or "
        "remove all but one."
      )
    if name not in known and name not in _OPTIONAL:
      raise InputError(
        f"{path}: no column {name!r} among {_listed(names)}; "
        f"{_advice(names, bare, role, columns, table)}."
      )
    places.append(known.index(name) if name in known else None)
  return places


def _advice(
  names: Sequence[str],
  bare: Sequence[str],
  role: str,
  columns: Columns,
  table: str,
) -> str:
  """Returns what to do about a missing column."""
  (other,) = _ROLES.keys() - {table}
  if set(columns.of(other).values()) - {*_OPTIONAL} <= {*names, *bare}:
    return f"these are the columns of --{other}: name the file of {table}"
  if len(names) == 1:
    return (
      "name the character between columns with --delimiter, or the column with "
      f"--{role}-column"
    )
  return f"name it with --{role}-column"


def _delimiter(header: str, *, columns: Columns, table: str) -> str:
  """Returns the delimiter that is named, or that a header shows."""
  if columns.delimiter:
    return "\t" if columns.delimiter == "tab" else columns.delimiter
  wanted = [*columns.of(table).values()][: _NEEDED[table]]
  for delimiter in _DELIMITERS:
    names = {name.strip().strip('"') for name in header.split(delimiter)}
    bare = {_RECBOLE_TYPE.sub("", name) for name in names}
    if names | bare >= {*wanted}:
      return delimiter
  return max(_DELIMITERS, key=header.count)


def _listed(names: Sequence[str]) -> str:
  """Names columns, but not thousands, nor a whole file that is one line."""
  shown = [f"{name:.40}" for name in names[:12]]
  more = [f"{len(names) - 12} more"] if len(names) > 12 else []
  return repr(", ".join([*shown, *more]))[1:-1]


def _check_type(path: pathlib.Path, field: pyarrow.Field, role: str) -> None:
  expected = _KIND_OF.get(role, "text")
  kind = field.type
  while "lists" in expected and (
    pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
  ):
    kind = kind.value_type
  if pyarrow.types.is_dictionary(kind):
    kind = kind.value_type
  checks = (*_KINDS[expected], pyarrow.types.is_null)
  if not any(check(kind) for check in checks):
    raise InputError(
      f"{path}: the column {field.name!r} is of type {field.type}, not of "
      f"{expected}."
    )


def _plain(column: pyarrow.Array) -> pyarrow.Array:
  """Returns times in seconds (without a zone they are UTC), and no decimals."""
  kind = column.type
  if pyarrow.types.is_date(kind):
    kind = pyarrow.timestamp("s")
    column = column.cast(kind)
  if pyarrow.types.is_timestamp(kind):
    column = column.cast(pyarrow.timestamp("s", kind.tz), safe=False)
    return column.cast(pyarrow.int64())
  if pyarrow.types.is_decimal(kind):
    return column.cast(pyarrow.float64())
  return column


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _fields(
  row: Sequence[Any], width: int, places: Sequence[int | None]
) -> list[Any]:
  if isinstance(row, lines.BrokenRow):
    raise ValueError(row.reason)
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
    if time.dtype == pl.String and time.str.contains(_DATES).all():
      time = (time + " 00:00:00").str.slice(0, 19).str.replace("T", " ")
      time = time.str.to_datetime("%Y-%m-%d %H:%M:%S").dt.epoch("s")
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
    frame.with_columns(
      pl.col("summary", "text").fill_null(""), pl.col("rating").fill_nan(None)
    )
  )


def _id(value: Any) -> Any:
  """Returns an id as text; floats stand for numbers in columns with gaps."""
  if type(value) is float and value.is_integer():
    value = int(value)
  return str(value) if type(value) is int else "" if value is None else value


def _number(name: str, value: Any) -> Any:
  """Reads a csv field; an empty one is None."""
  if not isinstance(value, str):
    return value
  if not value.strip():
    return None
  try:
    try:
      return read_number(value, int)
    except ValueError:
      return read_number(value)
  except ValueError:
    raise ValueError(f"the {name} {value!r:.80} is no number") from None


def _time(value: Any) -> Any:
  """Reads a field with seconds, or a date as seconds; without a zone, UTC."""
  try:
    return _number("time", value)
  except ValueError:
    pass
  found = _DATE.fullmatch(value.strip())
  try:
    day, clock, zone = found.groups() if found else ("", "", "")
    zone = "Z" if zone in (None, "UTC") else zone
    # Not the text itself: fromisoformat misreads what it takes beside dates.
    date = datetime.datetime.fromisoformat(f"{day}T{clock or '00:00'}{zone}")
  except ValueError:
    raise ValueError(
      f"the time {value!r:.80} is no number of seconds and no date such as "
      "2021-08-11 or 2021-08-11 00:56:54"
    ) from None
  return (date - _EPOCH) // datetime.timedelta(seconds=1)
