"""Our metrics beside ranx's and scikit-learn's, at 9 negatives.

Neither is a dependency: `pip install ranx scikit-learn` to run these.
"""

import numpy as np
import pytest

from instructrec_jax.evaluation import pointwise
from instructrec_jax.evaluation.metrics import ranking_metrics

KS = (1, 3, 5, 10)


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
  assert pointwise.auc(margins, labels) == pytest.approx(
    theirs.roc_auc_score(labels, margins), abs=1e-12
  )
  assert pointwise.log_loss(margins, labels) == pytest.approx(
    theirs.log_loss(labels, 1 / (1 + np.exp(-margins)))
  )
