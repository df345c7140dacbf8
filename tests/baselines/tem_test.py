"""Tests for instructrec_jax/baselines/tem.py."""

import dataclasses
import types

import numpy as np
import pytest

from instructrec_jax.baselines.dssm import DSSMRanker
from instructrec_jax.baselines.tem import TEMRanker

from .shelves import (
  BRANDS,
  OPTIONS,
  TITLES,
  fitted,
  hit_rate,
  request,
  shelf_folder,
)


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


def test_padding_is_not_read(folder, ranker, tmp_path):
  """The same weights say the same with twice the room for a history."""
  padded = fitted(
    TEMRanker,
    types.SimpleNamespace(**{**vars(folder), "path": tmp_path}),
    options=dataclasses.replace(
      OPTIONS,
      history=2 * OPTIONS.history,
      training=dataclasses.replace(OPTIONS.training, max_epochs=1),
    ),
  )
  # Places are counted to the query, which is last.
  places = ranker.params["places"]
  padded.params = {
    **ranker.params,
    "places": np.pad(places, ((OPTIONS.history, 0), (0, 0))),
  }
  asked = [request("light", [8]), request("light", [1, 2, 3, 4])]
  for scores, expected in zip(
    padded.score(asked), ranker.score(asked), strict=True
  ):
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_without_a_history_it_goes_by_the_query(ranker):
  light, air = ranker.score([request("light"), request("air")])
  for scores, kind in ((light, "lantern"), (air, "pump")):
    best = np.argsort(-scores)[: len(BRANDS)]
    assert {TITLES[item].split()[1] for item in best} == {kind}
