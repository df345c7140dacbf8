"""All titles of a catalogue as one trie, to be searched from its root."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.scoring.trie import trie_rows


class TitleTrie:
  """Distinct titles' tokens; nodes and edges are as in `trie`.

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

  def __init__(self, titles: Sequence[tuple[int, ...]]):
    """Builds the trie of distinct titles, each with its end of sequence."""
    (row,) = trie_rows(titles, sum(map(len, titles)) + 1)
    self.tokens = np.array(row.tokens, np.int32)
    self.depths = np.array(row.depths, np.int32)
    self.depth = int(self.depths.max()) + 1
    self.parents = np.zeros_like(self.tokens)
    path: list[int] = []
    for node, depth in enumerate(row.depths):
      path[depth:] = [node]
      self.parents[node] = path[max(depth - 1, 0)]
    nodes = np.array(row.edge_nodes)
    by_node = np.argsort(nodes, kind="stable")
    self.first_edges = np.searchsorted(
      nodes[by_node], np.arange(len(self.tokens) + 1)
    )
    self.targets = np.array(row.edge_targets, np.int32)[by_node]
    place = np.argsort(by_node)
    behind = {
      (int(self.parents[node]), row.tokens[node]): node
      for node in range(1, len(row.tokens))
    }
    ends = {
      path[-1]: number
      for number, path in zip(row.candidates, row.paths, strict=True)
    }
    self.children = np.full(len(nodes), -1, np.int32)
    self.titles = np.full(len(nodes), -1, np.int32)
    for edge, (node, target) in enumerate(
      zip(row.edge_nodes, row.edge_targets, strict=True)
    ):
      if edge in ends:
        self.titles[place[edge]] = ends[edge]
      else:
        self.children[place[edge]] = behind[node, target]
    self._last_nodes = np.zeros(len(titles), int)
    for number, path in zip(row.candidates, row.paths, strict=True):
      self._last_nodes[number] = nodes[path[-1]]

  def largest(self, values: np.ndarray) -> np.ndarray:
    """Returns [nodes]: the largest value of the titles that begin so."""
    found = np.full(len(self.tokens), -np.inf)
    np.maximum.at(found, self._last_nodes, values)
    # Children stand behind their parents.
    for node in range(len(self.tokens) - 1, 0, -1):
      parent = self.parents[node]
      found[parent] = max(found[parent], found[node])
    return found

  def paths(self, nodes: np.ndarray) -> np.ndarray:
    """Returns [..., depth]: the nodes from the root to each of these.

    What stands behind a node's own depth is the node again.
    """
    found = np.repeat(nodes[..., None], self.depth, axis=-1)
    for depth in range(self.depth - 2, -1, -1):
      after = found[..., depth + 1]
      found[..., depth] = np.where(
        self.depths[after] > depth, self.parents[after], after
      )
    return found

  def edges_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns all edges of nodes, and for each which of the nodes it is of."""
    first, last = self.first_edges[nodes], self.first_edges[nodes + 1]
    counts = last - first
    of = np.repeat(np.arange(len(nodes)), counts)
    starts = np.cumsum(counts) - counts
    return np.arange(len(of)) - starts[of] + first[of], of
