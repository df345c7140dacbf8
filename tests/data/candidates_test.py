"""Tests for instructrec_jax/data/candidates.py."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data import candidates
from instructrec_jax.data.splits import Sequences, title_groups
from instructrec_jax.errors import InputError


@st.composite
def shops(draw):
  """Owned items, titles (some shared) and targets that their users own."""
  num_items = draw(st.integers(12, 25))
  groups = draw(
    st.lists(st.integers(0, 20), min_size=num_items, max_size=num_items)
  )
  users = draw(
    st.lists(
      st.lists(st.integers(0, num_items - 1), min_size=1, max_size=4),
      min_size=1,
      max_size=6,
    )
  )
  return groups, [list(dict.fromkeys(items)) for items in users]


def arguments(groups, users, *, seed=0):
  owned = Sequences.from_columns(
    users=np.repeat(np.arange(len(users)), list(map(len, users))),
    items=np.concatenate(users).astype(np.int32),
    num_users=len(users),
  )
  return {
    "owned": owned,
    "title_groups": title_groups(list(map(str, groups))),
    "users": np.arange(len(users), dtype=np.int32),
    "targets": np.array([items[-1] for items in users], np.int32),
    "rng": np.random.default_rng(seed),
  }


def allowed(groups, own):
  return {
    item
    for item, group in enumerate(groups)
    if item not in own and group != groups[own[-1]]
  }


@given(shops(), st.integers(0, 5), st.integers(1, 7))
def test_negatives_are_distinct_and_allowed(shop, seed, block):
  groups, users = shop
  pools = [allowed(groups, own) for own in users]
  count = min(map(len, pools))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(candidates, "_BLOCK", block)
    # All that the smallest pool has: the hardest case.
    drawn = candidates.draw_candidates(
      **arguments(groups, users, seed=seed), negatives=count
    )
  assert drawn.candidates.shape == (len(users), count + 1)
  for row, own, pool, slot in zip(
    drawn.candidates.tolist(), users, pools, drawn.target, strict=True
  ):
    assert row.pop(slot) == own[-1]
    assert len(set(row)) == count
    assert set(row) <= pool


@given(shops())
def test_the_pool_is_counted_exactly(shop):
  groups, users = shop
  given_ = arguments(groups, users)
  del given_["rng"]
  assert candidates.eligible_items(**given_).tolist() == [
    len(allowed(groups, own)) for own in users
  ]


def test_one_more_than_the_pool_is_refused(monkeypatch):
  monkeypatch.setattr(candidates, "_BLOCK", 2)
  users = [[0], [1], [0, 1]]
  with pytest.raises(InputError, match="only 4 to draw 5 negatives"):
    candidates.draw_candidates(**arguments(range(6), users), negatives=5)


def test_a_seed_settles_the_draw():
  users = [[n, n + 1] for n in range(50)]
  first, again, other = (
    candidates.draw_candidates(
      **arguments(range(60), users, seed=seed), negatives=9
    )
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first.candidates, again.candidates)
  np.testing.assert_array_equal(first.target, again.target)
  assert (first.candidates != other.candidates).any()


def test_no_users_give_no_rows():
  given_ = arguments(range(20), [[0, 1]])
  given_ |= {"users": np.array([], int), "targets": np.array([], np.int32)}
  drawn = candidates.draw_candidates(**given_, negatives=9)
  assert drawn.candidates.shape == (0, 10)


def test_negatives_and_slots_are_uniform():
  # Half of a small catalogue is drawn, so most rows see repeats redrawn.
  users = [[0, 1]] * 20_000
  drawn = candidates.draw_candidates(
    **arguments([*range(19), 1], users), negatives=8
  )
  counts = np.bincount(drawn.candidates.ravel(), minlength=20)
  assert counts[[0, 1, 19]].tolist() == [0, len(users), 0]
  assert scipy.stats.chisquare(counts[2:19]).pvalue > 0.01
  assert scipy.stats.chisquare(np.bincount(drawn.target)).pvalue > 0.01
  # Within a row too, no column prefers an item.
  column = drawn.candidates[drawn.target != 3, 3]
  assert scipy.stats.chisquare(np.bincount(column)[2:19]).pvalue > 0.01


def test_every_set_of_negatives_is_equally_likely():
  drawn = candidates.draw_candidates(
    **arguments(range(8), [[0, 1]] * 30_000), negatives=3
  )
  others = drawn.candidates[drawn.candidates != 1].reshape(-1, 3)
  sets = np.sort(others, axis=1) @ [64, 8, 1]
  counts = np.unique(sets, return_counts=True)[1]
  assert len(counts) == 20
  assert scipy.stats.chisquare(counts).pvalue > 0.01
