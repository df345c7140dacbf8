"""Tests for instructrec_jax/baselines/popularity.py."""

import numpy as np

from instructrec_jax.baselines.popularity import (
  PopularityRanker,
  training_interactions,
)
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.records import RankingRequest


def sequences(users):
  lengths = [len(items) for items in users]
  return Sequences(
    items=np.array([item for items in users for item in items], np.int32),
    offsets=np.cumsum([0, *lengths]),
  )


def test_the_last_two_items_of_each_user_are_held_out():
  items, users = training_interactions(
    sequences([[5, 6, 7, 8], [1, 2], [3, 4, 5]])
  )
  # A user with fewer than three has nothing held out.
  assert items.tolist() == [5, 6, 1, 2, 3]
  assert users.tolist() == [0, 0, 1, 1, 2]


def test_scores_are_training_purchases():
  ranker = PopularityRanker.fit(
    sequences([[0, 1, 2, 3], [0, 4, 3, 3]]), num_items=6
  )
  request = RankingRequest("r", "", ("",) * 4, candidate_items=(3, 0, 4, 5))
  (scores,) = ranker.score([request])
  assert scores.tolist() == [0, 2, 1, 0]
