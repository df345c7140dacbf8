"""Tests for instructrec_jax/baselines/trainer.py."""

import numpy as np
import pytest

from instructrec_jax.baselines.trainer import FitOptions, catalogue_ndcg, fit


def test_the_best_epoch_is_kept_and_patience_ends_it():
  values = iter([0.1, 0.5, 0.2, 0.5, 0.3, 0.9])
  seen = []

  def validate(params):
    seen.append(np.array(params["table"]))
    return next(values)

  fitted = fit(
    FitOptions(patience=3),
    first=lambda key: {"table": np.ones(3, np.float32)},
    loss=lambda params, batch, key: (params["table"] * batch).sum(),
    batches=lambda rng: [np.arange(3, dtype=np.float32)],
    validate=validate,
    label="test",
  )
  assert (fitted.epochs, fitted.validation, len(seen)) == (2, 0.5, 5)
  np.testing.assert_array_equal(fitted.params["table"], seen[1])
  assert not np.array_equal(seen[1], seen[2])


def test_ndcg_is_of_the_catalogue_without_the_history():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(30, 4)).astype(np.float32)
  bias = rng.normal(size=30).astype(np.float32)
  # More than are scored at once.
  vectors = rng.normal(size=(300, 4)).astype(np.float32)
  histories = [
    rng.integers(0, 30, length) for length in rng.integers(0, 9, 300)
  ]
  targets = rng.integers(0, 30, 300)
  found = catalogue_ndcg(
    vectors, table, bias, histories=histories, targets=targets
  )
  gains = []
  for vector, history, target in zip(vectors, histories, targets, strict=True):
    if target in history:
      gains.append(0)
      continue
    scores = table @ vector + bias
    others = set(range(30)) - set(history.tolist()) - {int(target)}
    rank = 1 + sum(scores[other] > scores[target] for other in others)
    gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0)
  assert abs(found - np.mean(gains)) < 1e-6


@pytest.mark.parametrize("value", [0, np.nan])
def test_uninformative_weights_score_zero(value):
  found = catalogue_ndcg(
    np.full((40, 4), value),
    np.ones((30, 4)),
    np.zeros(30),
    histories=[np.array([1])] * 40,
    targets=np.full(40, 7),
  )
  assert found == 0
