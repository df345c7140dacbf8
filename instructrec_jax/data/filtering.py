"""Which interactions count: no repeats, and users and items with enough."""

import dataclasses

import numpy as np
from jaxtyping import Int, Int64


@dataclasses.dataclass(frozen=True)
class KCore:
  """What is left of the interactions.

  Attributes:
    kept: indices of the interactions that stay, ascending.
    rounds: interactions left after each round of removal.
  """

  kept: Int64[np.ndarray, " kept"]
  rounds: list[int]


def k_core(
  *,
  users: Int[np.ndarray, " interactions"],
  items: Int[np.ndarray, " interactions"],
  count: int,
) -> KCore:
  """Keeps the largest set where each user and item has `count` interactions.

  Each round removes the interactions of all users and all items that have too
  few; removing one at a time, in any order, ends at the same set.

  Args:
    users: user number of each interaction.
    items: item number of each interaction.
    count: the k of k-core; 0 and 1 keep everything.
  """
  kept = np.arange(len(users))
  rounds: list[int] = []
  while True:
    by_user, by_item = users[kept], items[kept]
    enough = np.bincount(by_user)[by_user] >= count
    enough &= np.bincount(by_item)[by_item] >= count
    if enough.all():
      return KCore(kept=kept, rounds=rounds)
    kept = kept[enough]
    rounds.append(len(kept))


def time_order(
  *,
  users: Int[np.ndarray, " interactions"],
  timestamps: Int[np.ndarray, " interactions"],
) -> Int64[np.ndarray, " interactions"]:
  """Returns the order by user and time; equal times stay in input order."""
  return np.lexsort((timestamps, users))


def first_of_repeats(
  *,
  users: Int[np.ndarray, " interactions"],
  items: Int[np.ndarray, " interactions"],
) -> Int64[np.ndarray, " kept"]:
  """Returns the index of the first of each (user, item) pair, ascending."""
  pairs = users.astype(np.int64) * (items.max(initial=0) + 1) + items
  _, first = np.unique(pairs, return_index=True)
  return np.sort(first)
