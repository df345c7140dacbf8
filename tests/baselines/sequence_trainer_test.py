"""Tests for sequence_trainer.py and what it stands on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.baselines.item_losses import item_loss
from instructrec_jax.baselines.sasrec import SASRecRanker
from instructrec_jax.baselines.sequence_batches import (
  Example,
  left_padded,
  pack,
)
from instructrec_jax.baselines.sequence_encoder import EncoderConfig
from instructrec_jax.baselines.sequence_trainer import TrainerOptions, train
from instructrec_jax.baselines.sequence_validation import Validation
from instructrec_jax.errors import InputError

from .markov_chain import ITEMS, chain_folder, changed, quick, small


def test_packing_loses_nothing_and_mixes_nothing():
  rng = np.random.default_rng(0)
  examples = [
    Example(rng.integers(1, 99, n), rng.integers(0, 99, n))
    for n in rng.integers(1, 9, 60)
  ]
  found = []
  for batch in pack(examples, rows=4, length=8):
    told = np.zeros(batch.tokens.size, np.int64)
    real = batch.weights == 1
    told[batch.places[real]] = batch.targets[real]
    for segment in np.unique(batch.segments[batch.segments > 0]):
      inside = batch.segments == segment
      # In one row, and the places count down to the end.
      assert inside.any(axis=1).sum() == 1
      count = inside.sum()
      assert batch.distances[inside].tolist() == [*range(count)][::-1]
      found.append((batch.tokens[inside], told[inside.reshape(-1)]))
    assert not batch.tokens[batch.segments == 0].any()
  assert len(found) == len(examples)
  for (tokens, targets), example in zip(found, examples, strict=True):
    np.testing.assert_array_equal(tokens, example.tokens)
    np.testing.assert_array_equal(targets, example.targets)


def test_histories_are_padded_on_their_left():
  rows = left_padded([np.array([5]), np.array([1, 2, 3, 4])], rows=3, length=3)
  assert rows.tolist() == [[0, 0, 5], [2, 3, 4], [0, 0, 0]]


HIDDEN, TABLE, BIAS = (
  np.random.default_rng(1).normal(size=shape).astype(np.float32)
  for shape in ((5, 8), (40, 8), (40,))
)
TARGETS = np.array([0, 7, 39, 2, 2])


@functools.partial(jax.jit, static_argnames=("loss", "negatives", "draws"))
def mean_losses(*, loss, negatives=1, draws=1):
  """Returns the mean loss of each place over many draws."""
  return jax.vmap(
    lambda key: item_loss(
      *map(jnp.array, (HIDDEN, TABLE, BIAS, TARGETS)),
      loss=loss,
      negatives=negatives,
      key=key,
    )
  )(jax.random.split(jax.random.key(0), draws)).mean(0)


def test_the_full_loss_is_cross_entropy_over_all_items():
  logits = HIDDEN @ TABLE.T + BIAS
  right = logits[np.arange(5), TARGETS]
  expected = np.log(np.exp(logits).sum(axis=1)) - right
  np.testing.assert_allclose(mean_losses(loss="full"), expected, rtol=1e-4)


def test_the_sampled_loss_nears_the_full_one():
  np.testing.assert_allclose(
    mean_losses(loss="sampled", negatives=100_000),
    mean_losses(loss="full"),
    rtol=0.02,
  )


def test_the_published_loss_is_of_one_negative_a_place():
  logits = HIDDEN @ TABLE.T + BIAS
  right = logits[np.arange(5), TARGETS]
  wrong = np.logaddexp(0, logits)
  # Drawn by accident, the right item is no wrong one.
  wrong[np.arange(5), TARGETS] = 0
  np.testing.assert_allclose(
    mean_losses(loss="bce", draws=20_000),
    np.logaddexp(0, -right) + wrong.mean(axis=1),
    rtol=0.03,
  )


def test_an_unknown_loss_is_refused():
  with pytest.raises(InputError, match="'hinge'"):
    TrainerOptions(loss="hinge")  # pyright: ignore


def test_the_best_epoch_is_kept_and_patience_ends_it():
  values = iter([0.1, 0.5, 0.2, 0.5, 0.3, 0.9])
  seen = []

  def validate(params):
    seen.append(np.array(params["table"]))
    return next(values)

  fitted = train(
    EncoderConfig(tokens=6, max_length=4, causal=True, width=4, layers=1),
    quick(patience=3),
    draw=lambda rng: [Example(np.array([1, 2]), np.array([2, 3]))],
    num_items=4,
    validate=validate,
    label="test",
  )
  assert (fitted.epochs, fitted.validation, len(seen)) == (2, 0.5, 5)
  np.testing.assert_array_equal(fitted.params["table"], seen[1])


def test_validation_is_the_ndcg_of_the_catalogue_without_the_history(tmp_path):
  folder = chain_folder(tmp_path, users=40)
  rng = np.random.default_rng(0)
  table = rng.normal(size=(ITEMS + 2, 4)).astype(np.float32)
  bias = rng.normal(size=ITEMS + 2).astype(np.float32)
  vector = rng.normal(size=4).astype(np.float32)
  found = Validation(
    folder, lambda params, h: np.tile(vector, (len(h), 1)), seed=0
  )({"table": table, "bias": bias})
  scores = table[1:-1] @ vector + bias[1:-1]
  gains = []
  for user in range(40):
    *history, wanted, _ = folder.sequences.user(user)
    if wanted in history:
      gains.append(0)
      continue
    others = set(range(ITEMS)) - set(history) - {wanted}
    rank = 1 + sum(scores[other] > scores[wanted] for other in others)
    gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0)
  assert abs(found - np.mean(gains)) < 1e-6


@pytest.mark.parametrize("value", [0, np.nan])
def test_weights_that_tell_nothing_validate_as_nothing(tmp_path, value):
  validation = Validation(
    chain_folder(tmp_path, users=40),
    lambda params, histories: np.full((len(histories), 4), value),
    seed=0,
  )
  alike = {"table": np.ones((ITEMS + 2, 4)), "bias": np.zeros(ITEMS + 2)}
  assert validation(alike) == 0


@pytest.fixture
def fits(monkeypatch):
  """Counts how often something is trained."""
  calls = []

  def counted(*args, **kwargs):
    calls.append(1)
    return train(*args, **kwargs)

  monkeypatch.setattr(
    "instructrec_jax.baselines.sequence_ranker.train", counted
  )
  return calls


def fit(folder, **training):
  return SASRecRanker.fit(folder, small(max_epochs=1, **training))


def test_weights_are_kept_and_used_again(tmp_path, fits):
  folder = chain_folder(tmp_path)
  first, again = fit(folder), fit(folder)
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
  fit(folder)
  fit(folder, seed=1)
  assert len(fits) == 2
  fit(changed(folder, user=3, position=0, item=29), seed=1)
  assert len(fits) == 3
  fit(folder, seed=1)
  (tmp_path / "baselines/sasrec/weights.safetensors").write_bytes(b"cut")
  fit(folder, seed=1)
  assert len(fits) == 5


def test_test_items_are_never_seen(tmp_path, fits):
  folder = chain_folder(tmp_path)
  first = fit(folder)
  (tmp_path / "baselines/sasrec/config.json").unlink()
  last = folder.sequences.lengths[3] - 1
  again = fit(changed(folder, user=3, position=last, item=29))
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

  monkeypatch.setattr("instructrec_jax.baselines.sequence_ranker.train", killed)
  with pytest.raises(KeyboardInterrupt):
    fit(chain_folder(tmp_path))
  assert not list((tmp_path / "baselines").iterdir())


def test_data_without_validation_is_refused(tmp_path):
  with pytest.raises(InputError, match="validation"):
    fit(chain_folder(tmp_path, users=0))
