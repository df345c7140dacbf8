"""Where reviews and items come from: one source, whatever the format."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import polars as pl

from instructrec_jax.data import amazon, lines, schema, tables
from instructrec_jax.errors import InputError

FORMATS = (*amazon.FORMATS, *tables.FORMATS, "synthetic")


@dataclasses.dataclass(frozen=True)
class Source:
  """Raw data, not read yet.

  Attributes:
    reviews: frames of `schema.REVIEW_SCHEMA`.
    items: frames of `schema.ITEM_SCHEMA`.
    inputs: the files, by the name of their option.
    planted: how a synthetic shop was made.
  """

  reviews: Iterator[pl.DataFrame]
  items: Iterator[pl.DataFrame]
  inputs: dict[str, pathlib.Path]
  planted: dict[str, Any] | None = None


def open_source(
  *,
  format: str,
  files: dict[str, pathlib.Path | None],
  columns: tables.Columns,
  users: int,
  seed: int,
  broken: lines.BrokenLines,
) -> Source:
  """Returns the source of one format.

  Args:
    format: one of `FORMATS`.
    files: `reviews` and `metadata` for Amazon's formats, `interactions` and
      `items` for csv and Parquet, none for a synthetic shop.
    columns: of csv and Parquet.
    users: of a synthetic shop.
    seed: of a synthetic shop.
    broken: where broken lines are counted.

  Raises:
    InputError: the format is unknown, or needs other files.
  """
  if format in amazon.FORMATS:
    inputs = _need(files, ("reviews", "metadata"), format)
    read = functools.partial(amazon.read_reviews, format=format, broken=broken)
    read_items = functools.partial(
      amazon.read_items, format=format, broken=broken
    )
  elif format in tables.FORMATS:
    inputs = _need(files, ("interactions", "items"), format)
    options = {"format": format, "columns": columns, "broken": broken}
    read = functools.partial(tables.read_reviews, **options)
    read_items = functools.partial(tables.read_items, **options)
  elif format == "synthetic":
    _need(files, (), format)
    return _synthetic(users=users, seed=seed)
  else:
    raise InputError(
      f"there is no format {format!r}: name one of {', '.join(FORMATS)}."
    )
  reviews, items = inputs.values()
  return Source(reviews=read(reviews), items=read_items(items), inputs=inputs)


def _need(
  files: dict[str, pathlib.Path | None], names: tuple[str, ...], format: str
) -> dict[str, pathlib.Path]:
  """Returns the named files; refuses others."""
  given = {name: pathlib.Path(path) for name, path in files.items() if path}
  if set(given) != set(names):
    wanted = " and ".join(f"--{name}" for name in names) or "no files"
    raise InputError(f"--format {format} needs {wanted}, and nothing else.")
  return {name: given[name] for name in names}


def _synthetic(*, users: int, seed: int) -> Source:
  from instructrec_jax.data.synthetic import synthetic_shop

  shop = synthetic_shop(users=users, seed=seed)
  reviews = pl.DataFrame(
    list(map(dataclasses.asdict, shop.reviews)), schema=schema.REVIEW_SCHEMA
  )
  rows = [
    schema.item_row(i.item_id, title=i.title, categories=i.categories)
    for i in shop.items
  ]
  items = pl.DataFrame(rows, schema=schema.ITEM_SCHEMA, orient="row")
  return Source(
    reviews=iter([reviews]),
    items=iter([items]),
    inputs={},
    planted=shop.planted,
  )
