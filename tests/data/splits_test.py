"""Tests for instructrec_jax/data/splits.py."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import (
  SPLITS,
  Sequences,
  global_time,
  leave_one_out,
  refuse_positions,
  split_items,
  tied_share,
  title_groups,
)
from instructrec_jax.errors import InputError

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
  splits = leave_one_out(sequences)
  for targets in (splits.training, splits.validation, splits.test):
    assert targets.items(sequences).tolist() == [
      sequences.user(user)[position] for user, position in pairs(targets)
    ]


def test_a_target_at_the_time_of_a_neighbour_is_tied():
  times = [[1, 2, 3], [1, 2, 2], [2, 2, 3], [3, 3, 3], [3]]
  sequences = numbered(list(map(len, times)))
  splits = leave_one_out(sequences)
  flat = np.concatenate(times)
  assert tied_share(splits.test, sequences, flat) == 2 / 4
  assert tied_share(splits.validation, sequences, flat) == 3 / 4
  # Neither the user before nor the one after is a neighbour.
  none = leave_one_out(numbered([1, 1]))
  assert tied_share(none.test, numbered([1, 1]), np.array([5, 5])) == 0


def test_each_split_knows_the_items_of_its_phase():
  owned = numbered([5, 2, 3])
  # The first user's first two items come before the last ones.
  sequences = Sequences(owned.items[2:], np.array([0, 3, 5, 8]))
  splits = leave_one_out(sequences)
  known = {
    split: splits.known_items(split, sequences=sequences, owned=owned)
    for split in SPLITS
  }
  assert {
    split: [items.user(user).tolist() for user in range(3)]
    for split, items in known.items()
  } == {
    "train": [[0, 1, 2], [5, 6], [7]],
    "validation": [[0, 1, 2, 3], [5, 6], [7, 8]],
    "test": [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]],
  }


def test_users_with_fewer_than_three_items_only_train():
  splits = leave_one_out(numbered([2, 1, 3]))
  assert pairs(splits.training) == [(0, 1)]
  assert pairs(splits.test) == [(2, 2)]
  # The first item is no target, but may be counted.
  mask = splits.training_mask(numbered([2, 1, 3]))
  assert mask.tolist() == [True] * 4 + [False] * 2


@given(LENGTHS)
def test_leave_one_out_counts_all_but_what_is_held_out(lengths):
  sequences = numbered(lengths)
  splits = leave_one_out(sequences)
  counted = set(sequences.items[splits.training_mask(sequences)].tolist())
  held_out = {
    *splits.validation.items(sequences).tolist(),
    *splits.test.items(sequences).tolist(),
  }
  assert not counted & held_out
  assert counted | held_out == set(sequences.items.tolist())


# Few moments, so that most of them are shared.
TIMES = st.lists(
  st.lists(st.integers(0, 12), max_size=8).map(sorted), max_size=10
)
SHARES = st.sampled_from([0.1, 0.2, 0.3])


@given(TIMES, SHARES, SHARES)
def test_global_time_never_trains_on_the_future(times, validation, test):
  sequences = numbered(list(map(len, times)))
  flat = np.array([t for own in times for t in own], np.int64)
  try:
    splits = global_time(
      sequences, flat, validation_share=validation, test_share=test
    )
  except InputError:
    assume(False)
    raise
  mask = splits.training_mask(sequences)

  def when(targets):
    return [times[user][position] for user, position in pairs(targets)]

  # The cuts are moments: nothing at one moment is on both sides of either.
  trained, later = flat[mask], flat[~mask]
  assert trained.max() < later.min() <= min(when(splits.validation))
  assert max(when(splits.training)) < later.min()
  assert max(when(splits.validation)) < min(when(splits.test))
  # And they leave the later side at least its share.
  assert len(later) >= round((validation + test) * len(flat) - 1e-9)
  second = min(when(splits.test))
  assert (flat >= second).sum() <= len(later)


@given(TIMES)
def test_global_time_targets_are_each_users_last(times):
  sequences = numbered(list(map(len, times)))
  flat = np.array([t for own in times for t in own], np.int64)
  try:
    splits = global_time(sequences, flat)
  except InputError:
    assume(False)
    raise
  ordered = np.sort(flat)
  first, second = (ordered[int(len(flat) * share)] for share in (0.8, 0.9))
  by_hand = {"training": [], "validation": [], "test": []}
  for user, own in enumerate(times):
    for position, time in enumerate(own):
      after = [*own, np.inf][position + 1]
      if position and time < first:
        by_hand["training"].append((user, position))
      elif position and time < second <= after:
        by_hand["validation"].append((user, position))
      elif position and time >= second and after == np.inf:
        by_hand["test"].append((user, position))
  for name, expected in by_hand.items():
    assert pairs(getattr(splits, name)) == expected


def test_users_of_validation_and_test_may_differ():
  times = [[0, 1, 2, 3, 4], [0, 1, 2, 8], [0, 9], [9]]
  flat = np.concatenate(times)
  splits = global_time(
    numbered(list(map(len, times))),
    flat,
    validation_share=0.05,
    test_share=0.15,
  )
  assert pairs(splits.validation) == [(1, 3)]
  # The last user's only item has no history.
  assert pairs(splits.test) == [(2, 1)]
  assert splits.training_lengths.tolist() == [5, 3, 1, 0]


@pytest.mark.parametrize("times", [[[]], [[1, 1, 1, 1]], [[1], [2], [3]]])
def test_times_that_cannot_be_cut_are_told(times):
  flat = np.array([t for own in times for t in own], np.int64)
  with pytest.raises(InputError, match="without a target"):
    global_time(numbered(list(map(len, times))), flat)


@pytest.mark.parametrize("start", [0, 1])
def test_positions_are_no_times(start):
  lengths = [4, 7, 2]
  positions = np.concatenate([np.arange(start, start + n) for n in lengths])
  with pytest.raises(InputError, match="look like positions"):
    refuse_positions(numbered(lengths), positions)
  # Half of the longest sequence may have gone to the k-core.
  with pytest.raises(InputError, match="look like positions"):
    refuse_positions(numbered([2, 3, 2]), np.array([0, 4, 1, 2, 5, 0, 3]))


@pytest.mark.parametrize(
  "times", [[0, 1, 1, 2], [0, 1, 2, 900], [1000, 2000, 3000, 1500]]
)
def test_times_are_times(times):
  refuse_positions(numbered([3, 1]), np.array(times))


def test_positions_are_not_said_to_be_times_without_ties(tmp_path):
  rows = [f"u{u},i{(u + n) % 9},{n}" for u in range(9) for n in range(5)]
  for name, header, lines in (
    ("events", "user_id,item_id,timestamp", rows),
    ("items", "item_id,title", [f"i{n},T{n}" for n in range(9)]),
  ):
    (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines, ""]))
  manifest = prepare(
    out=tmp_path / "out",
    format="csv",
    interactions=tmp_path / "events.csv",
    items=tmp_path / "items.csv",
  ).manifest
  order = "as the source numbers them, which tells no times"
  assert manifest["ties"] == {"order": order, "validation": 0, "test": 0}


def test_users_without_items_have_empty_sequences():
  sequences = Sequences.from_columns(
    users=np.array([1], np.int32), items=np.array([7], np.int32), num_users=3
  )
  assert [sequences.user(u).tolist() for u in range(3)] == [[], [7], []]
  assert sequences.lengths.tolist() == [0, 1, 0]
  assert len(sequences) == 3


TITLES = st.lists(st.sampled_from("abcdefghijklmnop"), max_size=60)


@given(TITLES, st.integers(0, 9))
def test_items_of_one_title_share_a_split_of_the_right_size(titles, seed):
  groups = title_groups(titles)
  split = split_items(groups, seed=seed)
  assert split.shape == groups.shape and split.dtype == np.int8
  assert len(set(zip(titles, split.tolist(), strict=True))) == len(set(titles))
  largest = np.bincount(groups).max(initial=0)
  counts = np.bincount(split, minlength=3)
  assert len(counts) == 3
  shares = np.array([0.8, 0.1, 0.1]) * len(titles)
  assert (abs(counts - shares) <= largest).all()


def test_the_seed_settles_the_split():
  groups = np.arange(1000)
  first, again, other = (split_items(groups, seed=seed) for seed in (1, 1, 2))
  assert np.bincount(first).tolist() == [800, 100, 100]
  np.testing.assert_array_equal(first, again)
  # Independent: a tenth of a tenth in common.
  assert 1 <= ((first == 2) & (other == 2)).sum() <= 25
