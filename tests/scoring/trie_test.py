"""Tests for instructrec_jax/scoring/trie.py."""

import types

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.scoring.trie import START_ID, to_bytes, tries_of

ROW_LENGTH = 12
candidates_of_few_words = st.lists(
  st.lists(st.integers(3, 5), max_size=ROW_LENGTH - 1).map(
    lambda ids: (*ids, 1)
  ),
  min_size=1,
  max_size=30,
  unique=True,
)


def trie_rows(candidates, row_length, said=0):
  """The rows of one request's trie, after those of another."""
  (rows,) = requests_rows([candidates], row_length, said)
  return rows


def requests_rows(requests, row_length, said=0):
  """The rows of each request's trie, arrays cut as their counts say."""
  tries = tries_of(
    [to_bytes(ids) for candidates in requests for ids in candidates],
    np.array(list(map(len, requests))),
    row_length,
    np.full(len(requests), said),
  )
  nodes, edges, ends = (
    np.cumsum(counts)
    for counts in (tries.row_nodes, tries.row_edges, tries.row_candidates)
  )

  def cut(array, at):
    return [part.tolist() for part in np.split(array, at)]

  paths = cut(tries.paths, np.cumsum(tries.lengths)[:-1])
  rows = [
    types.SimpleNamespace(**dict(zip(names, of_row, strict=True)))
    for names in [
      "tokens depths ends edge_nodes edge_targets candidates paths".split()
    ]
    for of_row in zip(
      cut(tries.tokens, nodes[:-1]),
      cut(tries.depths, nodes[:-1]),
      cut(tries.ends, nodes[:-1]),
      cut(tries.edge_nodes, edges[:-1]),
      cut(tries.edge_targets, edges[:-1]),
      cut(tries.candidates, ends[:-1]),
      [
        paths[end - count : end]
        for end, count in zip(ends, tries.row_candidates, strict=True)
      ],
      strict=True,
    )
  ]
  ends = np.cumsum(tries.rows)
  return [
    rows[end - count : end] for end, count in zip(ends, tries.rows, strict=True)
  ]


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


@given(st.lists(candidates_of_few_words, min_size=1, max_size=6))
def test_tries_of_requests_do_not_depend_on_each_other(requests):
  for candidates, rows in zip(
    requests, requests_rows(requests, ROW_LENGTH), strict=True
  ):
    assert rows == trie_rows(candidates, ROW_LENGTH)
    # A row ends where the next candidate does not fit.
    for row, after in zip(rows, rows[1:], strict=False):
      last, ids = (
        candidates[row.candidates[-1]],
        candidates[after.candidates[0]],
      )
      shared = next(n for n in range(12) if last[n] != ids[n])
      assert len(row.tokens) + len(ids) - shared - 1 > ROW_LENGTH


@given(candidates_of_few_words, st.integers(1, 3))
def test_what_was_said_is_on_no_path(candidates, said):
  behind = [((7,) * said + ids)[:ROW_LENGTH] for ids in candidates]
  behind = list(dict.fromkeys((*ids[:-1], 1) for ids in behind))
  for row, cut in zip(
    trie_rows(behind, ROW_LENGTH),
    trie_rows(behind, ROW_LENGTH, said),
    strict=True,
  ):
    assert cut.paths == [path[said:] for path in row.paths]
    assert cut.edge_nodes == row.edge_nodes
