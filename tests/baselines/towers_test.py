"""Tests for instructrec_jax/baselines/towers.py and tower_ranker.py."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from instructrec_jax.baselines.searches import Searches
from instructrec_jax.baselines.tower_ranker import TowerOptions
from instructrec_jax.baselines.towers import (
  DSSMRanker,
  TEMRanker,
  TwoTowerRanker,
)

from .markov_chain import ITEMS, chain_folder, hit_rates
from .markov_chain import request as chain_request
from .shelves import (
  BRANDS,
  KINDS,
  OPTIONS,
  TITLES,
  WISHES,
  fitted,
  hit_rate,
  request,
  searches,
  shelf_folder,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return shelf_folder(tmp_path_factory.mktemp("shelves"))


@pytest.fixture(scope="module")
def dssm(folder):
  return fitted(DSSMRanker, folder)


def test_learns_which_titles_a_query_means(dssm):
  right = []
  for kind, wish in enumerate(WISHES):
    (scores,) = dssm.score([request(wish)])
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

  dssm = DSSMRanker.fit_searches(
    known,
    training=without_last_brand(known.splits.training),
    validation=without_last_brand(known.splits.validation),
    options=OPTIONS,
  )
  new = range(last_brand, len(TITLES))
  for kind, wish in enumerate(WISHES):
    (scores,) = dssm.score([request(wish, candidates=new)])
    assert int(scores.argmax()) == kind


def test_the_matcher_reads_the_order_of_a_history(folder):
  """Of items before the last too, which a mean by recency learns to weigh."""
  ranker = fitted(TwoTowerRanker, folder)
  ranker.params["ages"] = np.zeros_like(ranker.params["ages"])
  one, other = ranker.score(
    [request("", [1, 2, 7], user=0), request("", [2, 1, 7], user=0)]
  )
  assert not np.allclose(one, other, atol=1e-5)


def test_the_matcher_is_of_two_layers_unless_told(tmp_path):
  """The paper's is (section 3.3.1)."""
  folder = chain_folder(tmp_path, users=40)
  training = dataclasses.replace(OPTIONS.training, max_epochs=1)
  ranker = TwoTowerRanker.fit(folder, TowerOptions(training=training))
  blocks = [n for n in ranker.params["ordered"] if n.startswith("blocks")]
  assert len(blocks) == 2


def test_knows_nothing_of_users(dssm):
  one, other = dssm.score(
    [request("light", [1, 2], user=3), request("light", [20], user=5)]
  )
  np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def tem(folder):
  return fitted(TEMRanker, folder)


def test_joins_the_query_with_the_history(folder, tem, dssm):
  """The query has the kind, the history the brand; neither has both."""
  chance = 1 / len(BRANDS)
  assert hit_rate(folder, tem) > 0.8
  assert hit_rate(folder, dssm) < 2.5 * chance


def test_padding_is_not_read(folder, tem, tmp_path):
  """The same weights give the same scores with twice the history length."""
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
  ordered = tem.params["ordered"]
  places = np.pad(ordered["places"], ((OPTIONS.history, 0), (0, 0)))
  padded.params = {**tem.params, "ordered": {**ordered, "places": places}}
  asked = [request("light", [8]), request("light", [1, 2, 3, 4])]
  for scores, expected in zip(
    padded.score(asked), tem.score(asked), strict=True
  ):
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_without_a_history_it_goes_by_the_query(tem):
  light, air = tem.score([request("light"), request("air")])
  for scores, kind in ((light, "lantern"), (air, "pump")):
    best = np.argsort(-scores)[: len(BRANDS)]
    assert {TITLES[item].split()[1] for item in best} == {kind}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, TwoTowerRanker.fit(folder, OPTIONS)


def test_two_tower_learns_what_follows_what(chain):
  model, popularity = hit_rates(*chain)
  assert model > 0.6 > 3 * popularity


def test_scores_depend_on_nothing_but_the_request(chain):
  _, ranker = chain
  requests = [
    chain_request([4, 5], [6, 20]),
    chain_request([7], range(10)),
    chain_request([4, 5], range(ITEMS)),
  ]
  together = ranker.score(requests)
  for scores, one in zip(together, requests, strict=True):
    np.testing.assert_array_equal(ranker.score([one])[0], scores)
  np.testing.assert_array_equal(together[0], together[2][[6, 20]])
  backwards = ranker.score([chain_request([4, 5], range(ITEMS)[::-1])])[0]
  np.testing.assert_array_equal(backwards[::-1], together[2])
  assert ranker.score([]) == []


def test_users_are_distinguished(chain):
  _, ranker = chain
  same = chain_request([4, 5])
  nobody, one, other = ranker.score(
    [same, *(dataclasses.replace(same, user=user) for user in (0, 1))]
  )
  assert not np.allclose(one, other)
  assert not np.allclose(one, nobody)


def test_it_retrieves_what_it_scores_highest(chain):
  _, ranker = chain
  histories = [np.array([4, 5]), np.array([7])]
  exclude = [np.array([6]), np.array([], int)]
  users = np.array([3, 9], np.int32)
  found = ranker.retrieve(histories, users=users, count=5, exclude=exclude)
  for row, history, user, without in zip(
    found, histories, users, exclude, strict=True
  ):
    asked = dataclasses.replace(chain_request(history.tolist()), user=int(user))
    (scores,) = ranker.score([asked])
    scores[without] = -np.inf
    np.testing.assert_array_equal(row, np.argsort(-scores)[:5])


def test_weights_are_kept_until_options_change(tmp_path):
  folder = chain_folder(tmp_path, users=40)

  def weights(seed):
    training = dataclasses.replace(OPTIONS.training, max_epochs=1, seed=seed)
    options = dataclasses.replace(OPTIONS, training=training)
    ranker = TwoTowerRanker.fit(folder, options)
    return jax.tree.leaves(ranker.params)

  first = weights(0)
  path = tmp_path / "baselines" / "two_tower" / "weights.safetensors"
  made = path.stat().st_mtime_ns
  assert all(map(np.array_equal, first, weights(0)))
  assert path.stat().st_mtime_ns == made
  assert not all(map(np.array_equal, first, weights(1)))
  assert path.stat().st_mtime_ns > made
