"""Tests for instructrec_jax/evaluation/metrics.py.

Some compare with ranx and scikit-learn, which are no dependencies: `pip install
ranx scikit-learn` to run these.
"""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  KS,
  auc,
  bootstrap_counts,
  bootstrap_means,
  bootstrap_pointwise,
  expected_calibration_error,
  fit_temperature,
  holm,
  log_loss,
  paired_difference,
  percentile_interval,
  pointwise_metrics,
  ranking_metrics,
)


def brute_force(scores, target, ks):
  """Averages each metric over every order that sorts the scores."""
  orders = [
    order
    for order in itertools.permutations(range(len(scores)))
    if all(
      scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)
    )
  ]
  ranks = np.array([1 + order.index(target) for order in orders])
  means = {f"hr@{k}": np.mean(ranks <= k) for k in ks}
  for k in ks:
    means[f"ndcg@{k}"] = np.mean((ranks <= k) / np.log2(1 + ranks))
  return means | {"mrr": np.mean(1 / ranks)}


@st.composite
def ranked_requests(draw):
  # Few distinct values, so that most requests have ties.
  scores = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
  return scores, draw(st.integers(0, len(scores) - 1))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(ranked_requests(), min_size=1, max_size=4))
def test_equals_the_mean_over_every_order_of_ties(requests):
  ks = (1, 2, 5, 10)
  metrics = ranking_metrics(
    [np.array(scores, np.float32) for scores, _ in requests],
    [target for _, target in requests],
    ks=ks,
  )
  for row, (scores, target) in enumerate(requests):
    for name, mean in brute_force(scores, target, ks).items():
      np.testing.assert_allclose(metrics[name][row], mean, err_msg=name)


def test_hand_cases():
  metrics = ranking_metrics(
    [
      np.array([3.0, 2.0, 1.0]),  # rank 1
      np.array([1.0, 3.0, 2.0]),  # rank 3
      np.array([5.0, 5.0]),  # rank 1 or 2
      np.array([-np.inf, 0.0]),  # rank 2
    ],
    [0, 0, 1, 0],
    ks=(1, 3),
  )
  half = (1 + 1 / np.log2(3)) / 2
  np.testing.assert_allclose(metrics["hr@1"], [1, 0, 0.5, 0])
  np.testing.assert_allclose(metrics["hr@3"], [1, 1, 1, 1])
  np.testing.assert_allclose(metrics["ndcg@1"], [1, 0, 0.5, 0])
  np.testing.assert_allclose(metrics["ndcg@3"], [1, 0.5, half, 1 / np.log2(3)])
  np.testing.assert_allclose(metrics["mrr"], [1, 1 / 3, 0.75, 0.5])


def test_equal_scores_give_the_expectation_of_random_order():
  metrics = ranking_metrics([np.zeros(10)] * 3, [0, 4, 9])
  np.testing.assert_allclose(metrics["hr@1"], 0.1)
  np.testing.assert_allclose(metrics["hr@3"], 0.3)
  np.testing.assert_allclose(metrics["hr@10"], 1.0)


def test_nan_scores_are_refused_and_located():
  with pytest.raises(InputError, match="request 1: a score is NaN"):
    ranking_metrics([np.zeros(2), np.array([np.nan, 0])], [0, 0])


def test_a_target_outside_its_candidates_is_refused():
  with pytest.raises(InputError, match="request 1: target 2"):
    ranking_metrics([np.zeros(3), np.zeros(2)], [2, 2])
  with pytest.raises(InputError, match="0 candidates"):
    ranking_metrics([np.zeros(0)], [0])


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


# Few distinct margins, so that most samples have ties.
examples = st.lists(
  st.tuples(st.integers(-6, 6).map(lambda n: n / 2), st.integers(0, 1)),
  min_size=1,
  max_size=30,
)


def split(pairs):
  margins, labels = zip(*pairs, strict=True)
  return np.array(margins, np.float64), np.array(labels)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(examples)
def test_auc_is_the_share_of_won_pairs(pairs):
  margins, labels = split(pairs)
  yes, no = margins[labels == 1], margins[labels == 0]
  hypothesis.assume(len(yes) and len(no))
  won = [(y > n) + (y == n) / 2 for y in yes for n in no]
  assert auc(margins, labels) == pytest.approx(np.mean(won), abs=1e-15)


def test_auc_by_hand():
  labels = np.array([0, 0, 1, 1])
  assert auc(np.array([-2.0, -1, 1, 2]), labels) == 1
  assert auc(np.array([2.0, 1, -1, -2]), labels) == 0
  assert auc(np.zeros(4), labels) == 0.5
  assert auc(np.array([1.0, 3, 2, 3]), labels) == 2.5 / 4


def test_auc_of_a_single_label_is_refused():
  with pytest.raises(InputError, match="all labels are 1"):
    auc(np.arange(3.0), np.ones(3, int))
  with pytest.raises(InputError, match="all labels are 0"):
    auc(np.arange(3.0), np.zeros(3, int))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(examples, st.integers(1, 20))
def test_log_loss_and_calibration_error_equal_slow_loops(pairs, bins):
  margins, labels = split(pairs)
  losses, members = [], [[] for _ in range(bins)]
  for margin, label in pairs:
    chance = 1 / (1 + math.exp(-margin))
    losses.append(-math.log(chance if label else 1 - chance))
    members[min(int(chance * bins), bins - 1)].append((chance, label))
  gaps = [
    len(m) / len(pairs) * abs(np.mean(m, axis=0) @ [1, -1])
    for m in members
    if m
  ]
  assert log_loss(margins, labels) == pytest.approx(np.mean(losses))
  assert expected_calibration_error(
    margins, labels, bins=bins
  ) == pytest.approx(sum(gaps), abs=1e-12)


def test_calibration_by_hand():
  # Sure of Yes, right three times of four; sure of No, right.
  margins = np.array([50.0, 50, 50, 50, -50])
  labels = np.array([1, 1, 1, 0, 0])
  assert expected_calibration_error(margins, labels) == pytest.approx(0.2)
  assert expected_calibration_error(
    np.zeros(4), np.array([0, 1, 0, 1])
  ) == pytest.approx(0)
  # One answer too many Yes, one too many No: these do not cancel.
  both = np.array([50.0, -50])
  assert expected_calibration_error(both, np.array([0, 1])) == pytest.approx(1)


def test_log_loss_of_huge_margins_does_not_overflow():
  assert log_loss(np.array([1e4, -1e4]), np.array([0, 1])) == 1e4
  assert log_loss(np.array([1e4, -1e4]), np.array([1, 0])) == 0


@pytest.mark.parametrize("temperature", [0.25, 1.0, 6.0])
def test_finds_the_temperature_that_labels_were_drawn_at(temperature):
  rng = np.random.default_rng(0)
  chances = rng.random(50_000)
  margins = temperature * np.log(chances / (1 - chances))
  labels = (rng.random(50_000) < chances).astype(int)
  fitted = fit_temperature(margins, labels)
  assert fitted == pytest.approx(temperature, rel=0.02)
  metrics = pointwise_metrics(margins, labels, temperature=fitted)
  assert metrics["ece_scaled"] < 0.01
  assert metrics["log_loss_scaled"] <= metrics["log_loss"] + 1e-12
  assert metrics["auc"] == auc(margins / fitted, labels)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(examples)
def test_no_other_temperature_has_a_lower_loss(pairs):
  margins, labels = split(pairs)
  best = log_loss(margins / fit_temperature(margins, labels), labels)
  for temperature in np.geomspace(0.01, 100, 41):
    assert best <= log_loss(margins / temperature, labels) + 1e-9


def test_temperatures_stay_finite_where_the_best_would_not():
  labels = np.array([0, 0, 1, 1])
  separable = np.array([-2.0, -1, 1, 2])
  assert fit_temperature(separable, labels) == pytest.approx(0.01)
  assert fit_temperature(-separable, labels) == pytest.approx(100)
  assert fit_temperature(np.zeros(4), labels) == 1
  # Constant margins: half of the labels are Yes, then three of four.
  assert fit_temperature(np.ones(4), labels) == pytest.approx(100)
  assert fit_temperature(
    np.full(4, 2.0), np.array([0, 1, 1, 1])
  ) == pytest.approx(2 / math.log(3))


def test_bad_input_is_refused():
  labels = np.array([0, 1])
  for measure in (auc, log_loss, expected_calibration_error, fit_temperature):
    with pytest.raises(InputError, match="finite"):
      measure(np.array([0, np.nan]), labels)
    with pytest.raises(InputError, match="finite"):
      measure(np.zeros(0), np.zeros(0, int))
    with pytest.raises(InputError, match="labels of 0 or 1"):
      measure(np.zeros(2), np.array([0, 2]))
    with pytest.raises(InputError, match="there are 2"):
      measure(np.zeros(3), labels)


def random_run(*, distinct, requests=300):
  rng = np.random.default_rng(distinct)
  scores = np.stack([rng.permutation(distinct)[:10] for _ in range(requests)])
  return scores / distinct, rng.integers(0, 10, requests)


def test_ranx_agrees_where_nothing_ties():
  # It ranks ties by input order, so it is asked about untied scores only.
  ranx = pytest.importorskip("ranx")
  scores, targets = random_run(distinct=1000)
  ours = ranking_metrics(list(scores), targets.tolist(), ks=KS)
  run = {
    f"r{row}": {f"d{item}": float(score) for item, score in enumerate(of_row)}
    for row, of_row in enumerate(scores)
  }
  relevant = {f"r{row}": {f"d{item}": 1} for row, item in enumerate(targets)}
  names = [f"{name}@{k}" for name in ("hit_rate", "ndcg") for k in KS]
  theirs = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run), [*names, "mrr"])
  for name, value in theirs.items():
    our_name = name.replace("hit_rate", "hr")
    assert ours[our_name].mean() == pytest.approx(value, abs=1e-12), name


def test_scikit_learn_agrees_also_on_ties():
  # `ndcg_score` averages over the orders of ties.
  theirs = pytest.importorskip("sklearn.metrics")
  rng = np.random.default_rng(0)
  scores, targets = rng.integers(0, 3, (200, 10)), rng.integers(0, 10, 200)
  ours = ranking_metrics(list(scores), targets.tolist(), ks=KS)
  relevant = np.eye(10)[targets]
  for k in KS:
    np.testing.assert_allclose(
      ours[f"ndcg@{k}"],
      [
        theirs.ndcg_score(relevant[row, None], scores[row, None], k=k)
        for row in range(200)
      ],
      atol=1e-12,
    )


def test_scikit_learn_agrees_on_pointwise_metrics():
  theirs = pytest.importorskip("sklearn.metrics")
  rng = np.random.default_rng(0)
  margins, labels = rng.integers(-40, 40, 2000) / 8, rng.integers(0, 2, 2000)
  assert auc(margins, labels) == pytest.approx(
    theirs.roc_auc_score(labels, margins), abs=1e-12
  )
  assert log_loss(margins, labels) == pytest.approx(
    theirs.log_loss(labels, 1 / (1 + np.exp(-margins)))
  )


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(data=st.data(), size=st.integers(2, 12))
def test_resampled_figures_are_those_of_the_resample(data, size):
  """Counting how often each is drawn is drawing it so often."""
  margins = (
    np.array(
      data.draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    )
    / 2
  )
  labels = np.array(
    [
      1,
      0,
      *data.draw(
        st.lists(st.integers(0, 1), min_size=size - 2, max_size=size - 2)
      ),
    ]
  )
  (counts,) = bootstrap_counts(size, seed=size, resamples=5)
  assert (counts.sum(1) == size).all()
  found = bootstrap_pointwise(margins, labels, counts, temperature=2.0)
  assert bootstrap_pointwise(margins, labels, counts).keys() == {"auc"}
  for number, of_one in enumerate(counts.astype(int)):
    rows = np.repeat(np.arange(size), of_one)
    if not 0 < labels[rows].sum() < size:
      assert np.isnan(found["auc"][number])
      continue
    expected = pointwise_metrics(margins[rows], labels[rows], temperature=2.0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      assert found[name][number] == pytest.approx(value, abs=1e-12)


def test_drawing_equal_users_together_changes_no_distribution():
  values = np.repeat([0.0, 0.25, 1.0], [400, 200, 300])[:, None]
  together = bootstrap_means(values, seed=0)
  one_by_one = bootstrap_means(np.repeat(values, 2, axis=1), seed=0)
  assert together.shape == (10_000, 1) and one_by_one.shape == (10_000, 2)
  result = scipy.stats.ks_2samp(together[:, 0], one_by_one[:, 0])
  assert result.pvalue > 0.01
  spread = values.std() / 30
  assert together.std() == pytest.approx(spread, rel=0.03)
