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
from instructrec_jax.scoring.shapes import Bin, Shape
from instructrec_jax.scoring.tokenization import TokenizedRequest

# How many requests that no shape fits well are remembered.
_MISFITS = 1024


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

  def add_shape(
    self, requests: Sequence[TokenizedRequest], *, together: int
  ) -> None:
    """Adds a shape that holds about so many of requests like these.

    For a caller that knows what will come, while there is a free shape.

    Args:
      requests: all of about a size.
      together: how many will be scored at a time.
    """
    tokens = sum(request.tokens for request in requests)
    bins = max(
      len(requests) / together / self._shards, tokens / self._bin_tokens
    )
    shape = shapes.even_shape(requests, math.ceil(bins))
    with self._lock:
      if self._free_shapes and shape not in self._shapes:
        self._shapes.append(shape)

  def bins(
    self, requests: Sequence[TokenizedRequest]
  ) -> dict[Shape, list[Bin]]:
    """Returns bins that hold all requests; it may add shapes for them."""
    with self._lock:
      if requests and not self._shapes:
        self._add_shapes(requests, self._bin_tokens)
      binned = self._into_known_shapes(requests)
      self._note_misfits(binned)
      if self._wasted > shapes.TOKENS_PER_SHAPE and self._add_shapes(
        list(self._misfits), self._misfit_tokens
      ):
        binned = self._into_known_shapes(requests)
      return binned

  def batches(
    self, requests: Sequence[TokenizedRequest]
  ) -> Iterator[tuple[Shape, Batch]]:
    """Yields all requests in batches."""
    for shape, bins in self.bins(requests).items():
      for start in range(0, len(bins), self._shards):
        here = bins[start : start + self._shards]
        yield shape, to_batch(here, shape=shape)

  @property
  def _free_shapes(self) -> int:
    return shapes.MAX_SHAPES - shapes.LARGE_SHAPES - len(self._shapes)

  def _into_known_shapes(
    self, requests: Sequence[TokenizedRequest]
  ) -> dict[Shape, list[Bin]]:
    grouped = shapes.by_shape(requests, self._shapes, shards=self._shards)
    return {
      shape: shapes.bins_of(members, shape, shards=self._shards)
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

  def _note_misfits(self, binned: dict[Shape, list[Bin]]) -> None:
    """Notes requests in shapes of which a third or more is padding."""
    if not self._free_shapes:
      return
    tokens = 0
    for shape, bins in binned.items():
      members = [request for of_bin in bins for request in of_bin]
      cost, needed = len(bins) * shape.cost, sum(r.cost for r in members)
      if cost > 1.5 * needed:
        self._misfits.extend(members)
        self._wasted += cost - needed
        tokens += sum(request.tokens for request in members)
    self._misfit_tokens = max(
      self._misfit_tokens, min(tokens // self._shards, self._bin_tokens)
    )

  def _add_shapes(
    self, requests: Sequence[TokenizedRequest], bin_tokens: int
  ) -> bool:
    """Fits shapes to requests; returns whether any was free.

    A call leaves a third of the free ones to later requests of another kind.
    """
    free = self._free_shapes
    if not free:
      return False
    fitted = shapes.fitted_shapes(
      requests,
      most=free - free // 3,
      bin_tokens=max(bin_tokens, 1),
      shards=self._shards,
    )
    self._shapes += [shape for shape in fitted if shape not in self._shapes]
    self._forget_misfits()
    return True


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
          own = path[request.said :]
          edges += [before + step for step in own]
          lengths.append(len(own))
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
