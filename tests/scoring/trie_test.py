"""Tests for instructrec_jax/scoring/trie.py."""

from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.scoring.trie import START_ID, trie_rows

ROW_LENGTH = 12
candidates_of_few_words = st.lists(
  st.lists(st.integers(3, 5), max_size=ROW_LENGTH - 1).map(
    lambda ids: (*ids, 1)
  ),
  min_size=1,
  max_size=30,
  unique=True,
)


def ancestors(row, node):
  """The nodes read up to this one, by the intervals of subtrees."""
  return [i for i in range(node + 1) if node < row.ends[i]]


@given(candidates_of_few_words)
def test_paths_spell_the_candidates(candidates):
  found = {}
  for row in trie_rows(candidates, ROW_LENGTH):
    for number, path in zip(row.candidates, row.paths, strict=True):
      found[number] = tuple(row.edge_targets[edge] for edge in path)
  assert [found[n] for n in range(len(candidates))] == candidates


@given(candidates_of_few_words)
def test_each_edge_is_predicted_where_all_before_it_is_read(candidates):
  for row in trie_rows(candidates, ROW_LENGTH):
    assert len(row.tokens) <= ROW_LENGTH
    for number, path in zip(row.candidates, row.paths, strict=True):
      for length, edge in enumerate(path):
        read = ancestors(row, row.edge_nodes[edge])
        assert [row.tokens[i] for i in read] == [
          START_ID,
          *candidates[number][:length],
        ]
        assert [row.depths[i] for i in read] == list(range(length + 1))


@given(candidates_of_few_words)
def test_nothing_is_computed_twice_in_a_row(candidates):
  for row in trie_rows(candidates, 1 << 20):
    read = [
      tuple(row.tokens[i] for i in ancestors(row, node))
      for node in range(len(row.tokens))
    ]
    assert len(set(read)) == len(read)
    edges = list(zip(row.edge_nodes, row.edge_targets, strict=True))
    assert len(set(edges)) == len(edges)
