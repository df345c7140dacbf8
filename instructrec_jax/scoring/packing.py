"""Requests laid out as batches.

A batch is a number of bins, one for each shard of the mesh's data axis. A bin
holds instructions end to end, and the tries of their candidates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from instructrec_jax.scoring.shapes import Bin, Shape


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
