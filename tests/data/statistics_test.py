"""Tests for instructrec_jax/data/statistics.py."""

import numpy as np
import pytest

from instructrec_jax.data import statistics
from instructrec_jax.data.splits import Sequences, leave_one_out
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item


def test_statistics_and_their_table():
  sequences = Sequences(
    items=np.array([0, 1, 2, 1, 3], np.int32), offsets=np.array([0, 3, 5])
  )
  categories = [("Shop", "A"), ("Shop",), ("B", "Shop"), ()]
  found = statistics.dataset_statistics(
    sequences=sequences,
    splits=leave_one_out(sequences),
    items=[Item(str(n), "t", names) for n, names in enumerate(categories)],
    interactions_before_cut=6,
  )
  assert found == {
    "users": 2,
    "items": 4,
    "interactions_before_cut": 6,
    "interactions": 5,
    "sparsity": pytest.approx(3 / 8),
    "average_length": 2.5,
    "training_targets": 1,
    "test_users": 1,
    "items_without_category": 2,
  }
  assert statistics.table("Shop", found).splitlines()[-1] == (
    "| Shop    | 2      | 4      | 5       | 37.500%   | 2.50        |"
  )


def test_the_paper_s_own_counts_pass_and_others_are_named():
  games = {**statistics.PUBLISHED["games"], "average_length": 410_907 / 50_546}
  statistics.check_published(games, "games")
  with pytest.raises(InputError) as error:
    statistics.check_published(
      games | {"users": 50_547, "average_length": 8.12}, "games"
    )
  assert str(error.value).endswith(
    "it has 50,547 and not 50,546 users, 8.12 and not 8.13 average length."
  )
  with pytest.raises(InputError, match="16,859 and not 63,929 items"):
    statistics.check_published(games, "cds")
