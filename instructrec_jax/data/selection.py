"""Selects items and interactions: titled, without repeats, k-core.

The functions fill in `counts`, which the manifest keeps.

Times of many sources are days, and a user often buys several items in one. The
order of the file must not settle which of them comes last: Amazon's files list
equal times by rising item id, and newer items have higher ids, so the last
place would favour some items. A seeded hash of user and item settles it.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int8, Int32, Int64

from instructrec_jax.data.review_store import ReviewStore
from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError

# What a manifest says of equal times; folders without it kept the file's order.
TIES = "by the SHA-256 of seed, user and item"
# Where the times are none; their source has settled its ties, and tells none.
POSITIONS = "as the source numbers them, which tells no times"


# Rows that are told apart or hashed at once: bounds the memory.
_BLOCK = 1 << 20


class Numbering:
  """Numbers ids as they first appear.

  polars does so, and keeps each id once, in some 100 bytes; a dict would take
  twice that.
  """

  def __init__(self):
    """No ids yet."""
    self._type = pl.Categorical(pl.Categories.random())
    # As long as there is a series of them, polars keeps the categories.
    self._alive = pl.Series([], dtype=self._type)

  def add(self, ids: pl.Series) -> Int32[np.ndarray, " rows"]:
    """Returns the number of each id; new ones get the next."""
    return ids.cast(self._type).to_physical().to_numpy().astype(np.int32)

  def ids(self, numbers: Int32[np.ndarray, " rows"]) -> pl.Series:
    """Returns the ids of numbers that `add` gave."""
    codes = pl.Series(numbers, dtype=pl.UInt32)
    return codes.cat.to(self._type).cast(pl.String)


@dataclasses.dataclass(frozen=True)
class Interactions:
  """The reviews of titled items in input order, in numbers alone.

  Attributes:
    users: user numbers, in order of first appearance.
    items: rows in the frame of items.
    times: in seconds since 1970.
    phases: 0 to 2 for an official split's three, else None.
    user_ids: what gave the users their numbers.
  """

  users: Int32[np.ndarray, " interactions"]
  items: Int32[np.ndarray, " interactions"]
  times: Int64[np.ndarray, " interactions"]
  phases: Int8[np.ndarray, " interactions"] | None
  user_ids: Numbering


@dataclasses.dataclass(frozen=True)
class Ordered:
  """Interactions without repeats, sorted by user and time.

  Attributes:
    rows: their places in the input.
    users: user numbers, in order of first appearance in the input.
    items: rows in the frame of items.
  """

  rows: Int64[np.ndarray, " interactions"]
  users: Int32[np.ndarray, " interactions"]
  items: Int32[np.ndarray, " interactions"]

  @property
  def sequences(self) -> Sequences:
    """Returns the items, by user."""
    return Sequences.from_columns(
      users=self.users,
      items=self.items,
      num_users=int(self.users[-1]) + 1,
    )


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The interactions that stay, sorted by user and time.

  Attributes:
    rows: their places in the input.
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
  frames: Iterable[pl.DataFrame],
  items: pl.DataFrame,
  store: ReviewStore,
  counts: dict[str, Any],
) -> Interactions:
  """Reads the numbers of reviews of titled items; the rest goes to disk.

  Args:
    frames: of `lines.REVIEW_SCHEMA`, maybe with a `phase`.
    items: what `read_items` returned.
    store: gets ids, ratings and texts, in the order of what is returned.
    counts: gets `reviews` and `of_items_without_title`.

  Raises:
    InputError: there are none.
  """
  titled, user_ids = Numbering(), Numbering()
  titled.add(items["item_id"])
  columns: dict[str, list[np.ndarray]] = {}
  read, first = 0, ""
  for frame in frames:
    read += frame.height
    first = first or next(iter(frame["item_id"]), "")
    numbers = titled.add(frame["item_id"])
    known = numbers < items.height
    if not known.all():
      frame, numbers = frame.filter(pl.Series(known)), numbers[known]
    users = user_ids.add(frame["user_id"])
    store.add(frame.select("user_id", "rating", "summary", "text"), users)
    own = {"users": users, "items": numbers}
    for name in {"timestamp", "phase"} & {*frame.columns}:
      own[name] = frame[name].to_numpy()
    for name, values in own.items():
      columns.setdefault(name, []).append(values)
  joined = {name: np.concatenate(columns.pop(name)) for name in [*columns]}
  kept = len(joined.get("users", ()))
  counts["reviews"] = read
  counts["of_items_without_title"] = read - kept
  if not kept:
    raise InputError(
      f"none of the {read:,} reviews is of an item with a title: do the two "
      f"files belong together? The first review is of {first!r:.80}, the first "
      f"item is {items['item_id'][0]!r:.80}."
    )
  return Interactions(
    users=joined["users"],
    items=joined["items"],
    times=joined["timestamp"],
    phases=joined.get("phase"),
    user_ids=user_ids,
  )


def in_time_order(
  reviews: Interactions,
  catalogue: pl.DataFrame,
  *,
  seed: int,
  counts: dict[str, Any],
) -> Ordered:
  """Orders by time, and drops what a user had before.

  Args:
    reviews: what `read_reviews` returned; its phase, if it has one, counts
      before the time.
    catalogue: what `read_items` returned.
    seed: of the order of equal times.
    counts: gets `repeats`.
  """
  rows = time_order(reviews, catalogue["item_id"], seed=seed)
  users = reviews.users[rows]
  # Repeats are of one user, so whole users can be looked at apart.
  cuts = np.searchsorted(users, users[_BLOCK::_BLOCK]).tolist()
  kept = [
    start
    + first_of_repeats(
      users=users[start:end], items=reviews.items[rows[start:end]]
    )
    for start, end in itertools.pairwise([0, *cuts, len(rows)])
  ]
  rows = rows[np.concatenate(kept)]
  counts["repeats"] = len(users) - len(rows)
  return Ordered(rows, reviews.users[rows], reviews.items[rows])


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
    stays &= _appear(users, core)[users] & _appear(items, core)[items]
  counts["of_new_users_or_items"] = len(phases) - len(first) - int(stays.sum())
  stays[core] = True
  _, numbers = _renumbered(users, stays)
  catalogue, item_numbers = _renumbered(items, stays)
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
    users=numbers,
    items=item_numbers,
    catalogue=catalogue,
    phases=phases[stays],
    from_end=ends[numbers] - 1 - np.arange(len(numbers)),
  )


def time_order(
  reviews: Interactions, item_ids: pl.Series, *, seed: int
) -> Int64[np.ndarray, " rows"]:
  """Returns the rows by user, phase and time, equal times by `TIES`.

  Two reviews of one user and item at one time stay in input order.

  Args:
    reviews: what `read_reviews` returned.
    item_ids: by row in the frame of items.
    seed: of the hash.
  """
  users, times = reviews.users, reviews.times
  keys = (times, users)
  if reviews.phases is not None:
    keys = (times, reviews.phases, users)
  rows = np.lexsort(keys)
  equal = np.diff(users[rows]) == 0
  equal &= np.diff(times[rows]) == 0
  tied = np.append(equal, False) | np.append(False, equal)
  of_ties = rows[tied]
  rank = np.empty(len(of_ties), np.uint64)
  for start in range(0, len(of_ties), _BLOCK):
    block = of_ties[start : start + _BLOCK]
    ids = zip(
      reviews.user_ids.ids(users[block]),
      item_ids[reviews.items[block]],
      strict=True,
    )
    rank[start : start + _BLOCK] = [
      int.from_bytes(
        hashlib.sha256(f"{seed}\0{user}\0{item}".encode()).digest()[:8], "big"
      )
      for user, item in ids
    ]
  # Input order comes last: what is tied in all is as `lexsort` left it.
  rows[tied] = of_ties[np.lexsort((rank, *(key[of_ties] for key in keys)))]
  return rows


def _appear(
  numbers: Int32[np.ndarray, " interactions"],
  which: Int64[np.ndarray, " some"] | Bool[np.ndarray, " interactions"],
) -> Bool[np.ndarray, " numbers"]:
  """Returns of each number whether it is among some of the interactions'."""
  seen = np.zeros(int(numbers.max(initial=-1)) + 1, bool)
  seen[numbers[which]] = True
  return seen


def _renumbered(
  numbers: Int32[np.ndarray, " interactions"],
  stays: Bool[np.ndarray, " interactions"],
) -> tuple[Int64[np.ndarray, " left"], Int32[np.ndarray, " kept"]]:
  """Returns the numbers that are left, and each that stays as its place."""
  seen = _appear(numbers, stays)
  places = np.cumsum(seen, dtype=np.int32) - np.int32(1)
  return np.flatnonzero(seen), places[numbers[stays]]


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
