"""Tests for instructrec_jax/data/splits.py and sequences.py."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import leave_one_out

LENGTHS = st.lists(st.integers(1, 8), max_size=12)


def numbered(lengths):
  """Sequences of items that are all different."""
  users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
  items = np.arange(len(users), dtype=np.int32)
  return Sequences.from_columns(
    users=users, items=items, num_users=len(lengths)
  )


def pairs(targets):
  return list(
    zip(targets.users.tolist(), targets.positions.tolist(), strict=True)
  )


@given(LENGTHS)
def test_splits_are_disjoint_in_time_order_and_complete(lengths):
  splits = leave_one_out(numbered(lengths))
  training = set(pairs(splits.training))
  validation, test = pairs(splits.validation), pairs(splits.test)
  assert not training & {*validation, *test}
  assert test == [(u, n - 1) for u, n in enumerate(lengths) if n >= 3]
  assert validation == [(u, position - 1) for u, position in test]
  # Whatever is neither held out nor without a history is trained on.
  every = {(u, p) for u, n in enumerate(lengths) for p in range(1, n)}
  assert training | {*validation, *test} == every


@given(LENGTHS)
def test_targets_are_the_items_at_their_positions(lengths):
  sequences = numbered(lengths)
  for targets in vars(leave_one_out(sequences)).values():
    assert targets.items(sequences).tolist() == [
      sequences.user(user)[position] for user, position in pairs(targets)
    ]


def test_users_with_fewer_than_three_items_only_train():
  splits = leave_one_out(numbered([2, 1, 3]))
  assert pairs(splits.training) == [(0, 1)]
  assert pairs(splits.test) == [(2, 2)]


def test_users_without_items_have_empty_sequences():
  sequences = Sequences.from_columns(
    users=np.array([1], np.int32), items=np.array([7], np.int32), num_users=3
  )
  assert [sequences.user(u).tolist() for u in range(3)] == [[], [7], []]
  assert sequences.lengths.tolist() == [0, 1, 0]
  assert len(sequences) == 3
