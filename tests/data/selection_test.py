"""Tests for instructrec_jax/data/selection.py."""

import collections

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import selection
from instructrec_jax.errors import InputError

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
  kept, rounds = selection.k_core(**columns(pairs), count=count)
  core = [pairs[i] for i in kept]
  assert core == naive_k_core(pairs, count)
  assert rounds == sorted(set(rounds), reverse=True)
  assert (rounds or [len(pairs)])[-1] == len(kept)
  again, rounds = selection.k_core(**columns(core), count=count)
  assert len(again) == len(core)
  assert rounds == []


def test_a_chain_falls_one_link_a_round():
  # A user's two items in common with the next user: the ends give way first.
  pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)]
  assert selection.k_core(**columns(pairs), count=2)[1] == [4, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_the_first_of_repeats_stays(pairs):
  kept = selection.first_of_repeats(**columns(pairs))
  assert kept.tolist() == [
    i for i, pair in enumerate(pairs) if pair not in pairs[:i]
  ]


def test_one_item_is_nothing_to_rank():
  frame = pl.DataFrame(
    {
      "user_id": ["a", "b", "c"],
      "item": pl.Series([4, 4, 4], dtype=pl.UInt32),
      "timestamp": [1, 2, 3],
    }
  )
  with pytest.raises(InputError, match="with one item"):
    selection.select(frame, min_count=0, counts={})
