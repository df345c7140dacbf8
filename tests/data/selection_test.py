"""Tests for instructrec_jax/data/selection.py."""

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import selection

PAIRS = st.lists(
  st.tuples(st.integers(0, 7), st.integers(0, 7)), unique=True, max_size=50
)


def columns(pairs):
  table = np.array(pairs, np.int64).reshape(-1, 2)
  return {"users": table[:, 0], "items": table[:, 1]}


def naive_k_core(pairs, count):
  """Removes one interaction at a time."""
  left = list(pairs)
  while True:
    users = collections.Counter(user for user, _ in left)
    items = collections.Counter(item for _, item in left)
    for pair in left:
      if users[pair[0]] < count or items[pair[1]] < count:
        left.remove(pair)
        break
    else:
      return left


@given(PAIRS, st.integers(0, 4))
def test_k_core_is_what_removing_one_at_a_time_leaves(pairs, count):
  core = selection.k_core(**columns(pairs), count=count)
  assert [pairs[i] for i in core.kept] == naive_k_core(pairs, count)
  assert core.rounds == sorted(set(core.rounds), reverse=True)
  assert (core.rounds or [len(pairs)])[-1] == len(core.kept)


@given(PAIRS, st.integers(0, 4))
def test_k_core_is_a_fixed_point(pairs, count):
  kept = [
    pairs[i] for i in selection.k_core(**columns(pairs), count=count).kept
  ]
  again = selection.k_core(**columns(kept), count=count)
  assert len(again.kept) == len(kept)
  assert again.rounds == []


def test_a_chain_falls_one_link_a_round():
  # A user's two items in common with the next user: the ends give way first.
  pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
  core = selection.k_core(**columns(pairs), count=2)
  assert core.rounds == [4, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_time_order_is_stable(pairs):
  table = columns(pairs)
  order = selection.time_order(users=table["users"], timestamps=table["items"])
  expected = sorted(range(len(pairs)), key=lambda i: (pairs[i], i))
  assert order.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_the_first_of_repeats_stays(pairs):
  kept = selection.first_of_repeats(**columns(pairs))
  assert kept.tolist() == [
    i for i, pair in enumerate(pairs) if pair not in pairs[:i]
  ]
