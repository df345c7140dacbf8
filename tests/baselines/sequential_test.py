"""Tests for instructrec_jax/baselines/sequential.py."""

import jax
import numpy as np
import pytest

from instructrec_jax.baselines.sequence_encoder import SequenceEncoder
from instructrec_jax.baselines.sequential import (
  BERT4RecOptions,
  BERT4RecRanker,
  SASRecRanker,
)
from instructrec_jax.baselines.trainer import fit
from instructrec_jax.errors import InputError

from .markov_chain import ITEMS, chain_folder, changed, hit_rates, quick, small
from .markov_chain import request as query

BERT4REC_OPTIONS = BERT4RecOptions(
  width=16,
  layers=1,
  dropout=0.1,
  training=quick(
    learning_rate=0.005, tokens_per_step=100, max_epochs=60, patience=60
  ),
)


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, SASRecRanker.fit(folder, small())


def test_sasrec_learns_what_follows_what(sasrec):
  model, popularity = hit_rates(*sasrec)
  assert model > 0.75 > 3 * popularity


@pytest.fixture(scope="module")
def bert4rec(tmp_path_factory):
  folder = chain_folder(tmp_path_factory.mktemp("chain"))
  return folder, BERT4RecRanker.fit(folder, BERT4REC_OPTIONS)


def test_bert4rec_learns_what_follows_what(bert4rec):
  model, popularity = hit_rates(*bert4rec)
  assert model > 0.65 > 3 * popularity


def test_masked_items_are_predicted_and_nothing_else(bert4rec):
  _, ranker = bert4rec
  rng = np.random.default_rng(0)
  tokens = np.arange(3, 11)
  shares = []
  for _ in range(2000):
    example = ranker.example(tokens, rng)
    masked = example.tokens == ITEMS + 1
    assert masked.any()
    np.testing.assert_array_equal(example.tokens[~masked], tokens[~masked])
    np.testing.assert_array_equal(example.targets[masked], tokens[masked])
    assert not example.targets[~masked].any()
    shares.append(masked)
  share = np.mean(shares, axis=0)
  # Two in five, and the last always and alone in three of ten histories.
  np.testing.assert_allclose(share[:-1], 0.7 * 0.4, atol=0.04)
  assert abs(share[-1] - (0.3 + 0.7 * 0.4)) < 0.04


def test_both_sides_are_seen(bert4rec):
  _, ranker = bert4rec
  mask = ITEMS + 1
  tokens = np.array([[mask, 11, 12], [mask, 20, 21]], np.int32)
  hidden = SequenceEncoder(ranker.config).apply(
    {"params": ranker.params},
    tokens,
    np.ones_like(tokens),
    np.array([[2, 1, 0]] * 2, np.int32),
  )
  assert np.abs(hidden[0, 0] - hidden[1, 0]).max() > 0.1


def test_a_mask_follows_the_history_when_ranking(bert4rec):
  _, ranker = bert4rec
  assert ranker.model_input(np.array([4, 5])).tolist() == [4, 5, ITEMS + 1]


@pytest.fixture(params=["sasrec", "bert4rec"])
def ranker(request):
  """Either ranker, fitted."""
  return request.getfixturevalue(request.param)[1]


def test_scores_depend_on_nothing_but_history_and_candidate(ranker):
  requests = [
    query([4, 5], [6, 20]),
    query([7], range(10)),
    query(range(ITEMS), [3]),
    query([4, 5], range(ITEMS)),
  ]
  together = ranker.score(requests)
  for scores, one in zip(together, requests, strict=True):
    np.testing.assert_array_equal(ranker.score([one])[0], scores)
  np.testing.assert_array_equal(together[0], together[3][[6, 20]])
  backwards = ranker.score([query([4, 5], range(ITEMS)[::-1])])[0]
  np.testing.assert_array_equal(backwards[::-1], together[3])


def test_without_a_history_all_candidates_are_tied(ranker):
  assert np.ptp(ranker.score([query([], range(9))])[0]) == 0
  assert ranker.score([]) == []


def test_a_history_longer_than_the_model_loses_its_beginning(ranker):
  # A mask takes one position of BERT4Rec.
  recent = list(range(ranker.length - (not ranker.causal)))
  a, b = ranker.score([query([20, *recent]), query([21, 22, *recent])])
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", ["sampled", "bce"])
def test_other_losses_learn_it_too(tmp_path, loss):
  folder = chain_folder(tmp_path)
  ranker = SASRecRanker.fit(folder, small(loss=loss, negatives=20))
  model, popularity = hit_rates(folder, ranker)
  assert model > 0.5 > 3 * popularity


def test_a_later_item_changes_nothing_before_it(sasrec):
  _, ranker = sasrec
  encoder = SequenceEncoder(ranker.config)
  ones = np.ones((1, 6), np.int32)

  def hidden(last):
    tokens = np.array([[3, 4, 5, 6, 7, last]], np.int32)
    return np.asarray(
      encoder.apply({"params": ranker.params}, tokens, ones, 0 * ones)
    )

  np.testing.assert_array_equal(hidden(8)[:, :-1], hidden(20)[:, :-1])
  assert np.abs(hidden(8)[:, -1] - hidden(20)[:, -1]).max() > 1e-3


def test_neighbours_in_a_row_are_not_seen(sasrec):
  _, ranker = sasrec
  encoder = SequenceEncoder(ranker.config)
  # A history of three beside one of four, after it, and before it.
  rows = np.array([[9, 8, 7, 6, 1, 2, 3], [1, 2, 3, 9, 8, 7, 6]], np.int32)
  segments = np.array([[1] * 4 + [2] * 3, [1] * 3 + [2] * 4], np.int32)
  distances = np.array([[3, 2, 1, 0, 2, 1, 0], [2, 1, 0, 3, 2, 1, 0]])
  hidden = encoder.apply({"params": ranker.params}, rows, segments, distances)
  alone = ranker.encode(ranker.params, [[0, 1, 2]])[0]
  for found in (hidden[0, 6], hidden[1, 2]):
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_each_token_predicts_the_next(sasrec):
  _, ranker = sasrec
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


def test_validation_is_of_the_targets_after_their_histories(
  tmp_path, monkeypatch
):
  folder = chain_folder(tmp_path, users=40)
  rng = np.random.default_rng(0)
  table = rng.normal(size=(ITEMS + 2, 4)).astype(np.float32)
  bias = rng.normal(size=ITEMS + 2).astype(np.float32)
  vector = rng.normal(size=4).astype(np.float32)
  ranker = SASRecRanker(num_items=ITEMS, length=9, options=small())
  monkeypatch.setattr(
    ranker, "encode", lambda params, h: np.tile(vector, (len(h), 1))
  )
  found = ranker._validation(folder)({"table": table, "bias": bias})
  scores = table[1:-1] @ vector + bias[1:-1]
  gains = []
  for user in range(40):
    *history, wanted, _ = folder.sequences.user(user)
    others = set(range(ITEMS)) - set(history) - {wanted}
    rank = 1 + sum(scores[other] > scores[wanted] for other in others)
    hit = rank <= 10 and wanted not in history
    gains.append(1 / np.log2(1 + rank) if hit else 0)
  assert abs(found - np.mean(gains)) < 1e-6


@pytest.fixture
def fits(monkeypatch):
  """Counts how often something is trained."""
  calls = []

  def counted(*args, **kwargs):
    calls.append(1)
    return fit(*args, **kwargs)

  monkeypatch.setattr("instructrec_jax.baselines.sequential.fit", counted)
  return calls


def quick_fit(folder, **training):
  return SASRecRanker.fit(folder, small(max_epochs=1, **training))


def test_weights_are_kept_and_used_again(tmp_path, fits):
  folder = chain_folder(tmp_path)
  first, again = quick_fit(folder), quick_fit(folder)
  assert len(fits) == 1
  assert all(
    map(
      np.array_equal,
      jax.tree.leaves(first.params),
      jax.tree.leaves(again.params),
    )
  )
  assert first.report == again.report


def test_other_data_options_or_a_damaged_file_are_fitted_anew(tmp_path, fits):
  folder = chain_folder(tmp_path)
  quick_fit(folder)
  quick_fit(folder, seed=1)
  assert len(fits) == 2
  quick_fit(changed(folder, user=3, position=0, item=29), seed=1)
  assert len(fits) == 3
  quick_fit(folder, seed=1)
  (tmp_path / "baselines/sasrec/weights.safetensors").write_bytes(b"cut")
  quick_fit(folder, seed=1)
  assert len(fits) == 5


def test_test_items_are_never_seen(tmp_path, fits):
  folder = chain_folder(tmp_path)
  first = quick_fit(folder)
  (tmp_path / "baselines/sasrec/config.json").unlink()
  last = folder.sequences.lengths[3] - 1
  again = quick_fit(changed(folder, user=3, position=last, item=29))
  assert len(fits) == 2
  assert all(
    map(
      np.array_equal,
      jax.tree.leaves(first.params),
      jax.tree.leaves(again.params),
    )
  )


def test_a_killed_fit_leaves_nothing(tmp_path, monkeypatch):
  def killed(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr("instructrec_jax.baselines.sequential.fit", killed)
  with pytest.raises(KeyboardInterrupt):
    quick_fit(chain_folder(tmp_path))
  assert not (tmp_path / "baselines").exists()


def test_data_without_validation_is_refused(tmp_path):
  with pytest.raises(InputError, match="validation"):
    quick_fit(chain_folder(tmp_path, users=0))
