"""Tests for instructrec_jax/evaluation/diagnostics.py."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from instructrec_jax.evaluation.diagnostics import (
  Exposure,
  by_head_and_tail,
  by_popularity,
  expected_places,
  gini,
  group_means,
  head,
  popularity,
  position_bias,
  same_query,
)
from instructrec_jax.records import RankingRequest

COUNTS = np.array([50, 20, 10, 10, 5, 5])


def request(items):
  return RankingRequest("r", "", tuple(map(str, items)), candidate_items=items)


def test_popularity_is_the_mid_percentile():
  np.testing.assert_allclose(
    popularity(COUNTS) * 12, [11, 9, 6, 6, 2, 2], atol=1e-12
  )


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_popularity_averages_one_half(counts):
  percentiles = popularity(np.array(counts))
  assert percentiles.mean() == pytest.approx(0.5)
  assert (percentiles > 0).all() and (percentiles < 1).all()


def test_the_head_by_hand():
  np.testing.assert_array_equal(head(COUNTS), [1, 0, 0, 0, 0, 0])
  # 80 of 100 is reached with one of the two tens; both belong to the head.
  np.testing.assert_array_equal(head(COUNTS, share=0.8), [1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(head(COUNTS[::-1]), [0, 0, 0, 0, 0, 1])


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  st.lists(st.integers(0, 6), min_size=1, max_size=12), st.floats(0.1, 1)
)
def test_the_head_is_the_smallest_that_separates_no_equals(counts, share):
  counts = np.array(counts)
  hypothesis.assume(counts.any())
  smallest = next(
    counts >= bound
    for bound in sorted(set(counts), reverse=True)
    if counts[counts >= bound].sum() >= share * counts.sum()
  )
  np.testing.assert_array_equal(head(counts, share=share), smallest)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4
  ),
  st.integers(1, 6),
)
def test_places_equal_the_mean_over_every_order_of_ties(requests, k):
  expected = []
  for scores in requests:
    orders = [
      order[:k]
      for order in itertools.permutations(range(len(scores)))
      if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    expected += [
      np.mean([candidate in order for order in orders])
      for candidate in range(len(scores))
    ]
  places = expected_places([np.array(s, np.float32) for s in requests], k=k)
  np.testing.assert_allclose(places, expected)


def test_gini_by_hand():
  assert gini(np.full(5, 3.0)) == pytest.approx(0)
  assert gini(np.array([0.0, 0, 0, 8])) == pytest.approx(3 / 4)
  amounts = np.array([1.0, 4, 2])
  slow = np.abs(amounts[:, None] - amounts).mean() / (2 * amounts.mean())
  assert gini(amounts) == pytest.approx(slow)


def test_a_summary_by_hand():
  exposure = Exposure(COUNTS, ks=(1, 2))
  # Item 0 first; then items 2 and 3 tied for first, item 4 after them.
  exposure.add([request((0, 5))], [np.array([2.0, 1.0])])
  exposure.add([request((4, 2, 3))], [np.array([0.0, 1.0, 1.0])])
  exposure.add([], [])
  percentiles = popularity(COUNTS)
  summary = exposure.summary()
  assert summary == pytest.approx(
    {
      "popularity_candidates": percentiles[[0, 5, 4, 2, 3]].mean(),
      "popularity@1": (percentiles[0] + percentiles[2]) / 2,
      "coverage@1": 2 / 6,
      "gini@1": gini(np.array([1, 0, 0.5, 0.5, 0, 0])),
      "popularity@2": percentiles[[0, 5, 2, 3]].mean(),
      "coverage@2": 4 / 6,
      "gini@2": gini(np.array([1, 0, 1, 1, 0, 1])),
    }
  )


def test_coverage_is_expected_over_independent_ties():
  exposure = Exposure(np.ones(2, int), ks=(1,))
  exposure.add([request((0, 1))] * 2, [np.zeros(2)] * 2)
  # Two coins show one item or both, equally often.
  assert exposure.summary()["coverage@1"] == pytest.approx(3 / 4)


def test_batches_add_up():
  rng = np.random.default_rng(0)
  requests = [request(tuple(rng.permutation(6)[:4])) for _ in range(20)]
  scores = [rng.integers(0, 3, 4) * 1.0 for _ in requests]
  whole, parts = Exposure(COUNTS, ks=(1, 3)), Exposure(COUNTS, ks=(1, 3))
  whole.add(requests, scores)
  for start in (0, 7, 14):
    parts.add(requests[start : start + 7], scores[start : start + 7])
  assert whole.summary() == pytest.approx(parts.summary())


def test_hits_by_head_tail_and_decile():
  targets = np.array([0, 0, 1, 4, 5])
  hits = np.array([1, 0.5, 0, 1, 0])
  parts = by_head_and_tail(hits, targets, COUNTS)
  assert {name: (m.requests, m.value) for name, m in parts.items()} == {
    "head": (2, 0.75),
    "tail": (3, pytest.approx(1 / 3)),
  }
  deciles = by_popularity(hits, targets, COUNTS)
  assert [(m.group, m.requests, m.value) for m in deciles] == [
    (1, 2, 0.5),
    (7, 1, 0.0),
    (9, 2, 0.75),
  ]


def test_means_by_hand():
  hits = np.array([1, 0, 0.5, 1, 1])
  means = group_means(hits, np.array([0, 0, 3, 3, 1]), 5)
  assert [(m.group, m.requests, m.value) for m in means] == [
    (0, 2, 0.5),
    (1, 1, 1.0),
    (3, 2, 0.75),
  ]
  assert all(m.low <= m.value <= m.high for m in means)
  assert (means[1].low, means[1].high) == (1, 1)


def test_the_seed_decides():
  rng = np.random.default_rng(0)
  hits, slots = rng.random(200), rng.integers(0, 4, 200)
  assert group_means(hits, slots, 4) == group_means(hits, slots, 4, seed=0)
  assert group_means(hits, slots, 4) != group_means(hits, slots, 4, seed=1)


def test_the_statistic_of_hits_is_pearsons():
  rng = np.random.default_rng(1)
  slots = rng.integers(0, 10, 3000)
  hits = (rng.random(3000) < 0.5 - 0.02 * slots).astype(float)
  table = [
    [np.sum(hits[slots == s]) for s in range(10)],
    [np.sum(1 - hits[slots == s]) for s in range(10)],
  ]
  pearson = scipy.stats.chi2_contingency(table)
  bias = position_bias(hits, slots, 10)
  assert bias.chi_square == pytest.approx(pearson.statistic)
  assert bias.p == pytest.approx(pearson.pvalue)
  assert bias.degrees == 9 and bias.p < 0.01
  values = [mean.value for mean in group_means(hits, slots, 10)]
  assert bias.spread == pytest.approx(max(values) - min(values))


def test_without_bias_p_is_uniform_with_and_without_ties():
  rng = np.random.default_rng(2)
  for values in ([0, 1], [0, 0.5, 1]):
    p = [
      position_bias(rng.choice(values, 500), rng.integers(0, 10, 500), 10).p
      for _ in range(300)
    ]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001


def test_nothing_to_compare_is_no_bias():
  slots = np.array([0, 1, 2])
  for hits, where in ((np.full(3, 0.1), slots), (np.eye(3)[0], slots * 0)):
    bias = position_bias(hits, where, 3)
    assert (bias.spread, bias.chi_square, bias.p) == (0, 0, 1)


def test_a_negative_of_the_same_query_by_hand():
  asked = same_query(
    ["Rope", "Rope", "Kayak", "", "dry feet", "dry feet", "warm feet"],
    [0, 1, 2, 3, 4, 5, 6],
    # Another rope, none, an item of no query, of nothing, of another request,
    # of none, of one that asks otherwise.
    [[1, 2], [2, 3], [3], [0], [5], [6], [4]],
    item_queries=["Rope", "Rope", "Kayak", "", "", "", ""],
  )
  assert asked.tolist() == [True, False, False, False, True, False, False]
