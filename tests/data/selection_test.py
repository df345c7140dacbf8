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


EVENTS = st.lists(
  st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 2)),
  unique_by=lambda event: event[:2],
  min_size=1,
)


def in_time_order(events, *, seed=0):
  """Returns the events as `time_order` puts them."""
  users, items, times = map(list, zip(*events, strict=True))
  numbering = selection.Numbering()
  reviews = selection.Interactions(
    users=numbering.add(pl.Series([f"u{u}" for u in users])),
    items=np.array(items, np.int32),
    times=np.array(times),
    phases=None,
    user_ids=numbering,
  )
  ids = pl.Series([f"i{i}" for i in range(10)])
  rows = selection.time_order(reviews, ids, seed=seed)
  return [events[row] for row in rows]


@given(EVENTS, st.randoms())
def test_the_files_order_settles_nothing(events, random):
  ordered = in_time_order(events)
  first = list(dict.fromkeys(user for user, _, _ in events))
  assert [(first.index(u), t) for u, _, t in ordered] == sorted(
    (first.index(u), t) for u, _, t in events
  )
  shuffled = [*events]
  random.shuffle(shuffled)
  # Users come as they first appear; within each nothing changes.
  assert sorted(in_time_order(shuffled), key=by_user) == sorted(
    ordered, key=by_user
  )


def by_user(event):
  return event[0]


IDS = st.lists(st.lists(st.sampled_from([*"abcdé", "x" * 40])), max_size=6)


@given(IDS)
def test_ids_are_numbered_as_they_first_appear(blocks):
  numbering, known = selection.Numbering(), {}
  for block in blocks:
    numbers = numbering.add(pl.Series(block, dtype=pl.String))
    assert numbers.tolist() == [known.setdefault(i, len(known)) for i in block]
    assert numbering.ids(numbers).to_list() == block


def test_two_numberings_know_nothing_of_each_other():
  one, other = selection.Numbering(), selection.Numbering()
  one.add(pl.Series(["a", "b"]))
  assert other.add(pl.Series(["b", "a", "b"])).tolist() == [0, 1, 0]


@given(
  st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)),
    min_size=1,
    max_size=60,
  ),
  st.integers(1, 20),
)
def test_repeats_are_found_in_blocks_as_in_one(events, block):
  numbering = selection.Numbering()
  users, items, times = map(list, zip(*events, strict=True))
  reviews = selection.Interactions(
    users=numbering.add(pl.Series([f"u{u}" for u in users])),
    items=np.array(items, np.int32),
    times=np.array(times),
    phases=None,
    user_ids=numbering,
  )
  catalogue = pl.DataFrame({"item_id": [f"i{i}" for i in range(6)]})
  whole = selection.in_time_order(reviews, catalogue, seed=0, counts={})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(selection, "_BLOCK", block)
    counts = {}
    ordered = selection.in_time_order(reviews, catalogue, seed=0, counts=counts)
  assert ordered.rows.tolist() == whole.rows.tolist()
  pairs = list(zip(ordered.users, ordered.items, strict=True))
  assert len(set(pairs)) == len(pairs) == len({event[:2] for event in events})
  assert counts["repeats"] == len(events) - len(pairs)
  for row in ordered.rows:
    same = [t for u, i, t in events if (u, i) == events[row][:2]]
    assert times[row] == min(same)


def test_a_phase_comes_before_the_time():
  numbering = selection.Numbering()
  reviews = selection.Interactions(
    users=numbering.add(pl.Series(["u"] * 4)),
    items=np.arange(4, dtype=np.int32),
    times=np.array([9, 8, 7, 6]),
    phases=np.array([1, 0, 2, 1], np.int8),
    user_ids=numbering,
  )
  ids = pl.Series([f"i{i}" for i in range(4)])
  rows = selection.time_order(reviews, ids, seed=0)
  assert rows.tolist() == [1, 3, 0, 2]


def test_equal_times_are_in_every_order_alike():
  events = [(user, item, 0) for user in range(300) for item in (3, 7)]
  firsts = [in_time_order(events, seed=seed)[::2] for seed in (0, 1)]
  for first in firsts:
    assert 110 < sum(item == 3 for _, item, _ in first) < 190
  # And another seed has another order.
  assert 110 < sum(a == b for a, b in zip(*firsts, strict=True)) < 190


def test_one_item_is_nothing_to_rank():
  ordered = selection.Ordered(
    rows=np.arange(3), users=np.arange(3), items=np.full(3, 4)
  )
  with pytest.raises(InputError, match="with one item"):
    selection.select(
      ordered, min_count=0, phases=np.zeros(3, np.int64), counts={}
    )


@pytest.mark.parametrize("keep_new", [False, True])
def test_later_interactions_are_of_known_users_and_items(keep_new):
  ordered = selection.Ordered(
    rows=np.arange(6),
    users=np.array([0, 0, 0, 1, 1, 2], np.int32),
    items=np.array([0, 1, 2, 0, 1, 0], np.int32),
  )
  counts = {}
  chosen = selection.select(
    ordered,
    min_count=1,
    phases=np.array([0, 0, 1, 0, 2, 1]),
    keep_new=keep_new,
    counts=counts,
  )
  kept = list(range(6)) if keep_new else [0, 1, 3, 4]
  assert chosen.rows.tolist() == kept
  assert counts["of_new_users_or_items"] == 6 - len(kept)
