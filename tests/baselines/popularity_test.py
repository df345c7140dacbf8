"""Tests for instructrec_jax/baselines/popularity.py."""

import numpy as np

from instructrec_jax.baselines.popularity import (
  PopularityRanker,
  RandomRanker,
  training_interactions,
)
from instructrec_jax.data.splits import Sequences, global_time, leave_one_out
from instructrec_jax.records import RankingRequest


def sequences(users):
  lengths = [len(items) for items in users]
  return Sequences(
    items=np.array([item for items in users for item in items], np.int32),
    offsets=np.cumsum([0, *lengths]),
  )


def test_the_last_two_items_of_each_user_are_held_out():
  shop = sequences([[5, 6, 7, 8], [1, 2], [3, 4, 5]])
  items, users = training_interactions(shop, leave_one_out(shop))
  # A user with fewer than three has nothing held out.
  assert items.tolist() == [5, 6, 1, 2, 3]
  assert users.tolist() == [0, 0, 1, 1, 2]


def test_scores_are_training_purchases():
  shop = sequences([[0, 1, 2, 3], [0, 4, 3, 3]])
  ranker = PopularityRanker.fit(shop, num_items=6, splits=leave_one_out(shop))
  request = RankingRequest("r", "", ("",) * 4, candidate_items=(3, 0, 4, 5))
  (scores,) = ranker.score([request])
  assert scores.tolist() == [0, 2, 1, 0]


def test_with_global_time_only_the_past_counts_and_all_of_it():
  shop = sequences([[0, 1, 2, 3], [0, 4, 3], [5], [0, 1]])
  times = np.array([0, 1, 8, 9, 2, 3, 8, 4, 9, 9])
  splits = global_time(shop, times, validation_share=0.2, test_share=0.3)
  ranker = PopularityRanker.fit(shop, num_items=6, splits=splits)
  # Nothing of times 8 and 9, though only some of it is a target; the user
  # with a single item counts.
  assert ranker.counts.tolist() == [2, 1, 0, 0, 1, 1]


def test_all_candidates_are_tied_at_random():
  requests = [RankingRequest("a", "", ("x", "y")), RankingRequest("b", "", ())]
  assert [s.tolist() for s in RandomRanker().score(requests)] == [[0, 0], []]
