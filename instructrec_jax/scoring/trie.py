"""Candidates as a prefix trie: what they begin with alike is computed once.

A node is what the decoder has read: a start and some tokens. An edge is a token
to be predicted at a node. "red tent" and "red kayak" share two nodes and one
edge. A trie is cut into rows, as attention is computed between all nodes of a
row; a row repeats the beginning that it shares with the one before.
"""

import dataclasses
from collections.abc import Sequence

START_ID = 0


@dataclasses.dataclass(slots=True)
class TrieRow:
  """Nodes in depth-first order, so that a subtree is an interval.

  Attributes:
    tokens: what is read last at each node.
    depths: how many tokens are read before it.
    ends: the first node behind each node's subtree: i is read at j, or before
      it, if i <= j < ends[i].
    edge_nodes: the node of each edge.
    edge_targets: the token of each edge.
    candidates: the numbers of the candidates that end in this row.
    paths: the edges of each of them, from the start to its end.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  depths: list[int] = dataclasses.field(default_factory=list)
  ends: list[int] = dataclasses.field(default_factory=list)
  edge_nodes: list[int] = dataclasses.field(default_factory=list)
  edge_targets: list[int] = dataclasses.field(default_factory=list)
  candidates: list[int] = dataclasses.field(default_factory=list)
  paths: list[list[int]] = dataclasses.field(default_factory=list)


def trie_rows(
  candidates: Sequence[tuple[int, ...]], row_length: int
) -> list[TrieRow]:
  """Returns the trie of distinct candidates, in rows.

  Args:
    candidates: token ids, each with its end, none longer than a row.
    row_length: the most nodes in a row.
  """
  rows: list[TrieRow] = []
  ids: tuple[int, ...] = ()
  path: list[int] = []
  nodes: list[int] = []
  for number in sorted(range(len(candidates)), key=candidates.__getitem__):
    before, ids = ids, candidates[number]
    shared = _shared(before, ids) if rows else 0
    # A candidate of n tokens is predicted at n nodes, the start among them.
    if not rows or len(rows[-1].tokens) + len(ids) - shared - 1 > row_length:
      row = TrieRow([START_ID], [0], [1])
      rows.append(row)
      shared, path, nodes = 0, [], [0]
    row = rows[-1]
    path, nodes = path[:shared], nodes[: shared + 1]
    for depth in range(shared, len(ids)):
      if depth > shared:
        nodes.append(len(row.tokens))
        row.tokens.append(ids[depth - 1])
        row.depths.append(depth)
        row.ends.append(0)
      path.append(len(row.edge_nodes))
      row.edge_nodes.append(nodes[depth])
      row.edge_targets.append(ids[depth])
    for node in nodes:
      row.ends[node] = len(row.tokens)
    row.candidates.append(number)
    row.paths.append(path)
  return rows


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
  """Returns how many tokens two candidates have in common at their start."""
  for count, (a, b) in enumerate(zip(one, other, strict=False)):
    if a != b:
      return count
  return min(len(one), len(other))
