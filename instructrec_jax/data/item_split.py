"""Which items product search trains, validates and tests on: 80/10/10."""

import numpy as np
from jaxtyping import Int, Int8

# Where, in a random order of all items, validation and test begin.
_BEGINS = (0.8, 0.9)


def split_items(
  title_groups: Int[np.ndarray, " items"], *, seed: int
) -> Int8[np.ndarray, " items"]:
  """Splits the catalogue; items of one title stay together.

  Each split has its share of the items, give or take the largest group.

  Args:
    title_groups: a number for each item; items with equal titles share it.
    seed: of the split.

  Returns:
    For each item its split's index in `splits.SPLITS`.
  """
  sizes = np.bincount(title_groups)
  order = np.random.default_rng(seed).permutation(len(sizes))
  before = np.cumsum(sizes[order]) - sizes[order]
  split = np.empty(len(sizes), np.int8)
  split[order] = np.searchsorted(
    _BEGINS, before / max(len(title_groups), 1), side="right"
  )
  return split[title_groups]
