"""Tests for instructrec_jax/evaluation/metrics.py."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics


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
