"""Tests for instructrec_jax/baselines/searches.py."""

import numpy as np

from instructrec_jax.baselines.searches import (
  NOBODY,
  Searches,
  recent_tokens,
)
from instructrec_jax.data.splits import Sequences, leave_one_out

SEQUENCES = Sequences(
  items=np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32),
  offsets=np.array([0, 5, 8]),
)


def tokens(users, positions, length=3):
  return recent_tokens(
    SEQUENCES,
    users=np.array(users, np.int32),
    positions=np.array(positions, np.int32),
    length=length,
  ).tolist()


def test_tokens_are_what_came_before_and_no_more():
  assert tokens([0, 0, 1], [4, 2, 2]) == [[2, 5, 2], [0, 4, 2], [0, 10, 3]]
  assert tokens([1], [0]) == [[0, 0, 0]]
  assert tokens([1, 0], [2, 5], length=9)[0] == [0] * 7 + [10, 3]


def test_nobody_had_anything():
  assert tokens([NOBODY], [0]) == [[0, 0, 0]]


def test_targets_are_searches_without_words():
  targets = leave_one_out(SEQUENCES).test
  searches = Searches.of_targets(targets, SEQUENCES)
  assert searches.items.tolist() == [5, 6]
  assert searches.queries == ["", ""]
  both = Searches.concatenate([searches, searches.take(np.array([1]))])
  assert both.items.tolist() == [5, 6, 6]
  assert both.users.tolist() == [0, 1, 1]
  assert len(both) == len(both.queries) == 3
