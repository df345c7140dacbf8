"""The columns that every reader yields, and what a row must satisfy."""

from typing import Any

import polars as pl

from instructrec_jax.data import cleaning
from instructrec_jax.data.categories import clean_categories

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
  }
)

_TIME_LIMIT = 1 << 62


def review_row(
  user_id: Any,
  item_id: Any,
  *,
  timestamp: Any,
  rating: Any = None,
  summary: Any = None,
  text: Any = None,
) -> tuple:
  """Checks one review; returns it as a row of `REVIEW_SCHEMA`.

  Raises:
    ValueError: what is wrong with it.
  """
  if not (_is_id(user_id) and _is_id(item_id)):
    raise ValueError("the user or item is not a non-empty string")
  if type(timestamp) not in (int, float) or not abs(timestamp) < _TIME_LIMIT:
    raise ValueError(f"the time {timestamp!r} is not a number")
  if rating is not None and type(rating) not in (int, float):
    raise ValueError(f"the rating {rating!r} is not a number")
  summary = "" if summary is None else summary
  text = "" if text is None else text
  if type(summary) is not str or type(text) is not str:
    raise ValueError("the summary or text is not a string")
  return user_id, item_id, int(timestamp), rating, summary, text


def item_row(item_id: Any, *, title: Any, categories: Any = None) -> tuple:
  """Checks and cleans one item; returns it as a row of `ITEM_SCHEMA`.

  A title that is absent or not a string becomes "".

  Raises:
    ValueError: what is wrong with it.
  """
  if not _is_id(item_id):
    raise ValueError("the item is not a non-empty string")
  if categories is not None and not isinstance(categories, list | tuple):
    raise ValueError("the categories are not a list")
  title = cleaning.clean_title(title) if isinstance(title, str) else ""
  return item_id, title, list(clean_categories(categories or ()))


def _is_id(value: Any) -> bool:
  return type(value) is str and value != "" and value.isprintable()
