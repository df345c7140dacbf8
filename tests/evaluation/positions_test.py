"""Tests for instructrec_jax/evaluation/positions.py."""

import numpy as np
import pytest
import scipy.stats

from instructrec_jax.evaluation.positions import by_position, position_bias


def test_means_by_hand():
  hits = np.array([1, 0, 0.5, 1, 1])
  means = by_position(hits, np.array([0, 0, 3, 3, 1]), 5)
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
  assert by_position(hits, slots, 4) == by_position(hits, slots, 4, seed=0)
  assert by_position(hits, slots, 4) != by_position(hits, slots, 4, seed=1)


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
  values = [mean.value for mean in by_position(hits, slots, 10)]
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
