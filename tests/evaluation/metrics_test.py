"""Tests for instructrec_jax/evaluation/metrics.py."""

import itertools
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  check_consistency,
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


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(ranked_requests(), min_size=1, max_size=8))
def test_what_we_measure_is_always_consistent(requests):
  metrics = ranking_metrics(
    [np.array(scores, np.float64) for scores, _ in requests],
    [target for _, target in requests],
  )
  row = {name: values.mean() for name, values in metrics.items()}
  assert check_consistency(row) == []


def test_impossible_rows_are_named():
  assert "no multiple" in check_consistency({"hr@1": 0.333}, requests=10)[0]
  assert "outside" in check_consistency({"hr@1": 0.5, "hr@3": 0.4})[0]
  assert "NDCG@1" in check_consistency({"hr@1": 0.5, "ndcg@1": 0.6})[0]
  # Targets at rank 2 or 3 add between .3 / log2(4) and .3 / log2(3).
  row = {"hr@1": 0.2, "hr@3": 0.5}
  assert not check_consistency(row | {"ndcg@3": 0.2 + 0.151})
  assert not check_consistency(row | {"ndcg@3": 0.2 + 0.189})
  assert "0.1500 to 0.1893" in check_consistency(row | {"ndcg@3": 0.349})[0]
  assert check_consistency(row | {"ndcg@3": 0.390})


def paper_rows(text):
  """Yields (method, five values) of each block of the paper's tables."""
  for line in text.splitlines():
    method, *cells = re.sub(r"</?b>", "", line).split("\t")
    if len(cells) in (5, 15) and all(
      re.fullmatch(r"0\.\d{4}", c) for c in cells
    ):
      values = [float(cell) for cell in cells]
      for start in range(0, len(values), 5):
        yield method, values[start : start + 5]


def test_two_of_the_papers_rows_are_impossible(shared):
  text = (shared / "paper" / "instructrec.md").read_text(encoding="utf-8")
  names = ("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")
  rows = [
    (method, dict(zip(names, values, strict=True)))
    for method, values in paper_rows(text)
  ]
  impossible = [
    (method, row["hr@5"])
    for method, row in rows
    if check_consistency(
      row, requests=500 if method == "GPT-3.5" else None, rounding=5e-5
    )
  ]
  assert len(rows) > 10
  # Table 7, <P1,I1,T3>, and Table 8.
  assert impossible == [("GPT-3.5", 0.7566), ("GPT-3.5", 0.9480)]
