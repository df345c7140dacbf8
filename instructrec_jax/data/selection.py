"""Selects items and interactions: titled, without repeats, k-core.

The functions fill in `counts`, which the manifest keeps.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int32, Int64

from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The interactions that stay, sorted by user and time.

  Attributes:
    rows: their rows in the frame of reviews.
    users: user numbers, in order of first appearance in the input.
    items: item numbers, in order of the catalogue as read.
    catalogue: the row in the frame of items of each item number.
    from_end: how many items the user had later.
  """

  rows: Int64[np.ndarray, " interactions"]
  users: Int32[np.ndarray, " interactions"]
  items: Int32[np.ndarray, " interactions"]
  catalogue: Int64[np.ndarray, " items"]
  from_end: Int64[np.ndarray, " interactions"]

  def sequences(
    self, mask: Bool[np.ndarray, " interactions"] | slice = slice(None)
  ) -> Sequences:
    """Returns all or some of the items, by user."""
    return Sequences.from_columns(
      users=self.users[mask],
      items=self.items[mask],
      num_users=int(self.users[-1]) + 1,
    )


def read_items(
  frames: Iterable[pl.DataFrame], counts: dict[str, Any]
) -> pl.DataFrame:
  """Reads the items that have a title, each once, with its row as `item`.

  Args:
    frames: of `lines.ITEM_SCHEMA`.
    counts: gets `items`.

  Raises:
    InputError: none has a title.
  """
  frame = pl.concat(list(frames))
  titled = frame.filter(pl.col("title") != "")
  unique = titled.unique("item_id", keep="first", maintain_order=True)
  counts["items"] = {
    "read": frame.height,
    "without_title": frame.height - titled.height,
    "repeated": titled.height - unique.height,
  }
  if not unique.height:
    raise InputError(
      f"none of the {frame.height:,} items has a title, a text with a letter "
      "or digit outside of HTML tags: is this the file of items, and "
      "--title-column (of csv and Parquet) the title?"
    )
  return unique.with_row_index("item")


def read_reviews(
  frames: Iterable[pl.DataFrame], items: pl.DataFrame, counts: dict[str, Any]
) -> pl.DataFrame:
  """Reads the reviews of titled items, with the item's row as `item`.

  Args:
    frames: of `lines.REVIEW_SCHEMA`.
    items: what `read_items` returned.
    counts: gets `reviews` and `of_items_without_title`.

  Raises:
    InputError: there are none.
  """
  numbers = items.select("item_id", "item")
  read, kept, first = 0, [], ""
  for frame in frames:
    read += frame.height
    first = first or next(iter(frame["item_id"]), "")
    kept.append(
      frame.join(numbers, on="item_id", maintain_order="left").drop("item_id")
    )
  reviews = pl.concat(kept)
  counts["reviews"] = read
  counts["of_items_without_title"] = read - reviews.height
  if not reviews.height:
    raise InputError(
      f"none of the {read:,} reviews is of an item with a title: do the two "
      f"files belong together? The first review is of {first!r:.80}, the first "
      f"item is {items['item_id'][0]!r:.80}."
    )
  return reviews


def select(
  reviews: pl.DataFrame, *, min_count: int, counts: dict[str, Any]
) -> Chosen:
  """Orders by time, drops repeats, and takes the k-core.

  Args:
    reviews: what `read_reviews` returned.
    min_count: the k of k-core.
    counts: gets `repeats`, `k_core_rounds` (interactions left after each) and
      `below_k_core`.

  Raises:
    InputError: nothing is left, or one item.
  """
  users = _numbers(reviews["user_id"])
  items = reviews["item"].to_numpy().astype(np.int64)
  # Equal times stay in input order.
  rows = np.lexsort((reviews["timestamp"].to_numpy(), users))
  rows = rows[first_of_repeats(users=users[rows], items=items[rows])]
  counts["repeats"] = reviews.height - len(rows)
  kept, counts["k_core_rounds"] = k_core(
    users=users[rows], items=items[rows], count=min_count
  )
  counts["below_k_core"] = len(rows) - len(kept)
  if not len(kept):
    raise InputError(
      f"nothing is left of {len(rows):,} interactions after the {min_count}-"
      "core: lower --min-count."
    )
  rows = rows[kept]
  _, users, lengths = np.unique(
    users[rows], return_inverse=True, return_counts=True
  )
  catalogue, items = np.unique(items[rows], return_inverse=True)
  if len(catalogue) < 2:
    raise InputError(
      f"all {len(rows):,} interactions left are with one item: there is "
      "nothing to rank it among. Is --item-column the right one?"
    )
  return Chosen(
    rows=rows,
    users=users.astype(np.int32),
    items=items.astype(np.int32),
    catalogue=catalogue,
    from_end=np.cumsum(lengths)[users] - 1 - np.arange(len(rows)),
  )


def _numbers(ids: pl.Series) -> Int64[np.ndarray, " rows"]:
  """Numbers distinct ids in order of first appearance."""
  seen = ids.unique(maintain_order=True).to_frame().with_row_index("number")
  numbered = ids.to_frame().join(seen, on=ids.name, maintain_order="left")
  return numbered["number"].to_numpy().astype(np.int64)


def k_core(
  *,
  users: Int[np.ndarray, " interactions"],
  items: Int[np.ndarray, " interactions"],
  count: int,
) -> tuple[Int64[np.ndarray, " kept"], list[int]]:
  """Keeps the largest set where each user and item has `count` interactions.

  Each round removes the interactions of all users and all items that have too
  few; removing one at a time, in any order, ends at the same set.

  Args:
    users: user number of each interaction.
    items: item number of each interaction.
    count: the k of k-core; 0 and 1 keep everything.

  Returns:
    The indices of the interactions that stay, ascending, and how many are left
    after each round.
  """
  kept = np.arange(len(users))
  rounds: list[int] = []
  while True:
    by_user, by_item = users[kept], items[kept]
    enough = np.bincount(by_user)[by_user] >= count
    enough &= np.bincount(by_item)[by_item] >= count
    if enough.all():
      return kept, rounds
    kept = kept[enough]
    rounds.append(len(kept))


def first_of_repeats(
  *,
  users: Int[np.ndarray, " interactions"],
  items: Int[np.ndarray, " interactions"],
) -> Int64[np.ndarray, " kept"]:
  """Returns the index of the first of each (user, item) pair, ascending."""
  pairs = users.astype(np.int64) * (items.max(initial=0) + 1) + items
  _, first = np.unique(pairs, return_index=True)
  return np.sort(first)
