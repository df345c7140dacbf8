"""Deals items into bins that are to be equally full in several ways."""

from collections.abc import Sequence

import numpy as np

# Few enough for the fullest bin to be compared with all.
_SWAPPED = 512


def deal(
  sizes: np.ndarray, count: int, *, weights: Sequence[float]
) -> list[list[int]]:
  """Deals items, the largest first, each to the bin that it fills least.

  Args:
    sizes: [items, kinds].
    count: bins.
    weights: by how much a kind counts; others may be somewhat fuller.

  Returns:
    The items of each bin.
  """
  shares = sizes / sizes.sum(0) * np.array(weights)
  loads = np.zeros((count, sizes.shape[1]))
  bins: list[list[int]] = [[] for _ in range(count)]
  for item in np.argsort(-shares.max(1), kind="stable"):
    best = int((loads + shares[item]).max(1).argmin())
    bins[best].append(int(item))
    loads[best] += shares[item]
  if len(sizes) <= _SWAPPED:
    _swap(shares, bins, loads)
  return bins


def _swap(shares: np.ndarray, bins: list[list[int]], loads: np.ndarray) -> None:
  """Swaps items of the fullest bin for others, while that makes it less full.

  No bin becomes as full as that one was.
  """
  items = np.concatenate([np.array(members, int) for members in bins])
  owner = np.repeat(np.arange(len(bins)), list(map(len, bins)))
  for _ in range(len(items)):
    fullest = int(loads.max(1).argmax())
    mine = np.flatnonzero(owner == fullest)
    gain_MxOxK = shares[items[mine], None] - shares[items]
    after_MxO = np.maximum(
      (loads[fullest] - gain_MxOxK).max(2),
      np.where(owner == fullest, np.inf, (loads[owner] + gain_MxOxK).max(2)),
    )
    best = np.unravel_index(after_MxO.argmin(), after_MxO.shape)
    if after_MxO[best] > loads[fullest].max() * (1 - 1e-3):
      break
    one, other = mine[best[0]], best[1]
    loads[fullest] -= gain_MxOxK[best]
    loads[owner[other]] += gain_MxOxK[best]
    items[one], items[other] = items[other], items[one]
  for number, members in enumerate(bins):
    members[:] = items[owner == number].tolist()
