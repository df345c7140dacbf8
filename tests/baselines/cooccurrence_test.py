"""Tests for instructrec_jax/baselines/cooccurrence.py."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from instructrec_jax.baselines.cooccurrence import CooccurrenceRanker
from instructrec_jax.data.splits import Sequences, global_time, leave_one_out
from instructrec_jax.records import RankingRequest

ITEMS = 8
users_strategy = st.lists(
  st.lists(st.integers(0, ITEMS - 1), max_size=7, unique=True), max_size=6
)


def sequences(users):
  return Sequences(
    items=np.array([i for items in users for i in items], np.int32),
    offsets=np.cumsum([0, *map(len, users)]),
  )


def fit(users):
  shop = sequences(users)
  return CooccurrenceRanker.fit(
    shop, num_items=ITEMS, splits=leave_one_out(shop)
  )


def score(ranker, history, candidates):
  (scores,) = ranker.score(
    [
      RankingRequest(
        "r",
        "",
        ("",) * len(candidates),
        history_items=tuple(history),
        candidate_items=tuple(candidates),
      )
    ]
  )
  return scores


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
  users_strategy, st.lists(st.integers(0, ITEMS - 1), unique=True)
)
def test_ranks_as_counting_every_pair_by_hand(users, history):
  training = [set(u[:-2] if len(u) >= 3 else u) for u in users]
  candidates = [item for item in range(ITEMS) if item not in history]

  def by_hand(candidate):
    together = sum(
      candidate in bought and item in bought
      for bought in training
      for item in history
    )
    return together, sum(candidate in bought for bought in training)

  scores = score(fit(users), history, candidates)
  keys = [by_hand(candidate) for candidate in candidates]
  for a in range(len(candidates)):
    for b in range(len(candidates)):
      assert (scores[a] < scores[b]) == (keys[a] < keys[b])


def test_only_the_last_twenty_items_of_the_history_count():
  ranker = fit([[0, 1, 6, 7]])
  assert score(ranker, [0, *[3] * 19], [1, 2])[0] > 1
  # Out of the window, only the popularity of item 1 is left.
  assert score(ranker, [0, *[3] * 20], [1, 2]).tolist() == [1, 0]


def test_popularity_breaks_ties_and_never_more():
  # 0 and 1 together once; 2 is bought by everyone, never with 0.
  ranker = fit([[0, 1, 6, 7], *[[2, 6, 7]] * 9])
  scores = score(ranker, [0], [1, 2, 3])
  assert scores[0] > scores[1] > scores[2]


def test_with_global_time_only_pairs_of_the_past_count():
  shop = sequences([[0, 1, 2, 3], [4, 5], [0, 1]])
  times = np.array([0, 1, 8, 9, 0, 1, 2, 9])
  splits = global_time(shop, times, validation_share=0.15, test_share=0.2)
  ranker = CooccurrenceRanker.fit(shop, num_items=ITEMS, splits=splits)
  # Items: 0 with 1 by one user before the cut, and never with 2 or 3.
  assert score(ranker, [0], [1, 2, 3]).tolist() == [1 * 3 + 1, 0, 0]
