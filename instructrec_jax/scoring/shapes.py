"""The shapes of batches: capacities of bins, few of them, as each is compiled.

Compiling takes seconds a shape, so a ranker has at most `MAX_SHAPES`: up to six
are fitted to the requests that come, and two large ones take all others. A
fixed ladder of shapes would be simpler and computes 13% (10 candidates) to 53%
(100 candidates) more padding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from instructrec_jax.scoring.tokenization import (
  KEYS_PER_TOKEN,
  LONGEST_CANDIDATE,
  LONGEST_INSTRUCTION,
  PIECE,
  ROW_LENGTHS,
  TokenizedRequest,
  cost_of,
)

MAX_SHAPES = 8
LARGE_SHAPES = 2
# One more shape must save about as much work as compiling it costs.
TOKENS_PER_SHAPE = 1 << 15
# Of starting another bin, in tokens.
_BIN_COST = 64
# Balancing fills bins as far as this, at least.
_FULL = 0.97
# Weights of the capacities in balancing, in the order of `Shape`: tokens and
# nodes in full, as they cost most.
_WEIGHTS = (0.9, 1, 0.97, 1, 0.97)
# The most items for which the fullest bin is compared with all others.
_SWAPPED = 512

Bin = list[TokenizedRequest]


class Shape(NamedTuple):
  """How much a bin holds.

  Attributes:
    instructions: how many.
    tokens: of all instructions.
    rows: of tries.
    nodes: of tries.
    edges: of tries.
    length: tokens of the longest instruction.
    row_length: nodes of a row.
  """

  instructions: int
  tokens: int
  rows: int
  nodes: int
  edges: int
  length: int
  row_length: int

  @property
  def capacity(self) -> np.ndarray:
    """What `TokenizedRequest.sizes` are taken from."""
    return np.array(self[:5])

  @property
  def cost(self) -> float:
    """Of computing a bin, in tokens' worth of linear layers."""
    return cost_of(
      self.tokens + self.nodes,
      self.instructions * self.length**2
      + self.rows * self.row_length * (self.row_length + self.length),
    )

  def holds(self, request: TokenizedRequest) -> bool:
    """Whether a request fits."""
    return (
      len(request.instruction) <= self.length
      and request.row_length <= self.row_length
      and bool((request.sizes(self.row_length) <= self.capacity).all())
    )

  def cost_of(self, request: TokenizedRequest) -> float:
    """Returns a request's share of a bin's cost."""
    sizes = request.sizes(self.row_length)
    return self.cost * float((sizes / self.capacity).max())


def _large(length: int, row_length: int) -> Shape:
  # Any two neighbouring rows hold more nodes than one row can.
  rows = 2 * PIECE // row_length + 1
  return Shape(1, length, rows, PIECE, PIECE, length, row_length)


# The last holds whatever `tokenize` makes.
_LARGE = (
  _large(1024, ROW_LENGTHS[0]),
  _large(LONGEST_INSTRUCTION, LONGEST_CANDIDATE),
)


def fitted_shapes(
  requests: Sequence[TokenizedRequest],
  *,
  most: int,
  bin_tokens: int,
  shards: int,
) -> list[Shape]:
  """Returns at most so many shapes for requests like these.

  Args:
    requests: at least one.
    most: shapes at most.
    bin_tokens: about the most tokens, padding counted, in a bin.
    shards: bins that are computed at a time.
  """
  kinds: dict[tuple[int, bool], list[TokenizedRequest]] = {}
  for request in requests:
    # One that fills a bin by itself would make all bins as large.
    large = request.tokens > bin_tokens // 2
    kinds.setdefault((request.row_length, large), []).append(request)
  groups = sorted(kinds.values(), key=len, reverse=True)
  if len(groups) > most:
    groups[most - 1 :] = [sum(groups[most - 1 :], [])]
  while len(groups) < most:
    cuts = list(map(_best_cut, groups))
    best = max(range(len(cuts)), key=lambda number: cuts[number][0])
    saved, *halves = cuts[best]
    if saved <= TOKENS_PER_SHAPE:
      break
    groups[best : best + 1] = halves
  return [_fitted_shape(group, bin_tokens, shards) for group in groups]


def even_shape(group: Sequence[TokenizedRequest], count: int) -> Shape:
  """Returns the least shape of which so many bins hold a group."""
  length = _round_up(max(len(request.instruction) for request in group), 16)
  row_length = max(request.row_length for request in group)
  sizes = np.stack([request.sizes(row_length) for request in group])
  balanced = balance(sizes, count, weights=_WEIGHTS)
  most = np.max([sizes[members].sum(0) for members in balanced], axis=0)
  instructions, tokens, rows, nodes, edges = map(int, most)
  return Shape(
    instructions,
    _round_up(tokens, 32),
    _round_up(rows, 4),
    _round_up(nodes, 32),
    _round_up(edges, 32),
    length,
    row_length,
  )


def choose_shape(request: TokenizedRequest, shapes: Sequence[Shape]) -> Shape:
  """Returns the cheapest shape, planned or large, that holds a request."""
  *smaller, largest = *shapes, *_LARGE
  fitting = [shape for shape in smaller if shape.holds(request)]
  # Never the cheapest of several; its tries need not be worked out to know.
  return min(fitting, key=lambda shape: shape.cost_of(request), default=largest)


def by_shape(
  requests: Sequence[TokenizedRequest],
  shapes: Sequence[Shape],
  *,
  shards: int = 1,
) -> dict[Shape, list[TokenizedRequest]]:
  """Sends each request to the shape where its share of full bins costs least.

  Requests that do not fill a bin pay for it all: they go where that is cheaper.
  """
  groups: dict[Shape, list[TokenizedRequest]] = {}
  for request in requests:
    groups.setdefault(choose_shape(request, shapes), []).append(request)

  for shape in sorted(groups, key=lambda shape: shape.cost, reverse=True):
    members = groups[shape]
    full = _filling(members, shape, shards)
    rest = members[full:]
    if not rest:
      continue
    costs = {
      other: _total_cost(groups.get(other, []) + rest, other, shards)
      - _total_cost(groups.get(other, []), other, shards)
      for other in (*shapes, *_LARGE)
      if other != shape and all(map(other.holds, rest))
    }
    saved = _total_cost(members, shape, shards) - _total_cost(
      members[:full], shape, shards
    )
    if costs and costs[best := min(costs, key=lambda s: costs[s])] < saved:
      groups[shape] = members[:full]
      groups.setdefault(best, []).extend(rest)
  return {shape: members for shape, members in groups.items() if members}


def bins_of(
  requests: Sequence[TokenizedRequest], shape: Shape, *, shards: int = 1
) -> list[Bin]:
  """Deals requests into as few bins of a shape as hold them, evenly filled.

  There is a multiple of `shards` of them; the last may be empty.
  """
  sizes = np.stack([r.sizes(shape.row_length) for r in requests])
  needed = int(np.ceil((sizes.sum(0) / shape.capacity).max()))
  count = _round_up(max(needed, 1), shards)
  while True:
    balanced = balance(sizes, count, weights=_WEIGHTS)
    if all(
      (sizes[members].sum(0) <= shape.capacity).all() for members in balanced
    ):
      return [[requests[number] for number in members] for members in balanced]
    # A hundredth more at a time: balancing many again takes time.
    count = _round_up(count + 1 + count // 100, shards)


def balance(
  sizes: np.ndarray, count: int, *, weights: Sequence[float]
) -> list[list[int]]:
  """Balances bins that have several capacities each, greedily.

  Items go, the largest first, each to the bin that it fills least.

  Args:
    sizes: [items, capacities] what an item takes of each capacity.
    count: of bins.
    weights: by how much a capacity counts; others may be somewhat fuller.

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


def _usage(requests: Sequence[TokenizedRequest], shape: Shape) -> np.ndarray:
  """Returns how many bins the first requests fill, for each number of them."""
  sizes = np.stack([r.sizes(shape.row_length) for r in requests])
  return (sizes.cumsum(0) / shape.capacity).max(1)


def _total_cost(
  requests: Sequence[TokenizedRequest], shape: Shape, shards: int
) -> float:
  """Of computing whole bins."""
  if not requests:
    return 0.0
  steps = np.ceil(_usage(requests, shape)[-1] / shards)
  return float(steps) * (shape.cost + _BIN_COST)


def _filling(
  requests: Sequence[TokenizedRequest], shape: Shape, shards: int
) -> int:
  """Returns how many of the requests leave no bin part empty."""
  usage = _usage(requests, shape) / shards
  return int(np.searchsorted(usage, _FULL * np.floor(usage[-1] / _FULL)))


def _best_cut(
  group: list[TokenizedRequest],
) -> tuple[float, list[TokenizedRequest], list[TokenizedRequest]]:
  """Cuts a group in two by the length of instructions.

  Returns:
    How much padding in attention that saves, in tokens' worth, and the halves.
  """
  ordered = sorted(group, key=lambda request: len(request.instruction))
  lengths = np.array([len(request.instruction) for request in ordered])
  below = np.arange(1, len(lengths))
  saved = below * (lengths[-1] ** 2 - lengths[:-1] ** 2) / KEYS_PER_TOKEN
  if not len(saved):
    return 0.0, group, []
  cut = int(saved.argmax())
  return float(saved[cut]), ordered[: cut + 1], ordered[cut + 1 :]


def _fitted_shape(
  group: Sequence[TokenizedRequest], bin_tokens: int, shards: int
) -> Shape:
  """Returns the shape into whose bins a group goes with least padding."""
  batches = sum(request.tokens for request in group) / (bin_tokens * shards)
  # A few requests go more evenly into one number of bins than into another.
  # More than there are requests would be of no use.
  most = -(-len(group) // shards)
  counts = {
    min(max(round(batches * more), 1), most) * shards
    for more in np.linspace(0.9, 1.5, 7)
  }
  fitted = {count: even_shape(group, count) for count in sorted(counts)}
  return fitted[min(fitted, key=lambda n: n * (fitted[n].cost + _BIN_COST))]


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
