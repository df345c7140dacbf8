"""Tests for instructrec_jax/baselines/planted.py."""

import itertools

import numpy as np

from instructrec_jax.baselines.planted import PlantedRanker
from instructrec_jax.data import synthetic
from instructrec_jax.records import RankingRequest

# A shop of 2 brands, 2 kinds and 2 finishes is small enough to enumerate.
TRIPLES = np.array(list(itertools.product(range(2), range(2), range(2))))


def sequence_chance(process, taste, sequence):
  """P(these purchases in this order | taste), by the definition."""
  chance, last, owned = 1.0, None, []
  for item in sequence:
    chance_I = process.next_TxI(last)[taste].copy()
    chance_I[owned] = 0
    chance *= (chance_I / chance_I.sum())[item]
    last = item
    owned.append(item)
  return chance


def test_scores_are_the_exact_posterior():
  process = synthetic.PurchaseProcess(synthetic.Habits(), TRIPLES)
  ranker = PlantedRanker(process, range(len(TRIPLES)))
  history, candidates = (0, 3), (1, 2, 5, 7)
  request = RankingRequest(
    request_id="1",
    instruction="",
    candidates=("",) * 4,
    history_items=history,
    candidate_items=candidates,
  )
  tastes = range(len(process.prior_T))
  joint = [
    sum(
      process.prior_T[t] * sequence_chance(process, t, (*history, item))
      for t in tastes
    )
    for item in candidates
  ]
  past = sum(
    process.prior_T[t] * sequence_chance(process, t, history) for t in tastes
  )
  np.testing.assert_allclose(
    np.exp(ranker.score([request])[0]), np.array(joint) / past, rtol=1e-10
  )


def test_an_empty_history_ranks_by_the_prior():
  process = synthetic.PurchaseProcess(synthetic.Habits(), TRIPLES)
  ranker = PlantedRanker(process, range(len(TRIPLES)))
  request = RankingRequest(
    request_id="1",
    instruction="",
    candidates=("",) * 8,
    candidate_items=tuple(range(8)),
  )
  (scores,) = ranker.score([request])
  chance_TxI = process.next_TxI(None)
  expected = process.prior_T @ (chance_TxI / chance_TxI.sum(1, keepdims=True))
  np.testing.assert_allclose(np.exp(scores), expected)
