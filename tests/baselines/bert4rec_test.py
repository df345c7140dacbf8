"""Tests for instructrec_jax/baselines/bert4rec.py."""

import numpy as np
import pytest

from instructrec_jax.baselines.bert4rec import BERT4RecOptions, BERT4RecRanker
from instructrec_jax.baselines.sequence_encoder import SequenceEncoder

from .markov_chain import ITEMS, chain_folder, hit_rates, quick, request

OPTIONS = BERT4RecOptions(
  width=16,
  layers=1,
  dropout=0.1,
  training=quick(
    learning_rate=0.005, tokens_per_step=100, max_epochs=60, patience=60
  ),
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, BERT4RecRanker.fit(folder, OPTIONS)


def test_learns_what_follows_what(fitted):
  model, popularity = hit_rates(*fitted)
  assert model > 0.65 > 3 * popularity


def test_what_is_hidden_is_told_and_nothing_else(fitted):
  _, ranker = fitted
  rng = np.random.default_rng(0)
  tokens = np.arange(3, 11)
  shares = []
  for _ in range(2000):
    example = ranker.example(tokens, rng)
    hidden = example.tokens == ITEMS + 1
    assert hidden.any()
    np.testing.assert_array_equal(example.tokens[~hidden], tokens[~hidden])
    np.testing.assert_array_equal(example.targets[hidden], tokens[hidden])
    assert not example.targets[~hidden].any()
    shares.append(hidden)
  share = np.mean(shares, axis=0)
  # Two in five, and the last always and alone in three of ten histories.
  np.testing.assert_allclose(share[:-1], 0.7 * 0.4, atol=0.04)
  assert abs(share[-1] - (0.3 + 0.7 * 0.4)) < 0.04


def test_both_sides_are_seen(fitted):
  _, ranker = fitted
  mask = ITEMS + 1
  tokens = np.array([[mask, 11, 12], [mask, 20, 21]], np.int32)
  hidden = SequenceEncoder(ranker.config).apply(
    {"params": ranker.params},
    tokens,
    np.ones_like(tokens),
    np.array([[2, 1, 0]] * 2, np.int32),
  )
  assert np.abs(hidden[0, 0] - hidden[1, 0]).max() > 0.1


def test_the_last_place_is_hidden_when_ranking(fitted):
  _, ranker = fitted
  assert ranker.question(np.array([4, 5])).tolist() == [4, 5, ITEMS + 1]


def test_scores_depend_on_nothing_but_history_and_candidate(fitted):
  _, ranker = fitted
  requests = [
    request([4, 5], [6, 20]),
    request([7], range(10)),
    request([4, 5], range(ITEMS)),
  ]
  together = ranker.score(requests)
  for scores, one in zip(together, requests, strict=True):
    np.testing.assert_array_equal(ranker.score([one])[0], scores)
  np.testing.assert_array_equal(together[0], together[2][[6, 20]])


def test_a_history_longer_than_the_model_loses_its_beginning(fitted):
  _, ranker = fitted
  recent = list(range(ranker.length - 1))
  a, b = ranker.score([request([20, *recent]), request([21, 22, *recent])])
  np.testing.assert_array_equal(a, b)
