"""Requests laid out as batches of few shapes.

A batch is a number of bins, one for each shard of the mesh's data axis. A bin
holds instructions end to end, and the tries of their candidates.
"""

import collections
import dataclasses
import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from instructrec_jax.scoring import shapes
from instructrec_jax.scoring.shapes import Members, Shape
from instructrec_jax.scoring.tokenization import Chunk, TokenizedRequest

# How many requests that no shape fits well are remembered.
_MISFITS = 1024
# Bytes of features that are laid out at once: many requests, in caches.
_AT_ONCE = 1 << 22


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

  @property
  def prompts(self) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of instructions, end to end, and lengths, as `UserStates` asks."""
    return self.features["encoder_tokens"], self.features["encoder_lengths"]


class Batcher:
  """Chooses shapes for the requests that come; several threads may ask."""

  def __init__(self, *, shards: int, bin_tokens: int):
    """Starts without a shape.

    Args:
      shards: bins of a batch, that are computed at the same time.
      bin_tokens: about the most tokens in a bin.
    """
    self._shards, self._bin_tokens = shards, bin_tokens
    self._lock = threading.Lock()
    self._shapes: list[Shape] = []
    self._forget_misfits()

  def add_shape(self, chunk: Chunk, *, together: int) -> None:
    """Adds a shape that holds about so many of requests like these.

    For a caller that knows what will come, while there is a free shape.

    Args:
      chunk: all of about a size.
      together: how many will be scored at a time.
    """
    count = len(chunk.requests)
    bins = max(
      count / together / self._shards,
      int(chunk.tokens.sum()) / self._bin_tokens,
    )
    shape = shapes.even_shape(chunk, np.arange(count), math.ceil(bins))
    with self._lock:
      if self._free_shapes and shape not in self._shapes:
        self._shapes.append(shape)

  def bins(self, chunk: Chunk) -> dict[Shape, list[Members]]:
    """Returns bins that hold all requests; it may add shapes for them."""
    with self._lock:
      if chunk.requests and not self._shapes:
        self._add_shapes(chunk, self._bin_tokens)
      binned = self._into_known_shapes(chunk)
      self._note_misfits(chunk, binned)
      if self._wasted > shapes.TOKENS_PER_SHAPE and self._add_shapes(
        Chunk(list(self._misfits)), self._misfit_tokens
      ):
        binned = self._into_known_shapes(chunk)
      return binned

  def batches(
    self, chunk: Chunk, binned: dict[Shape, list[Members]]
  ) -> Iterator[tuple[Shape, Batch]]:
    """Yields all requests in batches, given their `bins`."""
    for shape, bins in binned.items():
      for batch in to_batches(chunk, bins, shape=shape, shards=self._shards):
        yield shape, batch

  @property
  def _free_shapes(self) -> int:
    return shapes.MAX_SHAPES - shapes.LARGE_SHAPES - len(self._shapes)

  def _into_known_shapes(self, chunk: Chunk) -> dict[Shape, list[Members]]:
    if not chunk.requests:
      return {}
    grouped = shapes.by_shape(chunk, self._shapes, shards=self._shards)
    return {
      shape: shapes.bins_of(chunk, members, shape, shards=self._shards)
      for shape, members in grouped.items()
    }

  def _forget_misfits(self) -> None:
    # Requests for which another shape would be better, the tokens of one
    # call's, and the padding, in tokens, that it would have saved so far.
    self._misfits: collections.deque[TokenizedRequest] = collections.deque(
      maxlen=_MISFITS
    )
    self._misfit_tokens = 0
    self._wasted = 0.0

  def _note_misfits(
    self, chunk: Chunk, binned: dict[Shape, list[Members]]
  ) -> None:
    """Notes requests in shapes of which a third or more is padding."""
    if not self._free_shapes:
      return
    tokens = 0
    for shape, bins in binned.items():
      members = np.concatenate(bins)
      cost, needed = len(bins) * shape.cost, float(chunk.costs[members].sum())
      if cost > 1.5 * needed:
        self._misfits.extend(chunk.requests[number] for number in members)
        self._wasted += cost - needed
        tokens += int(chunk.tokens[members].sum())
    self._misfit_tokens = max(
      self._misfit_tokens, min(tokens // self._shards, self._bin_tokens)
    )

  def _add_shapes(self, chunk: Chunk, bin_tokens: int) -> bool:
    """Fits shapes to requests; returns whether any was free.

    A call leaves a third of the free ones to later requests of another kind.
    """
    free = self._free_shapes
    if not free:
      return False
    fitted = shapes.fitted_shapes(
      chunk,
      most=free - free // 3,
      bin_tokens=max(bin_tokens, 1),
      shards=self._shards,
    )
    self._shapes += [shape for shape in fitted if shape not in self._shapes]
    self._forget_misfits()
    return True


def to_batches(
  chunk: Chunk, bins: Sequence[Members], *, shape: Shape, shards: int
) -> Iterator[Batch]:
  """Lays bins out, a shard each, several batches at a time.

  Args:
    chunk: of the requests.
    bins: a multiple of `shards`; they may be empty.
    shape: that holds each of them.
    shards: bins of a batch.
  """
  layout = _Layout(chunk, shape, shards)
  together = max(_AT_ONCE // (shape.num_bytes * shards), 1) * shards
  for start in range(0, len(bins), together):
    yield from layout.batches(bins[start : start + together])


class _Runs:
  """Items that lie end to end in runs, such as nodes in rows."""

  def __init__(self, counts: np.ndarray):
    self.counts = counts
    self.starts = np.cumsum(counts) - counts

  def items(self, runs: np.ndarray) -> np.ndarray:
    """Returns the indices of all items of these runs, run after run."""
    counts = self.counts[runs]
    skipped = self.starts[runs] - (np.cumsum(counts) - counts)
    return np.arange(counts.sum()) + np.repeat(skipped, counts)


class _Layout:
  """Lays out requests in one shape.

  Key to shapes. G: bins, B: instructions of a bin, T: length of an instruction,
  R: trie rows of a bin, U: length of such a row; M: the requests, Q: their
  rows, C: their candidates, end to end.
  """

  def __init__(self, chunk: Chunk, shape: Shape, shards: int):
    self._chunk, self._shape, self._shards = chunk, shape, shards
    self._tries = tries = chunk.tries(shape.row_length)
    self._rows = _Runs(tries.rows)
    self._nodes = _Runs(tries.row_nodes)
    self._edges = _Runs(tries.row_edges)
    self._candidates = _Runs(tries.row_candidates)
    self._paths = _Runs(tries.lengths)
    self._places = _Runs(chunk.place_counts)

  def batches(self, bins: Sequence[Members]) -> Iterator[Batch]:
    """Yields these bins in batches."""
    shape, shards, tries = self._shape, self._shards, self._tries
    bin_of_M = np.repeat(np.arange(len(bins)), list(map(len, bins)))
    members_M = np.concatenate(bins).astype(int)
    number_M = _within(bin_of_M)
    features = self._instructions(members_M, bin_of_M, number_M, len(bins))

    rows_Q = self._rows.items(members_M)
    of_member_Q = np.repeat(np.arange(len(members_M)), tries.rows[members_M])
    bin_of_Q = bin_of_M[of_member_Q]
    row_Q = _within(bin_of_Q)
    nodes_Q, edges_Q = tries.row_nodes[rows_Q], tries.row_edges[rows_Q]
    first_node_Q = _sum_before(nodes_Q, bin_of_Q)
    first_edge_Q = _sum_before(edges_Q, bin_of_Q)

    lengths_GxR = np.zeros((len(bins), shape.rows), int)
    lengths_GxR[bin_of_Q, row_Q] = nodes_Q
    is_node_GxRxU = np.arange(shape.row_length) < lengths_GxR[..., None]
    nodes = self._nodes.items(rows_Q)
    features |= _end_to_end("trie", is_node_GxRxU, shape.nodes)
    for name, values in (
      ("trie_depths", tries.depths),
      ("trie_ends", tries.ends),
    ):
      features[name] = np.zeros(is_node_GxRxU.shape, np.int32)
      features[name][is_node_GxRxU] = values[nodes]
    features["trie_tokens"] = _filled(
      tries.tokens[nodes], lengths_GxR.sum(1), shape.nodes
    )
    features["trie_instructions"] = np.zeros(lengths_GxR.shape, np.int32)
    features["trie_instructions"][bin_of_Q, row_Q] = number_M[of_member_Q]

    edges = self._edges.items(rows_Q)
    counts_G = np.bincount(bin_of_Q, edges_Q, len(bins)).astype(int)
    edge_nodes = tries.edge_nodes[edges] + np.repeat(first_node_Q, edges_Q)
    features["edge_nodes"] = _filled(edge_nodes, counts_G, shape.edges)
    features["edge_targets"] = _filled(
      tries.edge_targets[edges], counts_G, shape.edges
    )

    candidates_C = self._candidates.items(rows_Q)
    row_of_C = np.repeat(np.arange(len(rows_Q)), tries.row_candidates[rows_Q])
    lengths_C = tries.lengths[candidates_C]
    before_C = (bin_of_Q % shards * shape.edges + first_edge_Q)[row_of_C]
    paths = tries.paths[self._paths.items(candidates_C)]
    paths = paths + np.repeat(before_C, lengths_C)
    member_of_C = of_member_Q[row_of_C]
    # The places of each candidate in its request, which may have it twice.
    in_chunk_C = (
      tries.candidates[candidates_C]
      + self._chunk.first_candidates[members_M[member_of_C]]
    )
    places_C = self._places.counts[in_chunk_C]
    slots = np.stack(
      [
        np.repeat(self._chunk.indices[members_M[member_of_C]], places_C),
        self._chunk.places[self._places.items(in_chunk_C)],
      ],
      axis=1,
    )
    candidate_of_slot = np.repeat(np.arange(len(candidates_C)), places_C)

    bounds = np.arange(0, len(bins) + 1, shards)
    of_C = np.searchsorted(bin_of_Q[row_of_C], bounds)
    of_path = np.concatenate([[0], np.cumsum(lengths_C)])[of_C]
    of_slot = np.concatenate([[0], np.cumsum(places_C)])[of_C]
    for batch, start in enumerate(bounds[:-1]):
      candidates = slice(*of_C[batch : batch + 2])
      here = slice(*of_slot[batch : batch + 2])
      yield Batch(
        {name: of[start : start + shards] for name, of in features.items()},
        paths[slice(*of_path[batch : batch + 2])],
        lengths_C[candidates],
        slots[here],
        candidate_of_slot[here] - candidates.start,
      )

  def _instructions(
    self,
    members_M: np.ndarray,
    bin_of_M: np.ndarray,
    number_M: np.ndarray,
    bins: int,
  ) -> dict[str, np.ndarray]:
    """Returns the features of instructions."""
    shape, chunk = self._shape, self._chunk
    lengths_GxB = np.zeros((bins, shape.instructions), np.int32)
    lengths_GxB[bin_of_M, number_M] = chunk.lengths[members_M]
    is_token_GxBxT = np.arange(shape.length) < lengths_GxB[..., None]
    instructions = [chunk.requests[m].instruction for m in members_M.tolist()]
    tokens = np.concatenate(instructions or [np.zeros(0, np.int32)])
    return {
      "encoder_lengths": lengths_GxB,
      "encoder_tokens": _filled(tokens, lengths_GxB.sum(1), shape.tokens),
      **_end_to_end("encoder", is_token_GxBxT, shape.tokens),
    }


def _end_to_end(
  side: str, is_token_GxRxU: np.ndarray, capacity: int
) -> dict[str, np.ndarray]:
  """Returns where tokens of rows stand in bins, and the places of tokens."""
  bins, rows, width = is_token_GxRxU.shape
  counts_G = is_token_GxRxU.sum((1, 2))
  tokens_GxRxU = np.zeros(is_token_GxRxU.shape, np.int32)
  index = np.broadcast_to(np.arange(capacity, dtype=np.int32), (bins, capacity))
  tokens_GxRxU[is_token_GxRxU] = index[np.arange(capacity) < counts_G[:, None]]
  place = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
  places = np.broadcast_to(place, is_token_GxRxU.shape)[is_token_GxRxU]
  return {
    f"{side}_rows": tokens_GxRxU,
    f"{side}_places": _filled(places, counts_G, capacity),
  }


def _filled(
  values: np.ndarray, counts_G: np.ndarray, capacity: int
) -> np.ndarray:
  """Returns int32 [G, capacity]: values dealt to bins, which end with zeros."""
  filled = np.zeros((len(counts_G), capacity), np.int32)
  filled[np.arange(capacity) < counts_G[:, None]] = values
  return filled


def _within(bin_of: np.ndarray) -> np.ndarray:
  """Returns the index of each item among those of its bin; bins are sorted."""
  index = np.arange(len(bin_of))
  return index - np.searchsorted(bin_of, bin_of)


def _sum_before(counts: np.ndarray, bin_of: np.ndarray) -> np.ndarray:
  """Returns the sum of the counts before each item in its bin."""
  before = np.cumsum(counts) - counts
  first = np.searchsorted(bin_of, bin_of)
  return before - before[first]
