"""Tests for instructrec_jax/baselines/tem.py."""

import numpy as np
import pytest

from instructrec_jax.baselines.dssm import DSSMRanker
from instructrec_jax.baselines.tem import TEMRanker

from .shelves import BRANDS, fitted, hit_rate, request, shelf_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return shelf_folder(tmp_path_factory.mktemp("shelves"))


@pytest.fixture(scope="module")
def ranker(folder):
  return fitted(TEMRanker, folder)


def test_joins_the_query_with_the_history(folder, ranker):
  """The query has the kind, the history the brand; neither has both."""
  chance = 1 / len(BRANDS)
  assert hit_rate(folder, ranker) > 0.8
  assert hit_rate(folder, fitted(DSSMRanker, folder)) < 2.5 * chance


def test_padding_is_not_read(ranker):
  """A history's place in a longer row, or its neighbours, change nothing."""
  short, long = request("light", [8]), request("light", [1, 2, 3, 4])
  together = ranker.score([short, long])
  alone = ranker.score([short])[0]
  np.testing.assert_allclose(together[0], alone, rtol=1e-6, atol=1e-6)


def test_without_a_history_it_goes_by_the_query(ranker):
  (scores,) = ranker.score([request("light")])
  assert np.isfinite(scores).all()
  assert np.argsort(-scores)[:3].tolist() and np.ptp(scores) > 0
