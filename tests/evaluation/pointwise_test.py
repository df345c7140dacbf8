"""Tests for instructrec_jax/evaluation/pointwise.py."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.pointwise import (
  auc,
  expected_calibration_error,
  fit_temperature,
  log_loss,
  pointwise_metrics,
)

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
