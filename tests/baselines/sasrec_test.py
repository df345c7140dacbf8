"""Tests for instructrec_jax/baselines/sasrec.py."""

import jax
import numpy as np
import pytest

from instructrec_jax.baselines.sasrec import SASRecRanker
from instructrec_jax.baselines.sequence_encoder import SequenceEncoder

from .markov_chain import ITEMS, chain_folder, hit_rates, request, small


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, SASRecRanker.fit(folder, small())


def test_learns_what_follows_what(fitted):
  model, popularity = hit_rates(*fitted)
  assert model > 0.75 > 3 * popularity


@pytest.mark.parametrize("loss", ["sampled", "bce"])
def test_other_losses_learn_it_too(tmp_path, loss):
  folder = chain_folder(tmp_path)
  ranker = SASRecRanker.fit(folder, small(loss=loss, negatives=20))
  model, popularity = hit_rates(folder, ranker)
  assert model > 0.5 > 3 * popularity


def test_a_later_item_changes_nothing_before_it(fitted):
  _, ranker = fitted
  encoder = SequenceEncoder(ranker.config)
  ones = np.ones((1, 6), np.int32)

  def hidden(last):
    tokens = np.array([[3, 4, 5, 6, 7, last]], np.int32)
    return np.asarray(
      encoder.apply({"params": ranker.params}, tokens, ones, 0 * ones)
    )

  np.testing.assert_array_equal(hidden(8)[:, :-1], hidden(20)[:, :-1])
  assert np.abs(hidden(8)[:, -1] - hidden(20)[:, -1]).max() > 1e-3


def test_neighbours_in_a_row_are_not_seen(fitted):
  _, ranker = fitted
  encoder = SequenceEncoder(ranker.config)
  # A history of three beside one of four, after it, and before it.
  rows = np.array([[9, 8, 7, 6, 1, 2, 3], [1, 2, 3, 9, 8, 7, 6]], np.int32)
  segments = np.array([[1] * 4 + [2] * 3, [1] * 3 + [2] * 4], np.int32)
  distances = np.array([[3, 2, 1, 0, 2, 1, 0], [2, 1, 0, 3, 2, 1, 0]])
  hidden = encoder.apply({"params": ranker.params}, rows, segments, distances)
  alone = ranker.read(ranker.params, [[0, 1, 2]])[0]
  for found in (hidden[0, 6], hidden[1, 2]):
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_scores_depend_on_nothing_but_history_and_candidate(fitted):
  _, ranker = fitted
  requests = [
    request([4, 5], [6, 20]),
    request([7], range(10)),
    request(range(ITEMS), [3]),
    request([4, 5], range(ITEMS)),
  ]
  together = ranker.score(requests)
  for scores, one in zip(together, requests, strict=True):
    np.testing.assert_array_equal(ranker.score([one])[0], scores)
  np.testing.assert_array_equal(together[0], together[3][[6, 20]])
  backwards = ranker.score([request([4, 5], range(ITEMS)[::-1])])[0]
  np.testing.assert_array_equal(backwards[::-1], together[3])


def test_without_a_history_all_are_alike(fitted):
  _, ranker = fitted
  assert np.ptp(ranker.score([request([], range(9))])[0]) == 0
  assert ranker.score([]) == []


def test_a_history_longer_than_the_model_loses_its_beginning(fitted):
  _, ranker = fitted
  recent = list(range(ranker.length))
  a, b = ranker.score([request([20, *recent]), request([21, 22, *recent])])
  np.testing.assert_array_equal(a, b)


def test_each_token_tells_the_next(fitted):
  _, ranker = fitted
  example = ranker.example(np.array([5, 6, 9]), np.random.default_rng(0))
  assert example.tokens.tolist() == [5, 6]
  assert example.targets.tolist() == [6, 9]


def test_the_same_seed_gives_the_same_weights(tmp_path):
  def weights(name, seed):
    folder = chain_folder(tmp_path / name)
    ranker = SASRecRanker.fit(folder, small(max_epochs=1, seed=seed))
    return jax.tree.leaves(ranker.params)

  first, again, other = weights("a", 0), weights("b", 0), weights("c", 1)
  assert all(map(np.array_equal, first, again))
  assert not all(map(np.array_equal, first, other))
