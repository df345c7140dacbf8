"""Negatives, drawn once and stored, so that all rankers rank the same items.

A target's negatives are uniform over the catalogue without its user's own
items, as far as the target's split knows them (`Splits.known_items`), and
without items that share its title, which are indistinguishable by text. In
product search there is no user, so no own items are excluded.

Key to shapes. N: targets, C: negatives of each.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError

# Targets that are drawn for at once: bounds the memory.
_BLOCK = 1 << 15


@dataclasses.dataclass(frozen=True)
class Candidates:
  """Candidate lists, each with its target among them.

  Attributes:
    keys: user numbers or, in product search, the targets' item numbers.
    candidates: item numbers; each row holds the target and the negatives.
    target: the target's index in its row.
  """

  keys: Int32[np.ndarray, " n"]
  candidates: Int32[np.ndarray, "n candidates"]
  target: Int32[np.ndarray, " n"]


def draw_candidates(
  *,
  owned: Sequences,
  title_groups: Int[np.ndarray, " items"],
  users: Int32[np.ndarray, " n"],
  targets: Int32[np.ndarray, " n"],
  negatives: int,
  rng: np.random.Generator,
) -> Candidates:
  """Draws different negatives for each target, which gets a uniform slot.

  Args:
    owned: the items that are not drawn for each user.
    title_groups: a number for each item; items with equal titles share it.
    users: user number of each target.
    targets: item number of each target.
    negatives: of each target.
    rng: the only source of randomness.

  Raises:
    InputError: the catalogue is too small for so many negatives.
  """
  candidates = np.empty((len(users), negatives + 1), np.int32)
  _fill_negatives(
    candidates[:, :-1],
    owned=owned,
    title_groups=title_groups,
    users=users,
    targets=targets,
    rng=rng,
  )
  slot_N = rng.integers(0, negatives + 1, size=len(users), dtype=np.int32)
  # The target takes its slot; what was there moves to the end.
  rows = np.arange(len(users))
  candidates[:, -1] = targets
  candidates[:, -1] = candidates[rows, slot_N]
  candidates[rows, slot_N] = targets
  return Candidates(keys=users, candidates=candidates, target=slot_N)


def _fill_negatives(
  drawn_NxC: Int32[np.ndarray, "n count"],
  *,
  owned: Sequences,
  title_groups: Int[np.ndarray, " items"],
  users: Int32[np.ndarray, " n"],
  targets: Int32[np.ndarray, " n"],
  rng: np.random.Generator,
) -> None:
  """Draws negatives in place: lists of millions are held once."""
  count = drawn_NxC.shape[1]
  blocks = [
    slice(start, start + _BLOCK) for start in range(0, len(users), _BLOCK)
  ]
  pool = min(
    (
      eligible_items(
        owned=owned,
        title_groups=title_groups,
        users=users[block],
        targets=targets[block],
      ).min()
      for block in blocks
    ),
    default=len(title_groups),
  )
  if pool < count:
    raise InputError(
      f"the catalogue of {len(title_groups)} items leaves a target with only "
      f"{pool} to draw {count} negatives from: ask for fewer, or keep more "
      "items with a lower --min-count."
    )
  num_items = len(title_groups)
  pairs = np.repeat(np.arange(len(owned)) * num_items, owned.lengths)
  pairs += owned.items
  pairs.sort()
  for block in blocks:
    drawn_NxC[block] = _draw_block(
      pairs=pairs,
      title_groups=title_groups,
      users=users[block],
      targets=targets[block],
      count=count,
      rng=rng,
    )


def eligible_items(
  *,
  owned: Sequences,
  title_groups: Int[np.ndarray, " items"],
  users: Int32[np.ndarray, " n"],
  targets: Int32[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
  """Returns how many items each target's negatives can be drawn from."""
  lengths = owned.lengths[users]
  row = np.repeat(np.arange(len(users)), lengths)
  within = np.arange(len(row)) - np.repeat(
    np.cumsum(lengths) - lengths, lengths
  )
  own_items = owned.items[owned.offsets[users][row] + within]
  # An own item with the target's title must not be subtracted twice.
  shared = title_groups[own_items] == title_groups[targets][row]
  both = np.bincount(row[shared], minlength=len(users))
  same_title = np.bincount(title_groups)[title_groups[targets]]
  return len(title_groups) - lengths - same_title + both


def _draw_block(
  *,
  pairs: Int64[np.ndarray, " interactions"],
  title_groups: Int[np.ndarray, " items"],
  users: Int32[np.ndarray, " n"],
  targets: Int32[np.ndarray, " n"],
  count: int,
  rng: np.random.Generator,
) -> Int32[np.ndarray, "n count"]:
  """Draws freely, then redraws what is not allowed until all is.

  Keeping the first of equal draws and redrawing the others treats all allowed
  items alike, so every set of them is equally likely.
  """
  num_items = len(title_groups)
  drawn_NxC = np.empty((len(users), count), np.int32)
  todo_NxC = np.ones(drawn_NxC.shape, bool)
  rows = np.arange(len(users))
  while len(rows):
    todo = todo_NxC[rows]
    block = drawn_NxC[rows]
    block[todo] = rng.integers(0, num_items, size=todo.sum(), dtype=np.int32)
    drawn_NxC[rows] = block
    todo_NxC[rows] = (
      _contains(pairs, users[rows, None].astype(np.int64) * num_items + block)
      | (title_groups[block] == title_groups[targets[rows], None])
      | _repeats_earlier(block)
    )
    rows = rows[todo_NxC[rows].any(axis=1)]
  return drawn_NxC


def _contains(
  ordered: Int64[np.ndarray, " m"], wanted: Int64[np.ndarray, "n c"]
) -> Bool[np.ndarray, "n c"]:
  if not len(ordered):
    return np.zeros(wanted.shape, bool)
  place = np.searchsorted(ordered, wanted)
  return ordered[np.minimum(place, len(ordered) - 1)] == wanted


def _repeats_earlier(
  block: Int32[np.ndarray, "n c"],
) -> Bool[np.ndarray, "n c"]:
  """Marks entries that equal an earlier one of their row."""
  order = np.argsort(block, axis=1, kind="stable")
  ordered = np.take_along_axis(block, order, axis=1)
  repeats = np.zeros(block.shape, bool)
  np.put_along_axis(
    repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1
  )
  return repeats
