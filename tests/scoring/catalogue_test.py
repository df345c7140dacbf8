"""Tests for instructrec_jax/scoring/catalogue.py: exact, whatever the model."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import catalogue
from instructrec_jax.scoring.catalogue_ranker import (
  CatalogueRanker,
  CatalogueSearch,
)
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.title_trie import TitleTrie
from instructrec_jax.scoring.trie import to_bytes

WORDS = "tent stove lantern kayak paddle rope helmet saddle pump green".split()
# One, two and three words; the last is another text of the same tokens.
TITLES = [
  *WORDS,
  *map(" ".join, itertools.product(WORDS[:6], repeat=2)),
  *map(" ".join, itertools.product(WORDS[2:5], repeat=3)),
  "tent  stove",
]
# Purchases differ where the tokens do not.
COUNTS = {title: number**2 for number, title in enumerate(TITLES) if number % 4}


@pytest.fixture(scope="module")
def model(config, params, vocabulary):
  # Sharper than random weights are, as a trained model's predictions.
  def sharpen(path, array):
    return 3 * array if "logits_dense" in jax.tree_util.keystr(path) else array

  params = jax.tree_util.tree_map_with_path(sharpen, params)
  return {"config": config, "params": params, "vocabulary": vocabulary}


@pytest.fixture(scope="module")
def everything(model, requests):
  """Scores of all titles by the ranker, for sum and mean."""
  whole = [
    RankingRequest(r.request_id, r.instruction, tuple(TITLES)) for r in requests
  ]
  ranker = T5Ranker(**model, title_counts=COUNTS)
  return ranker.score_all(whole, ("sum", "mean", "catalogue_prior"))


def assert_top(found, scores, k):
  best = np.sort(scores)[::-1][:k]
  np.testing.assert_allclose(found.scores, best, rtol=1e-5)
  np.testing.assert_allclose(scores[found.titles], best, rtol=1e-5)
  assert len(set(found.titles)) == k


@pytest.mark.parametrize("normalisation", ["sum", "mean", "catalogue_prior"])
@pytest.mark.parametrize("nodes", [1, 7])
def test_the_top_is_that_of_scoring_everything(
  model, requests, everything, normalisation, nodes
):
  search = CatalogueSearch(
    TITLES,
    normalisation=normalisation,
    title_counts=COUNTS,
    nodes=nodes,
    batch=9,
    **model,
  )
  texts = [request.instruction for request in requests]
  for one, scores in zip(
    search.top(texts, 10), everything[normalisation], strict=True
  ):
    assert_top(one, scores, 10)
    assert one.nodes < len(search.trie.tokens)


@pytest.mark.parametrize("nodes", [3, 16])
def test_titles_are_found_behind_what_was_said(model, requests, nodes):
  """By each answer of a batch what it begins with, of any length."""
  asked = [
    RankingRequest(
      r.request_id,
      r.instruction,
      tuple(TITLES),
      said=" ".join(WORDS * 5)[: 40 * (number % 6)].rstrip(),
    )
    for number, r in enumerate(requests)
  ]
  scores = T5Ranker(**model).score(asked)
  search = CatalogueSearch(TITLES, nodes=nodes, batch=9, **model)
  found = search.top(
    [r.instruction for r in asked], 10, said=[r.said for r in asked]
  )
  for one, of_request in zip(found, scores, strict=True):
    assert_top(one, of_request, 10)


@pytest.mark.usefixtures("all_devices")
def test_a_search_is_split_over_data_devices(model, requests, everything):
  """What is of an instruction stays where it is, and few numbers come back."""
  mesh = mesh_lib.make_mesh(data=4, model=2)
  search = CatalogueSearch(TITLES, mesh=mesh, nodes=3, batch=10, **model)
  programs = []

  def told(jitted):
    def call(*args):
      programs.append(jitted.lower(*args).compile().as_text())
      return jitted(*args)

    return call

  search._decode, edges = told(search._decode), search._edges
  shapes = set()

  def of_edges(*args):
    log_p = edges(*args)
    shapes.add(log_p.shape)
    return log_p

  search._edges = of_edges
  texts = [request.instruction for request in requests[:10]]
  for one, scores in zip(search.top(texts, 5), everything["sum"], strict=False):
    assert_top(one, scores, 5)
  # Rounded up to the devices; padded to the least number of edges.
  assert shapes == {(12, 64)}
  # Three instructions a device; a cache is never whole on one.
  assert "f32[3,256,4,4]" in programs[0]
  assert not any("f32[12," in program for program in programs)


def test_the_device_has_work_while_the_host_chooses(model, requests):
  """Two batches in turns: neither waits for numbers that were just asked."""
  search = CatalogueSearch(TITLES, nodes=3, batch=2, **model)
  edges, asked, fetched = search._edges, [], []

  class Asked:
    def __init__(self, log_p):
      self.log_p = log_p
      asked.append(self)

    def __array__(self, *args, **options):
      fetched.append((asked.index(self), len(asked)))
      return np.asarray(self.log_p)

  search._edges = lambda *args: Asked(edges(*args))
  search.top([request.instruction for request in requests[:4]], 5)
  numbers, so_far = map(np.array, zip(*fetched, strict=True))
  assert sorted(numbers) == list(range(len(asked)))
  # But when one of the two is over, nothing is in between.
  other = so_far - numbers == 2
  assert other[: len(other) // 2].all()


def test_excluded_titles_do_not_count(model, requests, everything):
  scores = everything["sum"][0].copy()
  excluded = np.argsort(-scores)[:4].tolist()
  scores[excluded] = -np.inf
  search = CatalogueSearch(TITLES, **model)
  (found,) = search.top([requests[0].instruction], 5, excluded=[excluded])
  assert_top(found, scores, 5)


def test_more_than_there_are_is_all_in_order(model, requests, everything):
  search = CatalogueSearch(TITLES, **model)
  (found,) = search.top([requests[1].instruction], 1000)
  assert_top(found, everything["sum"][1], len(TITLES))
  assert found.nodes == len(search.trie.tokens)


def test_many_nodes_may_be_read_at_a_time(model, requests, monkeypatch):
  """More nodes than one doubling of the cache holds."""
  monkeypatch.setattr(catalogue, "_CAPACITY", 2)
  titles = list(map(" ".join, itertools.product(WORDS, repeat=3)))
  search = CatalogueSearch(titles, nodes=64, batch=2, **model)
  found = search.top([r.instruction for r in requests[:2]], 900)
  whole = [
    RankingRequest(r.request_id, r.instruction, tuple(titles))
    for r in requests[:2]
  ]
  for one, scores in zip(found, T5Ranker(**model).score(whole), strict=True):
    assert_top(one, scores, 900)


def test_weights_that_are_no_numbers_are_refused(model, requests):
  broken = jax.tree.map(lambda array: array * np.nan, model["params"])
  search = CatalogueSearch(TITLES, **(model | {"params": broken}))
  with pytest.raises(InputError, match="check its weights"):
    search.top([requests[0].instruction], 5)


def test_counts_below_one_are_refused(model, requests):
  for options in ({"nodes": 0}, {"batch": 0}):
    with pytest.raises(InputError, match="at least 1 is needed"):
      CatalogueSearch(TITLES, **options, **model)
  with pytest.raises(InputError, match="k is 0: at least 1"):
    CatalogueSearch(TITLES, **model).top([requests[0].instruction], 0)
  with pytest.raises(InputError, match="k is 0: at least 1"):
    CatalogueRanker(k=0, **model)


def test_texts_of_the_same_tokens_tie(model, requests):
  search = CatalogueSearch(["tent stove", "rope", "tent  stove"], **model)
  (found,) = search.top([requests[2].instruction], 3)
  scores = dict(zip(found.titles, found.scores, strict=True))
  assert scores[0] == scores[2] != scores[1]


def test_the_ranker_scores_each_requests_candidates(
  model, requests, everything
):
  ranker = CatalogueRanker(k=5, **model)
  fewer = [
    RankingRequest(r.request_id, r.instruction, tuple(TITLES[number:]))
    for number, r in enumerate(requests[:3])
  ]
  for number, values in enumerate(ranker.score(fewer)):
    expected = everything["sum"][number][number:]
    top = np.isfinite(values)
    assert 5 <= top.sum()
    np.testing.assert_allclose(values[top], expected[top], rtol=1e-5)
    assert values[top].min() >= expected[~top].max()


@pytest.mark.parametrize("name", ["pmi", "byte", "ghost_free"])
def test_what_has_no_bound_is_refused(model, name):
  with pytest.raises(InputError, match=f"cannot be searched by {name}"):
    CatalogueSearch(TITLES, normalisation=name, **model)


def test_nodes_lead_to_the_root():
  titles = [(5, 1), (5, 6, 1), (5, 6, 7, 1), (8, 1)]
  trie = TitleTrie(list(map(to_bytes, titles)))
  assert trie.tokens.tolist() == [0, 5, 8, 6, 7]
  assert trie.parents.tolist() == [0, 0, 0, 1, 3]
  edges, of = trie.edges_of(np.array([0, 3]))
  assert of.tolist() == [0, 0, 1, 1]
  assert trie.targets[edges].tolist() == [5, 8, 1, 7]
  assert trie.children[edges].tolist() == [1, 2, -1, 4]
  assert trie.titles[edges].tolist() == [-1, -1, 1, -1]
  longest = trie.largest(np.array([2, 3, 4, 2]))
  assert longest.tolist() == [4, 4, 2, 4, 4]


@given(
  st.sets(
    st.lists(st.integers(3, 5), max_size=5).map(lambda ids: (*ids, 1)),
    min_size=1,
  )
)
def test_each_title_is_spelt_by_one_path(titles):
  titles = sorted(titles)
  trie = TitleTrie(list(map(to_bytes, titles)))
  ends = {title: edge for edge, title in enumerate(trie.titles) if title >= 0}
  of_edge = np.repeat(np.arange(len(trie.tokens)), np.diff(trie.first_edges))
  for number, ids in enumerate(titles):
    edge, spelt = ends[number], []
    while True:
      node = of_edge[edge]
      spelt.insert(0, int(trie.targets[edge]))
      assert trie.depths[node] == len(ids) - len(spelt)
      if not node:
        break
      assert trie.tokens[node] == trie.targets[trie.children == node][0]
      (edge,) = np.flatnonzero(trie.children == node)
    assert tuple(spelt) == ids
  beginnings = {ids[:n] for ids in titles for n in range(len(ids))}
  assert len(trie.tokens) == len(beginnings)
