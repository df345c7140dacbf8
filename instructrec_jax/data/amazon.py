"""Readers of the Amazon review data of 2014, 2018 and 2023.

Reviews are JSON lines in all three. Metadata is JSON lines too, but in 2014,
where each line is a Python dict literal: it is parsed, never evaluated.

orjson, not polars, parses lines: polars' reader takes numbers and lists as
text, half a surrogate pair as a character and the first of repeated keys, and
is no faster once a block is searched for these.
"""

import ast
import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import orjson
import polars as pl

from instructrec_jax.data import lines


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


_KEYS = {
  "amazon2014": _Keys(),
  "amazon2018": _Keys(categories="category"),
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
    ((None, block) for block in lines.line_blocks(path)),
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
