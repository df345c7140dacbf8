"""Tests for instructrec_jax/baselines/dssm.py."""

import numpy as np
import pytest

from instructrec_jax.baselines.dssm import DSSMRanker
from instructrec_jax.baselines.searches import Searches

from .shelves import (
  KINDS,
  OPTIONS,
  TITLES,
  WISHES,
  fitted,
  request,
  searches,
  shelf_folder,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return shelf_folder(tmp_path_factory.mktemp("shelves"))


@pytest.fixture(scope="module")
def ranker(folder):
  return fitted(DSSMRanker, folder)


def test_learns_which_titles_a_query_means(ranker):
  right = []
  for kind, wish in enumerate(WISHES):
    (scores,) = ranker.score([request(wish)])
    best = np.argsort(-scores)[: len(TITLES) // len(KINDS)]
    right += (best % len(KINDS) == kind).tolist()
  assert np.mean(right) > 0.9 > 5 / len(KINDS)


def test_ranks_titles_that_no_search_was_for(tmp_path):
  """Words carry what was learned, not items."""
  known = shelf_folder(tmp_path)
  last_brand = len(TITLES) - len(KINDS)

  def without_last_brand(targets) -> Searches:
    found = searches(known, targets)
    return found.take(np.flatnonzero(found.items < last_brand))

  ranker = DSSMRanker.fit_searches(
    known,
    training=without_last_brand(known.splits.training),
    validation=without_last_brand(known.splits.validation),
    options=OPTIONS,
  )
  new = range(last_brand, len(TITLES))
  for kind, wish in enumerate(WISHES):
    (scores,) = ranker.score([request(wish, candidates=new)])
    assert int(scores.argmax()) == kind


def test_knows_nothing_of_users(ranker):
  one, other = ranker.score(
    [request("light", [1, 2], user=3), request("light", [20], user=5)]
  )
  np.testing.assert_array_equal(one, other)
