"""Readers of the Amazon review data of 2014, 2018 and 2023.

Reviews are JSON lines in all three. Metadata is JSON lines too, but in 2014,
where each line is a Python dict literal: it is parsed, never evaluated.

Arrow parses blocks of reviews: it refuses numbers and lists where text should
be, half a surrogate pair and a repeated key. What it would take and orjson
would not is looked for, and orjson parses each line of a block that Arrow
refuses. (Not polars, whose reader takes all of these.)

The 2023 release has splits of its own, in benchmark/5core: `last_out` (each
user's last two), `timestamp` (two moments), and both again with each line's
history. Each is three csv files a category, CATEGORY.{train,valid,test}.csv,
of user_id, parent_asin, rating and timestamp, without texts.
"""

import ast
import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow
import pyarrow.json

from instructrec_jax.data import lines
from instructrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class _Keys:
  """A format's names of the fields, and its unit of time."""

  user: str = "reviewerID"
  item: str = "asin"
  time: str = "unixReviewTime"
  ticks_per_second: int = 1
  rating: str = "overall"
  summary: str = "summary"
  text: str = "reviewText"
  categories: str = "categories"
  images: tuple[str, ...] = ("images",)


_KEYS = {
  "amazon2014": _Keys(images=("imUrl",)),
  "amazon2018": _Keys(categories="category", images=("imageURL", "image")),
  "amazon2023": _Keys(
    user="user_id",
    item="parent_asin",
    time="timestamp",
    ticks_per_second=1000,
    rating="rating",
    summary="title",
    text="text",
  ),
}
FORMATS = tuple(_KEYS)
_ARROW_TYPES = (
  pyarrow.string(),
  pyarrow.string(),
  pyarrow.int64(),
  pyarrow.float64(),
  pyarrow.string(),
  pyarrow.string(),
)
# Brackets and braces in a line that cannot be nested too deep for orjson.
_MOST_OPENED = 1000
OFFICIAL_SCHEMA = pl.Schema({**lines.REVIEW_SCHEMA, "phase": pl.Int8})
_OFFICIAL = ("train", "valid", "test")
_OFFICIAL_COLUMNS = ["user_id", "parent_asin", "rating", "timestamp"]
# On files of nothing but broken lines.
_ADVICE = (
  "; one JSON object a line is expected: is it of another --format, or in the "
  "place of the other file?"
)


def read_reviews(
  path: pathlib.Path, *, format: str, broken: lines.BrokenLines
) -> Iterator[pl.DataFrame]:
  """Streams reviews as frames of `lines.REVIEW_SCHEMA`.

  Raises:
    InputError: the file is missing, truncated or of another format.
  """
  keys = _KEYS[format]

  def convert(line: bytes) -> tuple:
    record = _parse_json(line)
    try:
      user, item, time = record[keys.user], record[keys.item], record[keys.time]
    except KeyError as error:
      if keys.user not in record and keys.categories in record:
        raise ValueError("metadata, not a review") from None
      raise ValueError(f"no {error}") from None
    if keys.ticks_per_second != 1:
      time = lines.seconds(time, per_second=keys.ticks_per_second)
    return lines.review_row(
      user,
      item,
      timestamp=time,
      rating=record.get(keys.rating),
      summary=record.get(keys.summary),
      text=record.get(keys.text),
    )

  return lines.frames(
    path,
    lines.converted_ahead(
      lines.line_blocks(path), lambda block: _review_block(block.content, keys)
    ),
    convert=convert,
    schema=lines.REVIEW_SCHEMA,
    what=f"{format} review",
    broken=broken,
    advice=_ADVICE,
  )


def read_items(
  path: pathlib.Path, *, format: str, broken: lines.BrokenLines
) -> Iterator[pl.DataFrame]:
  """Streams metadata as frames of `lines.ITEM_SCHEMA`.

  Raises:
    InputError: the file is missing, truncated or of another format.
  """
  keys = _KEYS[format]
  parse = _parse_literal if format == "amazon2014" else _parse_json

  def convert(line: bytes) -> tuple:
    record = parse(line)
    if keys.item not in record:
      raise ValueError(f"no {keys.item!r}")
    if keys.user in record:
      raise ValueError("a review, not metadata")
    return lines.item_row(
      record[keys.item],
      title=record.get("title"),
      categories=record.get(keys.categories),
      image=_first_image(record, keys.images),
    )

  return lines.frames(
    path,
    ((None, block) for block in lines.line_blocks(path)),
    convert=convert,
    schema=lines.ITEM_SCHEMA,
    what=f"{format} metadata record",
    broken=broken,
    advice=_ADVICE,
  )


def official_files(train: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the files of an official split, by "train", "valid" and "test".

  Args:
    train: the first of them.

  Raises:
    InputError: it is not called so.
  """
  if train.name.count(".train.csv") != 1:
    raise InputError(
      f"--official is {train}: CATEGORY.train.csv (or .csv.gz) of Amazon "
      "2023's benchmark is expected, with those of valid and test beside it."
    )
  return {
    split: train.with_name(train.name.replace(".train.csv", f".{split}.csv"))
    for split in _OFFICIAL
  }


def read_official(
  paths: Sequence[pathlib.Path], *, broken: lines.BrokenLines
) -> Iterator[pl.DataFrame]:
  """Streams an official split as frames of `OFFICIAL_SCHEMA`, without texts.

  Args:
    paths: of training, validation and test; `phase` is the place among these.
    broken: where broken lines are counted.

  Raises:
    InputError: a file is missing, truncated or of another format.
  """
  for phase, path in enumerate(paths):
    rows = lines.numbered_csv_rows(path)
    _, header = next(rows, (0, []))
    if header[: len(_OFFICIAL_COLUMNS)] != _OFFICIAL_COLUMNS:
      raise InputError(
        f"{path}: its first line is {','.join(header)!r:.80}, not "
        f"{','.join(_OFFICIAL_COLUMNS)}: is it of Amazon 2023's benchmark?"
      )

    def convert(
      row: list[str], phase: int = phase, width: int = len(header)
    ) -> tuple:
      if isinstance(row, lines.BrokenRow):
        raise ValueError(row.reason)
      if len(row) != width:
        raise ValueError(f"{len(row)} fields under {width} columns")
      user, item, rating, time = row[: len(_OFFICIAL_COLUMNS)]
      try:
        number, milliseconds = float(rating), int(time)
      except ValueError:
        raise ValueError(
          f"the rating {rating!r:.40} or the time {time!r:.40} is no number"
        ) from None
      review = lines.review_row(
        user,
        item,
        timestamp=lines.seconds(milliseconds, per_second=1000),
        rating=number,
        summary=None,
        text=None,
      )
      return (*review, phase)

    yield from lines.frames(
      path,
      ((None, block) for block in lines.row_blocks(rows)),
      convert=convert,
      schema=OFFICIAL_SCHEMA,
      what="interaction",
      broken=broken,
    )


def with_texts(
  official: Iterable[pl.DataFrame],
  reviews: Iterable[pl.DataFrame],
  counts: dict[str, Any],
) -> Iterator[pl.DataFrame]:
  """Yields an official split with the summaries and texts of reviews.

  Args:
    official: of `read_official`.
    reviews: of `read_reviews`, of the same category.
    counts: gets `without_review`, interactions that have none.

  Raises:
    InputError: no interaction has a review.
  """
  keys = ["user_id", "item_id", "timestamp"]
  frame = pl.concat(list(official)).drop("summary", "text")
  texts = pl.concat(
    [
      block.join(frame, on=keys, how="semi", maintain_order="left").select(
        *keys, "summary", "text"
      )
      for block in reviews
    ]
  ).unique(keys, keep="first", maintain_order=True)
  joined = frame.join(texts, on=keys, how="left", maintain_order="left")
  counts["without_review"] = joined["text"].null_count()
  if counts["without_review"] == joined.height:
    raise InputError(
      f"none of the {joined.height:,} interactions of --official is among "
      "--reviews: are both of one category of Amazon 2023?"
    )
  yield joined.with_columns(pl.col("summary", "text").fill_null("")).select(
    *OFFICIAL_SCHEMA
  )


def _review_block(block: bytes, keys: _Keys) -> pl.DataFrame | None:
  """Returns a block's reviews, or None if each line must be checked."""
  if not _is_of_objects(block):
    return None
  columns = (
    keys.user, keys.item, keys.time, keys.rating, keys.summary, keys.text
  )  # fmt: skip
  try:
    # Orjson refuses what is no UTF-8 in any field.
    block.decode()
    table = pyarrow.json.read_json(
      pyarrow.BufferReader(block),
      read_options=pyarrow.json.ReadOptions(
        use_threads=False, block_size=len(block) + 1
      ),
      parse_options=pyarrow.json.ParseOptions(
        explicit_schema=pyarrow.schema(zip(columns, _ARROW_TYPES, strict=True)),
        unexpected_field_behavior="ignore",
      ),
    )
  except (pyarrow.ArrowException, UnicodeDecodeError):
    return None
  if table.num_rows != block.count(b"\n") + (not block.endswith(b"\n")):
    # There are two objects in a line.
    return None
  frame = pl.from_arrow(table)
  assert isinstance(frame, pl.DataFrame)
  if keys.ticks_per_second != 1:
    time, ticks = pl.col(keys.time), keys.ticks_per_second
    if not frame.select((time >= lines.LEAST_MILLISECONDS).all()).item():
      return None
    frame = frame.with_columns(time // ticks)
  frame = frame.select(
    pl.col(column).cast(dtype).alias(name)
    for column, (name, dtype) in zip(
      columns, lines.REVIEW_SCHEMA.items(), strict=True
    )
  )
  return lines.checked_reviews(
    frame.with_columns(pl.col("summary", "text").fill_null(""))
  )


def _is_of_objects(block: bytes) -> bool:
  """Whether each line is of objects, not nested too deep, without NaN in it.

  A line that ends with a brace and one that begins with one are not of one
  object, as nothing stands between them.
  """
  if not block.startswith(b"{"):
    return False
  content = np.frombuffer(block, np.uint8)
  ends = np.flatnonzero(content == ord("\n"))
  if not block.endswith(b"\n"):
    ends = np.append(ends, len(block))
  # Of "[" and "{", which a bit tells apart.
  opened = np.flatnonzero(content | 0x20 == ord("{"))
  if np.diff(np.searchsorted(opened, ends), prepend=0).max() > _MOST_OPENED:
    return False
  last = content[ends - 1]
  returned = last == ord("\r")
  last[returned] = content[ends[returned] - 2]
  if not (
    (content[ends[:-1] + 1] == ord("{")).all() and (last == ord("}")).all()
  ):
    return False
  for word in (b"NaN", b"Inf"):
    place = block.find(word)
    while place >= 0:
      before = block[max(0, place - 16) : place].rstrip()
      if before[-1:] in (b":", b",", b"[", b"-", b""):
        return False
      place = block.find(word, place + 1)
  return True


def _first_image(record: dict[str, Any], names: Sequence[str]) -> Any:
  """Returns the first of a list, or the only one; 2023 has objects by size."""
  for images in filter(None, map(record.get, names)):
    first = images[0] if isinstance(images, list) else images
    if isinstance(first, dict):
      first = first.get("large") or first.get("thumb")
    return first
  return None


def _parse_json(line: bytes) -> dict[str, Any]:
  try:
    record = orjson.loads(line)
  except orjson.JSONDecodeError as error:
    reason = f"{error.msg}, column {error.colno}"
    try:
      line.decode()
    except UnicodeDecodeError as wrong:
      reason = f"the byte 0x{line[wrong.start]:x} is not UTF-8"
    raise ValueError(f"not JSON ({reason})") from None
  if type(record) is not dict:
    raise ValueError("not a JSON object")
  return record


def _parse_literal(line: bytes) -> dict[str, Any]:
  if b'"' not in line and b"\\" not in line:
    # Then every quote delimits a string, and JSON's parser is 30 times faster.
    with contextlib.suppress(ValueError):
      return _parse_json(line.replace(b"'", b'"'))
  try:
    with warnings.catch_warnings():
      # Titles hold backslashes that are not escapes.
      warnings.simplefilter("ignore")
      record = ast.literal_eval(line.decode())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    # Some mirrors have converted the literals to JSON.
    return _parse_json(line)
  if type(record) is not dict:
    raise ValueError("not a dict")
  return record
