"""Requests -> batches of few shapes.

A batch is a number of bins, one for each shard of the mesh's data axis. A bin
holds instructions end to end, and the tries of their candidates; a shape says
how much of each. Compiling takes seconds a shape, so a ranker has at most
`MAX_SHAPES`: up to six are fitted to the requests that come, and two roomy ones
take whatever else there is.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.trie import TrieRow, trie_rows
from instructrec_jax.text.vocabulary import EOS_ID

MAX_SHAPES = 8
ROOMY_SHAPES = 2
# In tokens; beyond them, attention would take gigabytes.
LONGEST_INSTRUCTION = 2048
LONGEST_CANDIDATE = 1024
# An instruction is encoded again for every so many tokens of candidates.
_PIECE = 4096
# Long rows would spend their time on attention between candidates that do not
# see each other.
_ROW_LENGTHS = (96, 256, LONGEST_CANDIDATE)
# One more shape must save about as much work as compiling it costs.
TOKENS_PER_SHAPE = 1 << 15
# Few enough for the fullest bin to be compared with all.
_SWAPPED = 512
# Of starting another bin, in tokens.
_BIN_COST = 64
# By how much what bins are dealt by counts, in the order of `Shape`: tokens and
# nodes in full, as they cost most.
_WEIGHTS = (0.9, 1, 0.97, 1, 0.97)
# In how many keys' attention costs as much as the linear layers of a token.
_KEYS_PER_TOKEN = 4096

Encode = Callable[[str], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class TokenizedRequest:
  """A request's ids, each sequence with its end.

  Attributes:
    index: place of the request in its chunk.
    instruction: ids of the instruction.
    candidates: ids of each distinct candidate.
    places: where in the request each of them stands.
  """

  index: int
  instruction: list[int]
  candidates: list[tuple[int, ...]]
  places: list[list[int]]
  # By the length of rows, what has been worked out.
  _rows: dict[int, list[TrieRow]] = dataclasses.field(default_factory=dict)
  _sizes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def row_length(self) -> int:
    """Nodes in a row of its trie; a shape may have longer rows."""
    longest = max(map(len, self.candidates))
    return next(length for length in _ROW_LENGTHS if longest <= length)

  def rows(self, row_length: int) -> list[TrieRow]:
    """Returns its trie in rows of this length."""
    if row_length not in self._rows:
      self._rows[row_length] = trie_rows(self.candidates, row_length)
    return self._rows[row_length]

  def sizes(self, row_length: int) -> np.ndarray:
    """Returns what it takes of a bin: the first fields of `Shape`."""
    if row_length not in self._sizes:
      rows = self.rows(row_length)
      nodes = sum(len(row.tokens) for row in rows)
      edges = sum(len(row.edge_nodes) for row in rows)
      self._sizes[row_length] = np.array(
        [1, len(self.instruction), len(rows), nodes, edges]
      )
    return self._sizes[row_length]

  @functools.cached_property
  def tokens(self) -> int:
    """Tokens and nodes that are computed for it."""
    _, tokens, _, nodes, _ = self.sizes(self.row_length)
    return int(tokens + nodes)

  @functools.cached_property
  def cost(self) -> float:
    """Of computing it without padding; see `Shape.cost`."""
    length, rows = len(self.instruction), len(self.rows(self.row_length))
    of_rows = rows * self.row_length
    return _cost(self.tokens, length**2 + of_rows * (self.row_length + length))


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
  def room(self) -> np.ndarray:
    """What `TokenizedRequest.sizes` are taken from."""
    return np.array(self[:5])

  @property
  def cost(self) -> float:
    """Of computing a bin, in tokens' worth of linear layers."""
    return _cost(
      self.tokens + self.nodes,
      self.instructions * self.length**2
      + self.rows * self.row_length * (self.row_length + self.length),
    )

  def holds(self, request: TokenizedRequest) -> bool:
    """Whether a request fits."""
    return (
      len(request.instruction) <= self.length
      and request.row_length <= self.row_length
      and bool((request.sizes(self.row_length) <= self.room).all())
    )

  def cost_of(self, request: TokenizedRequest) -> float:
    """Returns a request's share of a bin's cost."""
    sizes = request.sizes(self.row_length)
    return self.cost * float((sizes / self.room).max())


def _roomy(length: int, row_length: int) -> Shape:
  # Any two neighbouring rows hold more nodes than one has room for.
  rows = 2 * _PIECE // row_length + 1
  return Shape(1, length, rows, _PIECE, _PIECE, length, row_length)


# The last holds whatever `tokenize` makes.
_ROOMY = (
  _roomy(1024, _ROW_LENGTHS[0]),
  _roomy(LONGEST_INSTRUCTION, LONGEST_CANDIDATE),
)


@dataclasses.dataclass(frozen=True)
class Batch:
  """Requests laid out in one shape.

  Attributes:
    features: int32 arrays for `edge_log_likelihoods`.
    edges: the edges of candidate after candidate, as indices into all of the
      batch's, shards end to end.
    lengths: how many of them are each candidate's.
    slots: for each place of each candidate, its request's index and the place.
    slot_candidates: the candidate that stands there.
  """

  features: dict[str, np.ndarray]
  edges: np.ndarray
  lengths: np.ndarray
  slots: np.ndarray
  slot_candidates: np.ndarray


def tokenize(
  requests: Sequence[RankingRequest],
  encode: Encode,
  encode_candidate: Encode | None = None,
) -> list[TokenizedRequest]:
  """Tokenises a chunk; repeated candidates are kept once.

  A request with more than 4096 tokens of candidates becomes several of the
  same index.

  Args:
    requests: the chunk.
    encode: returns the ids of a text.
    encode_candidate: the same with a memory, as titles recur.

  Raises:
    InputError: an instruction or a candidate is too long, or a request has no
      candidates.
  """
  encode_candidate = encode_candidate or encode
  tokenized = []
  for index, request in enumerate(requests):
    instruction = [*encode(request.instruction), EOS_ID]
    places: dict[tuple[int, ...], list[int]] = {}
    for place, text in enumerate(request.candidates):
      ids = (*encode_candidate(text), EOS_ID)
      places.setdefault(ids, []).append(place)
    if not places:
      raise InputError(f"request {request.request_id}: it has no candidates.")
    longest = max(map(len, places))
    if len(instruction) > LONGEST_INSTRUCTION or longest > LONGEST_CANDIDATE:
      raise InputError(
        f"request {request.request_id}: {len(instruction)} tokens of "
        f"instruction and {longest} of its longest candidate; at most "
        f"{LONGEST_INSTRUCTION} and {LONGEST_CANDIDATE} can be scored."
      )
    for piece in _pieces(list(places)):
      tokenized.append(
        TokenizedRequest(
          index=index,
          instruction=instruction,
          candidates=piece,
          places=[places[ids] for ids in piece],
        )
      )
  return tokenized


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


def choose_shape(request: TokenizedRequest, shapes: Sequence[Shape]) -> Shape:
  """Returns the cheapest shape, planned or roomy, that holds a request."""
  fitting = [shape for shape in (*shapes, *_ROOMY) if shape.holds(request)]
  return min(fitting, key=lambda shape: shape.cost_of(request))


def bins_of(
  requests: Sequence[TokenizedRequest], shape: Shape, *, shards: int = 1
) -> list[Bin]:
  """Deals requests into as few bins of a shape as hold them, evenly filled.

  There is a multiple of `shards` of them; the last may be empty.
  """
  sizes = np.stack([r.sizes(shape.row_length) for r in requests])
  needed = int(np.ceil((sizes.sum(0) / shape.room).max()))
  count = _round_up(max(needed, 1), shards)
  while True:
    dealt = _deal(sizes, count)
    if all((sizes[members].sum(0) <= shape.room).all() for members in dealt):
      return [[requests[number] for number in members] for members in dealt]
    # A hundredth more at a time: dealing many anew is not for nothing.
    count = _round_up(count + 1 + count // 100, shards)


def to_batch(bins: Sequence[Bin], *, shape: Shape) -> Batch:
  """Lays bins out, a shard each; they may be empty."""
  shards = len(bins)

  def zeros(*sizes: int) -> np.ndarray:
    return np.zeros((shards, *sizes), np.int32)

  features = {
    "encoder_tokens": zeros(shape.tokens),
    "encoder_places": zeros(shape.tokens),
    "encoder_rows": zeros(shape.instructions, shape.length),
    "encoder_lengths": zeros(shape.instructions),
    "trie_tokens": zeros(shape.nodes),
    "trie_places": zeros(shape.nodes),
    "trie_rows": zeros(shape.rows, shape.row_length),
    "trie_depths": zeros(shape.rows, shape.row_length),
    "trie_ends": zeros(shape.rows, shape.row_length),
    "trie_instructions": zeros(shape.rows),
    "edge_nodes": zeros(shape.edges),
    "edge_targets": zeros(shape.edges),
  }
  edges: list[int] = []
  lengths: list[int] = []
  slots: list[tuple[int, int]] = []
  slot_candidates: list[int] = []
  for shard, members in enumerate(bins):
    of_shard = {name: array[shard] for name, array in features.items()}
    token = row = node = edge = 0
    for number, request in enumerate(members):
      token = _put_row(of_shard, "encoder", number, request.instruction, token)
      of_shard["encoder_lengths"][number] = len(request.instruction)
      for trie_row in request.rows(shape.row_length):
        first_node, first_edge = node, edge
        node = _put_row(of_shard, "trie", row, trie_row.tokens, node)
        width = len(trie_row.tokens)
        of_shard["trie_depths"][row, :width] = trie_row.depths
        of_shard["trie_ends"][row, :width] = trie_row.ends
        of_shard["trie_instructions"][row] = number
        row += 1
        edge += len(trie_row.edge_nodes)
        here = slice(first_edge, edge)
        of_shard["edge_nodes"][here] = trie_row.edge_nodes
        of_shard["edge_nodes"][here] += first_node
        of_shard["edge_targets"][here] = trie_row.edge_targets
        before = shard * shape.edges + first_edge
        for candidate, path in zip(
          trie_row.candidates, trie_row.paths, strict=True
        ):
          for place in request.places[candidate]:
            slots.append((request.index, place))
            slot_candidates.append(len(lengths))
          edges += [before + step for step in path]
          lengths.append(len(path))
  return Batch(
    features,
    np.array(edges, np.int64),
    np.array(lengths, np.int64),
    np.array(slots, np.int64).reshape(-1, 2),
    np.array(slot_candidates, np.int64),
  )


def _put_row(
  features: dict[str, np.ndarray],
  side: str,
  row: int,
  ids: Sequence[int],
  start: int,
) -> int:
  """Appends ids to a shard's tokens, as a row; returns where they end."""
  width, end = len(ids), start + len(ids)
  rows = features[f"{side}_rows"]
  features[f"{side}_tokens"][start:end] = ids
  rows[row, :width] = np.arange(start, end)
  features[f"{side}_places"][start:end] = np.arange(width) + (
    row * rows.shape[1]
  )
  return end


def _pieces(
  candidates: list[tuple[int, ...]],
) -> Iterator[list[tuple[int, ...]]]:
  """Splits candidates so that each piece has at most `_PIECE` tokens."""
  if sum(map(len, candidates)) > _PIECE:
    # Neighbours in the trie stay together.
    candidates = sorted(candidates)
  piece, width = [], 0
  for ids in candidates:
    if width + len(ids) > _PIECE:
      yield piece
      piece, width = [], 0
    piece.append(ids)
    width += len(ids)
  yield piece


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
  saved = below * (lengths[-1] ** 2 - lengths[:-1] ** 2) / _KEYS_PER_TOKEN
  if not len(saved):
    return 0.0, group, []
  cut = int(saved.argmax())
  return float(saved[cut]), ordered[: cut + 1], ordered[cut + 1 :]


def _fitted_shape(
  group: Sequence[TokenizedRequest], bin_tokens: int, shards: int
) -> Shape:
  """Returns the shape into whose bins a group goes with least padding."""
  length = _round_up(max(len(request.instruction) for request in group), 16)
  row_length = max(request.row_length for request in group)
  sizes = np.stack([request.sizes(row_length) for request in group])
  batches = sum(request.tokens for request in group) / (bin_tokens * shards)

  def shape(count: int) -> Shape:
    dealt = _deal(sizes, count)
    most = np.max([sizes[members].sum(0) for members in dealt], axis=0)
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

  # A few requests go more evenly into one number of bins than into another.
  counts = {
    max(round(batches * more), 1) * shards for more in np.linspace(0.9, 1.5, 7)
  }
  fitted = {count: shape(count) for count in sorted(counts)}
  return fitted[min(fitted, key=lambda n: n * (fitted[n].cost + _BIN_COST))]


def _deal(sizes: np.ndarray, count: int) -> list[list[int]]:
  """Deals items, the largest first, each to the bin that it fills least.

  Args:
    sizes: [items, 5], as `TokenizedRequest.sizes`.
    count: bins.

  Returns:
    The items of each bin.
  """
  shares = sizes / sizes.sum(0) * _WEIGHTS
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


def _cost(tokens: int, pairs: int) -> float:
  """Of linear layers, and of attention between pairs of query and key."""
  return tokens + pairs / _KEYS_PER_TOKEN


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
