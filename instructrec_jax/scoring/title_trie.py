"""All titles of a catalogue as one trie, to be searched from its root."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.scoring.trie import ID_BYTES, START_ID


class TitleTrie:
  """Distinct titles' tokens; nodes and edges are as in `trie`.

  Nodes are in the order of their depths, the root first, and those behind a
  node in the order of its edges. Some 30 bytes a node are kept, and a million
  titles are a matter of seconds.

  Attributes:
    tokens: [nodes] what is read last at each node; the root is node 0.
    depths: [nodes] how many tokens are read before it.
    parents: [nodes] the node before, the root's is itself.
    first_edges: [nodes + 1] where the edges of each node begin.
    targets: [edges] the token of each edge.
    children: [edges] the node behind it, -1 where a title ends.
    titles: [edges] the title that ends with it, -1 where none does.
    depth: the greatest number of nodes on a path.
  """

  def __init__(self, titles: Sequence[bytes]):
    """Builds the trie.

    Args:
      titles: of `trie.to_bytes`, distinct and sorted, each with its end.
    """
    count = len(titles)
    lengths = np.fromiter(map(len, titles), np.int32, count) // ID_BYTES
    ids = np.frombuffer(b"".join(titles), f">u{ID_BYTES}").astype(np.int32)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    # Titles that go on, the node that each has come to, and whether it is that
    # of the one before.
    here, node = np.arange(count), np.zeros(count, np.int32)
    same = np.arange(count) > 0
    nodes = 1
    tokens, edge_nodes, ends, targets = (
      [np.array([START_ID], np.int32)],
      [],
      [],
      [],
    )
    self._levels = [0, 1]
    for depth in range(int(lengths.max(initial=0))):
      token = ids[starts[here] + depth]
      same[1:] &= token[1:] == token[:-1]
      is_end = lengths[here] == depth + 1
      new = ~same
      edge_nodes.append(node[new])
      targets.append(token[new])
      ends.append(np.where(is_end, here, -1)[new].astype(np.int32))
      node = (nodes - 1 + np.cumsum(new & ~is_end)).astype(np.int32)
      tokens.append(token[new & ~is_end])
      nodes += len(tokens[-1])
      self._levels.append(nodes)
      here, node, same = here[~is_end], node[~is_end], same[~is_end]
    self.tokens = np.concatenate(tokens)
    self.targets = np.concatenate(targets)
    self.titles = np.concatenate(ends)
    of_node = np.concatenate(edge_nodes)
    inner = self.titles < 0
    self.children = np.where(inner, np.cumsum(inner, dtype=np.int32), -1)
    self.first_edges = np.searchsorted(of_node, np.arange(nodes + 1)).astype(
      np.int32
    )
    self.parents = np.concatenate([np.zeros(1, np.int32), of_node[inner]])
    self.depth = len(self._levels) - 2
    widths = np.diff(self._levels)
    self.depths = np.repeat(np.arange(len(widths), dtype=np.int32), widths)
    self._last_nodes = np.empty(count, np.int32)
    self._last_nodes[self.titles[~inner]] = of_node[~inner]

  def largest(self, values: np.ndarray) -> np.ndarray:
    """Returns [nodes]: the largest value of the titles that begin so."""
    found = np.full(len(self.tokens), -np.inf)
    np.maximum.at(found, self._last_nodes, values)
    levels = self._levels
    for first, last in zip(levels[-2:0:-1], levels[:1:-1], strict=True):
      np.maximum.at(found, self.parents[first:last], found[first:last])
    return found

  def edges_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all edges of nodes, and for each which of the nodes it is of."""
    first, last = self.first_edges[nodes], self.first_edges[nodes + 1]
    counts = last - first
    of = np.repeat(np.arange(len(nodes)), counts)
    starts = np.cumsum(counts) - counts
    return np.arange(len(of)) - starts[of] + first[of], of
