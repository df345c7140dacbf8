"""Selects items and interactions: titled, without repeats, k-core.

The functions fill in `counts`, which the manifest keeps.

Times of many sources are days, and a user often buys several items in one. The
order of the file must not settle which of them comes last: Amazon's files list
equal times by rising item id, and newer items have higher ids, so the last
place would favour some items. A seeded hash of user and item settles it.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int32, Int64

from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError

# What a manifest says of equal times; folders without it kept the file's order.
TIES = "by the SHA-256 of seed, user and item"
# Where the times are none; their source has settled its ties, and tells none.
POSITIONS = "as the source numbers them, which tells no times"


@dataclasses.dataclass(frozen=True)
class Ordered:
  """Interactions without repeats, sorted by user and time.

  Attributes:
    rows: their rows in the frame of reviews.
    users: user numbers, in order of first appearance in the input.
    items: rows in the frame of items.
  """

  rows: Int64[np.ndarray, " interactions"]
  users: Int64[np.ndarray, " interactions"]
  items: Int64[np.ndarray, " interactions"]

  @property
  def sequences(self) -> Sequences:
    """Returns the items, by user."""
    return Sequences.from_columns(
      users=self.users.astype(np.int32),
      items=self.items.astype(np.int32),
      num_users=int(self.users[-1]) + 1,
    )


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The interactions that stay, sorted by user and time.

  Attributes:
    rows: their rows in the frame of reviews.
    users: user numbers, in order of first appearance in the input.
    items: item numbers, in order of the catalogue as read.
    catalogue: the row in the frame of items of each item number.
    phases: 0 where it trains, 1 in validation, 2 in the test; all 0 where each
      user's end is held out.
    from_end: how many items of its phase 0 the user had later; below 0 in the
      phases after it.
  """

  rows: Int64[np.ndarray, " interactions"]
  users: Int32[np.ndarray, " interactions"]
  items: Int32[np.ndarray, " interactions"]
  catalogue: Int64[np.ndarray, " items"]
  phases: Int[np.ndarray, " interactions"]
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


def in_time_order(
  reviews: pl.DataFrame,
  catalogue: pl.DataFrame,
  *,
  seed: int,
  counts: dict[str, Any],
) -> Ordered:
  """Orders by time, and drops what a user had before.

  Args:
    reviews: what `read_reviews` returned; its `phase`, if it has that column,
      counts before the time.
    catalogue: what `read_items` returned.
    seed: of the order of equal times.
    counts: gets `repeats`.
  """
  users = _numbers(reviews["user_id"])
  items = reviews["item"].to_numpy().astype(np.int64)
  rows = time_order(reviews, catalogue, users=users, seed=seed)
  rows = rows[first_of_repeats(users=users[rows], items=items[rows])]
  counts["repeats"] = reviews.height - len(rows)
  return Ordered(rows, users[rows], items[rows])


def select(
  ordered: Ordered,
  *,
  min_count: int,
  phases: Int[np.ndarray, " interactions"],
  keep_new: bool = False,
  counts: dict[str, Any],
) -> Chosen:
  """Takes the k-core of phase 0, and what is later of its users and items.

  Args:
    ordered: all interactions.
    min_count: the k of k-core.
    phases: of each interaction, rising within a user; see `Chosen`.
    keep_new: keep later interactions of other users and items, too.
    counts: gets `k_core_rounds` (interactions left after each), `below_k_core`
      and `of_new_users_or_items`.

  Raises:
    InputError: nothing is left, or one item.
  """
  users, items = ordered.users, ordered.items
  first = np.flatnonzero(phases == 0)
  kept, counts["k_core_rounds"] = k_core(
    users=users[first], items=items[first], count=min_count
  )
  counts["below_k_core"] = len(first) - len(kept)
  if not len(kept):
    raise InputError(
      f"nothing is left of {len(first):,} interactions after the "
      f"{min_count}-core: lower --min-count."
    )
  core = first[kept]
  stays = phases > 0
  if not keep_new:
    stays &= np.isin(users, users[core]) & np.isin(items, items[core])
  counts["of_new_users_or_items"] = len(phases) - len(first) - int(stays.sum())
  stays[core] = True
  _, numbers = np.unique(users[stays], return_inverse=True)
  catalogue, item_numbers = np.unique(items[stays], return_inverse=True)
  if len(catalogue) < 2:
    raise InputError(
      f"all {len(numbers):,} interactions left are with one item: there is "
      "nothing to rank it among. Is --item-column the right one?"
    )
  # Where each user's phase 0 ends.
  later = np.bincount(numbers, phases[stays] > 0).astype(np.int64)
  ends = np.cumsum(np.bincount(numbers)) - later
  return Chosen(
    rows=ordered.rows[stays],
    users=numbers.astype(np.int32),
    items=item_numbers.astype(np.int32),
    catalogue=catalogue,
    phases=phases[stays],
    from_end=ends[numbers] - 1 - np.arange(len(numbers)),
  )


def time_order(
  reviews: pl.DataFrame,
  catalogue: pl.DataFrame,
  *,
  users: Int64[np.ndarray, " rows"],
  seed: int,
) -> Int64[np.ndarray, " rows"]:
  """Returns the rows by user, phase and time, equal times by `TIES`.

  Two reviews of one user and item at one time stay in input order.

  Args:
    reviews: what `read_reviews` returned.
    catalogue: what `read_items` returned.
    users: the rows' user numbers.
    seed: of the hash.
  """
  times = reviews["timestamp"].to_numpy()
  keys = (times, users)
  if "phase" in reviews.columns:
    keys = (times, reviews["phase"].to_numpy(), users)
  rows = np.lexsort(keys)
  equal = (np.diff(users[rows]) == 0) & (np.diff(times[rows]) == 0)
  tied = rows[np.append(equal, False) | np.append(False, equal)]
  of_rows = reviews[tied]
  ids = zip(
    of_rows["user_id"], catalogue["item_id"][of_rows["item"]], strict=True
  )
  rank = np.zeros(len(rows), np.uint64)
  rank[tied] = [
    int.from_bytes(
      hashlib.sha256(f"{seed}\0{user}\0{item}".encode()).digest()[:8], "big"
    )
    for user, item in ids
  ]
  return np.lexsort((rank, *keys))


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
