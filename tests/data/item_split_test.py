"""Tests for instructrec_jax/data/item_split.py."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.data.candidates import title_groups
from instructrec_jax.data.item_split import split_items

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
