"""Tests for instructrec_jax/evaluation/intervals.py."""

import numpy as np
import pytest

from instructrec_jax.evaluation.intervals import (
  bootstrap_means,
  paired_difference,
  percentile_interval,
)


def wilson(share, n, z=1.96):
  """The textbook interval of a share; Wilson (1927)."""
  centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  return centre - half / (1 + z**2 / n), centre + half / (1 + z**2 / n)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_agrees_with_wilson_on_a_share(share):
  hits = np.arange(2000) < share * 2000
  low, high = percentile_interval(bootstrap_means(hits[:, None] * 1.0, seed=0))
  np.testing.assert_allclose((low[0], high[0]), wilson(share, 2000), atol=2e-3)


def test_the_seed_decides_and_columns_share_resamples():
  values = np.random.default_rng(0).random((300, 1)).repeat(2, axis=1)
  means = bootstrap_means(values, seed=1, resamples=70)
  assert means.shape == (70, 2)
  np.testing.assert_array_equal(means[:, 0], means[:, 1])
  np.testing.assert_array_equal(
    means, bootstrap_means(values, seed=1, resamples=70)
  )
  assert (means != bootstrap_means(values, seed=2, resamples=70)).any()


def test_intervals_cover_the_truth_about_as_often_as_they_say():
  rng = np.random.default_rng(0)
  covered = 0
  for trial in range(200):
    sample = rng.random((150, 1)) < 0.3
    low, high = percentile_interval(
      bootstrap_means(sample * 1.0, seed=trial, resamples=200)
    )
    covered += low[0] <= 0.3 <= high[0]
  assert 178 <= covered <= 200


def difference(first, second):
  means = bootstrap_means(np.stack([first, second], 1) * 1.0, seed=0)
  return paired_difference(
    first.mean() - second.mean(), means[:, 0] - means[:, 1]
  )


def test_a_paired_test_sees_what_unpaired_intervals_cannot():
  rng = np.random.default_rng(0)
  first = rng.random(1000) < 0.5
  second = first.copy()
  second[np.flatnonzero(first)[:12]] = False  # 1.2 points worse, same users
  paired = difference(first, second)
  assert paired.value == pytest.approx(0.012)
  assert paired.low > 0 and paired.p < 0.01
  unpaired = difference(first, rng.permutation(second))
  assert unpaired.low < 0 and unpaired.p > 0.2


def test_p_is_twice_the_smaller_tail():
  draws = np.concatenate([np.full(24, -0.1), np.full(976, 0.1)])
  assert paired_difference(0.1, draws).p == pytest.approx(2 * 25 / 1001)
  assert paired_difference(-0.1, -draws).p == pytest.approx(2 * 25 / 1001)


def test_a_ranker_does_not_differ_from_itself():
  same = np.random.default_rng(0).random(100)
  assert difference(same, same).p == 1.0
