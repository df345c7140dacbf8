"""The shapes of batches: capacities of bins, few of them, as each is compiled.

Compiling takes seconds a shape, so a ranker has at most `MAX_SHAPES`: up to six
are fitted to the requests that come, and two large ones take all others. A
fixed ladder of shapes would be simpler and computes 13% (10 candidates) to 53%
(100 candidates) more padding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from instructrec_jax.scoring.tokenization import (
  KEYS_PER_TOKEN,
  LONGEST_CANDIDATE,
  LONGEST_INSTRUCTION,
  PIECE,
  ROW_LENGTHS,
  Chunk,
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

# Numbers of requests in their chunk.
Members = np.ndarray


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
    """What `Chunk.sizes` are taken from."""
    return np.array(self[:5])

  @property
  def cost(self) -> float:
    """Of computing a bin, in tokens' worth of linear layers."""
    return cost_of(
      self.tokens + self.nodes,
      self.instructions * self.length**2
      + self.rows * self.row_length * (self.row_length + self.length),
    )

  @property
  def num_bytes(self) -> int:
    """Of a bin's features, about."""
    encoder = 2 * self.tokens + self.instructions * self.length
    tries = 2 * self.nodes + 3 * self.rows * self.row_length
    return 4 * (encoder + tries + 2 * self.edges)

  def holds(self, chunk: Chunk) -> np.ndarray:
    """Returns [requests]: whether each fits."""
    return (
      (chunk.lengths <= self.length)
      & (chunk.row_lengths <= self.row_length)
      & (chunk.sizes(self.row_length) <= self.capacity).all(1)
    )

  def costs(self, chunk: Chunk) -> np.ndarray:
    """Returns [requests]: each one's share of a bin's cost."""
    shares = chunk.sizes(self.row_length) / self.capacity
    return self.cost * shares.max(1)


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
  chunk: Chunk, *, most: int, bin_tokens: int, shards: int
) -> list[Shape]:
  """Returns at most so many shapes for requests like these.

  Args:
    chunk: at least one request.
    most: shapes at most.
    bin_tokens: about the most tokens, padding counted, in a bin.
    shards: bins that are computed at a time.
  """
  # One that fills a bin by itself would make all bins as large.
  large = chunk.tokens > bin_tokens // 2
  kinds: dict[tuple[int, bool], list[int]] = {}
  for number, kind in enumerate(
    zip(chunk.row_lengths.tolist(), large.tolist(), strict=True)
  ):
    kinds.setdefault(kind, []).append(number)
  groups = [
    np.array(kind) for kind in sorted(kinds.values(), key=len, reverse=True)
  ]
  if len(groups) > most:
    groups[most - 1 :] = [np.concatenate(groups[most - 1 :])]
  while len(groups) < most:
    cuts = [_best_cut(chunk, group) for group in groups]
    best = max(range(len(cuts)), key=lambda number: cuts[number][0])
    saved, *halves = cuts[best]
    if saved <= TOKENS_PER_SHAPE:
      break
    groups[best : best + 1] = halves
  return [_fitted_shape(chunk, group, bin_tokens, shards) for group in groups]


def even_shape(chunk: Chunk, group: Members, count: int) -> Shape:
  """Returns the least shape of which so many bins hold a group."""
  length = _round_up(int(chunk.lengths[group].max()), 16)
  row_length = int(chunk.row_lengths[group].max())
  sizes = chunk.sizes(row_length)[group]
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


def choose_shapes(chunk: Chunk, shapes: Sequence[Shape]) -> list[Shape]:
  """Returns for each request the cheapest shape that holds it.

  Args:
    chunk: of the requests.
    shapes: planned ones; there are large ones besides.
  """
  *smaller, largest = *shapes, *_LARGE
  # Never the cheapest of several; its tries need not be worked out to know.
  costs = np.stack(
    [np.where(s.holds(chunk), s.costs(chunk), np.inf) for s in smaller]
  )
  chosen = np.where(np.isinf(costs.min(0)), len(smaller), costs.argmin(0))
  both = *smaller, largest
  return [both[number] for number in chosen.tolist()]


def by_shape(
  chunk: Chunk, shapes: Sequence[Shape], *, shards: int = 1
) -> dict[Shape, Members]:
  """Sends each request to the shape where its share of full bins costs least.

  Requests that do not fill a bin pay for it all: they go where that is cheaper.
  """
  chosen: dict[Shape, list[int]] = {}
  for number, shape in enumerate(choose_shapes(chunk, shapes)):
    chosen.setdefault(shape, []).append(number)
  groups = {shape: np.array(numbers) for shape, numbers in chosen.items()}
  none = np.zeros(0, int)

  for shape in sorted(groups, key=lambda shape: shape.cost, reverse=True):
    members = groups[shape]
    full = _filling(chunk, members, shape, shards)
    rest = members[full:]
    if not len(rest):
      continue
    saved = _total_cost(chunk, members, shape, shards) - _total_cost(
      chunk, members[:full], shape, shards
    )
    costs = {}
    for other in (*shapes, *_LARGE):
      there = groups.get(other, none)
      # Where even one bin costs more, tries need not be worked out.
      if other == shape or not (len(there) or other.cost + _BIN_COST < saved):
        continue
      if not other.holds(chunk)[rest].all():
        continue
      costs[other] = _total_cost(
        chunk, np.concatenate([there, rest]), other, shards
      ) - _total_cost(chunk, there, other, shards)
    if costs and costs[best := min(costs, key=lambda s: costs[s])] < saved:
      groups[shape] = members[:full]
      groups[best] = np.concatenate([groups.get(best, none), rest])
  return {shape: members for shape, members in groups.items() if len(members)}


def bins_of(
  chunk: Chunk, members: Members, shape: Shape, *, shards: int = 1
) -> list[Members]:
  """Deals requests into as few bins of a shape as hold them, evenly filled.

  There is a multiple of `shards` of them; the last may be empty.
  """
  sizes = chunk.sizes(shape.row_length)[members]
  needed = int(np.ceil((sizes.sum(0) / shape.capacity).max()))
  count = _round_up(max(needed, 1), shards)
  while True:
    balanced = balance(sizes, count, weights=_WEIGHTS)
    if all((sizes[dealt].sum(0) <= shape.capacity).all() for dealt in balanced):
      return [members[dealt] for dealt in balanced]
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
  # Capacities first: a maximum over the last axis, of five, is slow.
  shares_KxI = np.ascontiguousarray((sizes / sizes.sum(0) * weights).T)
  loads_KxB = np.zeros((sizes.shape[1], count))
  filled_KxB, fullest_B = np.empty_like(loads_KxB), np.empty(count)
  bins: list[list[int]] = [[] for _ in range(count)]
  order = np.argsort(-shares_KxI.max(0), kind="stable")
  add: Any = np.add
  largest: Any = np.maximum.reduce
  for item, share_Kx1 in zip(
    order.tolist(), shares_KxI.T[order, :, None], strict=True
  ):
    largest(add(loads_KxB, share_Kx1, filled_KxB), 0, None, fullest_B)
    best = fullest_B.argmin()
    bins[best].append(item)
    here = loads_KxB[:, best : best + 1]
    add(here, share_Kx1, here)
  if len(sizes) <= _SWAPPED:
    _swap(shares_KxI, bins, loads_KxB)
  return bins


def _swap(
  shares_KxI: np.ndarray, bins: list[list[int]], loads_KxB: np.ndarray
) -> None:
  """Swaps items of the fullest bin for others, while that makes it less full.

  No bin becomes as full as that one was.
  """
  items = np.concatenate([np.array(members, int) for members in bins])
  owner = np.repeat(np.arange(len(bins)), list(map(len, bins)))
  shares_KxI = shares_KxI[:, items]
  for _ in range(len(items)):
    fullest = int(loads_KxB.max(0).argmax())
    own = owner == fullest
    mine = np.flatnonzero(own)
    gain_KxMxI = shares_KxI[:, mine, None] - shares_KxI[:, None]
    others_MxI = (loads_KxB[:, None, owner] + gain_KxMxI).max(0)
    others_MxI[:, own] = np.inf
    after_MxI = (loads_KxB[:, fullest, None, None] - gain_KxMxI).max(0)
    np.maximum(after_MxI, others_MxI, out=after_MxI)
    best = np.unravel_index(after_MxI.argmin(), after_MxI.shape)
    if after_MxI[best] > loads_KxB[:, fullest].max() * (1 - 1e-3):
      break
    one, other = mine[best[0]], best[1]
    gain_K = gain_KxMxI[:, best[0], best[1]]
    loads_KxB[:, fullest] -= gain_K
    loads_KxB[:, owner[other]] += gain_K
    places = [one, other]
    items[places] = items[places[::-1]]
    shares_KxI[:, places] = shares_KxI[:, places[::-1]]
  for number, members in enumerate(bins):
    members[:] = items[owner == number].tolist()


def _usage(chunk: Chunk, members: Members, shape: Shape) -> np.ndarray:
  """Returns how many bins the first requests fill, for each number of them."""
  sizes = chunk.sizes(shape.row_length)[members]
  return (sizes.cumsum(0) / shape.capacity).max(1)


def _total_cost(
  chunk: Chunk, members: Members, shape: Shape, shards: int
) -> float:
  """Of computing whole bins."""
  if not len(members):
    return 0.0
  sizes = chunk.sizes(shape.row_length)[members]
  usage = (sizes.sum(0) / shape.capacity).max()
  return float(np.ceil(usage / shards)) * (shape.cost + _BIN_COST)


def _filling(chunk: Chunk, members: Members, shape: Shape, shards: int) -> int:
  """Returns how many of the requests leave no bin part empty."""
  usage = _usage(chunk, members, shape) / shards
  return int(np.searchsorted(usage, _FULL * np.floor(usage[-1] / _FULL)))


def _best_cut(chunk: Chunk, group: Members) -> tuple[float, Members, Members]:
  """Cuts a group in two by the length of instructions.

  Returns:
    How much padding in attention that saves, in tokens' worth, and the halves.
  """
  ordered = group[np.argsort(chunk.lengths[group], kind="stable")]
  lengths = chunk.lengths[ordered]
  below = np.arange(1, len(lengths))
  saved = below * (lengths[-1] ** 2 - lengths[:-1] ** 2) / KEYS_PER_TOKEN
  if not len(saved):
    return 0.0, group, group[:0]
  cut = int(saved.argmax())
  return float(saved[cut]), ordered[: cut + 1], ordered[cut + 1 :]


def _fitted_shape(
  chunk: Chunk, group: Members, bin_tokens: int, shards: int
) -> Shape:
  """Returns the shape into whose bins a group goes with least padding."""
  batches = int(chunk.tokens[group].sum()) / (bin_tokens * shards)
  # A few requests go more evenly into one number of bins than into another.
  # More than there are requests would be of no use.
  most = -(-len(group) // shards)
  counts = {
    min(max(round(batches * more), 1), most) * shards
    for more in np.linspace(0.9, 1.5, 7)
  }
  fitted = {count: even_shape(chunk, group, count) for count in sorted(counts)}
  return fitted[min(fitted, key=lambda n: n * (fitted[n].cost + _BIN_COST))]


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
