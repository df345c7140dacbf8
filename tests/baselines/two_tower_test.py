"""Tests for instructrec_jax/baselines/two_tower.py."""

import dataclasses

import jax
import numpy as np
import pytest

from instructrec_jax.baselines.two_tower import TwoTowerRanker

from .markov_chain import ITEMS, chain_folder, hit_rates, request
from .shelves import OPTIONS


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, TwoTowerRanker.fit(folder, OPTIONS)


def test_learns_what_follows_what(chain):
  model, popularity = hit_rates(*chain)
  assert model > 0.6 > 3 * popularity


def test_scores_depend_on_nothing_but_the_request(chain):
  _, ranker = chain
  requests = [
    request([4, 5], [6, 20]),
    request([7], range(10)),
    request([4, 5], range(ITEMS)),
  ]
  together = ranker.score(requests)
  for scores, one in zip(together, requests, strict=True):
    np.testing.assert_array_equal(ranker.score([one])[0], scores)
  np.testing.assert_array_equal(together[0], together[2][[6, 20]])
  backwards = ranker.score([request([4, 5], range(ITEMS)[::-1])])[0]
  np.testing.assert_array_equal(backwards[::-1], together[2])
  assert ranker.score([]) == []


def test_a_user_is_told_from_others(chain):
  _, ranker = chain
  same = request([4, 5])
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
    asked = dataclasses.replace(request(history.tolist()), user=int(user))
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
