"""Tests for instructrec_jax/baselines/svd.py."""

import numpy as np
import pytest
import scipy.sparse

from instructrec_jax.baselines import svd
from instructrec_jax.baselines.svd import SvdRanker
from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.records import RankingRequest

ITEMS = 9


def fit(users, width=4):
  shop = Sequences(
    items=np.array([i for items in users for i in items], np.int32),
    offsets=np.cumsum([0, *map(len, users)]),
  )
  return SvdRanker.fit(
    shop, num_items=ITEMS, splits=leave_one_out(shop), width=width
  )


def score(ranker, history, candidates):
  request = RankingRequest(
    "r",
    "",
    ("",) * len(candidates),
    history_items=tuple(history),
    candidate_items=tuple(candidates),
  )
  return ranker.score([request])[0]


def together(counts):
  return svd.ppmi(scipy.sparse.csr_array(np.array(counts, float)))


def test_pointwise_mutual_information_by_hand():
  counts = np.array([[9, 4, 0], [4, 9, 1], [0, 1, 9]])
  totals = np.array([4, 5, 1])
  smoothed = totals**0.75 / (totals**0.75).sum()
  by_hand = np.zeros((3, 3))
  for a, b in ((0, 1), (1, 0), (1, 2), (2, 1)):
    joint = counts[a, b] / 10
    by_hand[a, b] = max(np.log(joint / (totals[a] / 10 * smoothed[b])), 0)
  np.testing.assert_allclose(together(counts).toarray(), by_hand, rtol=1e-6)


def test_factors_multiply_to_a_matrix_of_their_rank():
  rng = np.random.default_rng(1)
  true = rng.normal(size=(12, 3))
  matrix = scipy.sparse.csr_array(true @ true.T)
  vectors = svd.factored(matrix, 6)
  np.testing.assert_allclose(vectors @ vectors.T, matrix.toarray(), atol=1e-4)
  np.testing.assert_array_equal(vectors, svd.factored(matrix, 6))


def test_what_is_bought_together_comes_first():
  # Two shelves; the last two purchases of each user are held out.
  users = [[0, 1, 2, 8, 8], [1, 2, 3, 8, 8], [0, 3, 1, 8, 8]] * 3
  users += [[4, 5, 6, 8, 8], [5, 6, 7, 8, 8], [4, 7, 5, 8, 8]] * 3
  ranker = fit(users)
  for history, candidates in (([0, 1], [6, 3]), ([4, 5], [2, 7])):
    scores = score(ranker, history, candidates)
    assert scores[1] > scores[0] + 1


def test_held_out_items_are_not_counted():
  ranker = fit([[0, 1, 2, 3, 4]] * 3)
  scores = score(ranker, [0], [3, 4, 5])
  assert scores.tolist() == [0, 0, 0]


def test_the_latest_item_weighs_most():
  users = [[0, 1, 4, 8, 8]] * 4 + [[2, 3, 5, 8, 8]] * 4
  ranker = fit(users, width=2)
  late, early = score(ranker, [0, 2], [3, 1])
  assert late > early


def test_nothing_known_is_popularity():
  ranker = fit([[0, 8, 8]] * 3 + [[1, 8, 8]])
  assert score(ranker, [2], [0, 1]).tolist() == pytest.approx(
    [np.log(4), np.log(2)]
  )
