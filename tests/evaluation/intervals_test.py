"""Tests for instructrec_jax/evaluation/intervals.py."""

import numpy as np
import pytest
import scipy.stats

from instructrec_jax.evaluation.intervals import (
  bootstrap_means,
  holm,
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


SIMULATED = [
  (0.00, 0.00),
  (0.02, 0.30),
  (0.03, 0.10),
  (0.05, 0.25),
]


def simulated_hits(gain, noise, *, users=800, seed=0):
  """Two rankers' hits on the same users, the second better by about `gain`."""
  rng = np.random.default_rng(seed)
  chance = rng.beta(2, 2, users)
  other = np.clip(chance + gain + noise * rng.standard_normal(users), 0, 1)
  return (rng.random(users) < other) * 1.0, (rng.random(users) < chance) * 1.0


@pytest.mark.parametrize(("gain", "noise"), SIMULATED)
def test_the_paired_interval_agrees_with_scipy(gain, noise):
  first, second = simulated_hits(gain, noise)
  ours = difference(first, second)
  theirs = scipy.stats.bootstrap(
    (first - second,),
    np.mean,
    n_resamples=4000,
    method="percentile",
    rng=np.random.default_rng(1),
  ).confidence_interval
  np.testing.assert_allclose((ours.low, ours.high), theirs, atol=0.004)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("gain", "noise"), SIMULATED)
def test_p_agrees_with_scipys_paired_tests(gain, noise, seed):
  first, second = simulated_hits(gain, noise, seed=seed)
  ours = difference(first, second).p
  permuted = scipy.stats.permutation_test(
    (first, second),
    lambda x, y, axis: np.mean(x - y, axis=axis),
    permutation_type="samples",
    vectorized=True,
    n_resamples=4000,
    rng=np.random.default_rng(seed),
  ).pvalue
  # Of 1000 resamples, p has a standard error of up to .03; and permutations
  # count the draws that equal what was observed in full.
  assert ours == pytest.approx(permuted, abs=0.1)
  student = scipy.stats.ttest_rel(first, second).pvalue
  assert ours == pytest.approx(student, abs=0.08)
  if student < 1e-4:
    assert ours < 0.01


def test_p_of_equal_rankers_is_uniform():
  found = [difference(*simulated_hits(0, 0, seed=s)).p for s in range(120)]
  assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


def test_holm_is_the_textbooks():
  # Wikipedia's example: two of four are significant at 5%.
  found = holm([0.01, 0.04, 0.03, 0.005])
  np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
  np.testing.assert_allclose(holm([0.7, 0.6]), [1, 1])
  np.testing.assert_allclose(holm([0.02]), [0.02])
  assert len(holm([])) == 0


def test_holm_seldom_errs_in_any_of_several_tests():
  p = np.random.default_rng(0).random((4000, 6))
  by_itself = (p.min(1) < 0.05).mean()
  together = np.mean([holm(row).min() < 0.05 for row in p])
  assert by_itself > 0.2
  assert together == pytest.approx(0.05, abs=0.01)
