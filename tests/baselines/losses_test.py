"""Tests for instructrec_jax/baselines/losses.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.baselines.losses import item_loss
from instructrec_jax.baselines.sequential import TrainerOptions
from instructrec_jax.errors import InputError

HIDDEN, TABLE, BIAS = (
  np.random.default_rng(1).normal(size=shape).astype(np.float32)
  for shape in ((5, 8), (40, 8), (40,))
)


TARGETS = np.array([0, 7, 39, 2, 2])


@functools.partial(jax.jit, static_argnames=("loss", "negatives", "draws"))
def mean_losses(*, loss, negatives=1, draws=1):
  """Returns the mean loss of each position over many draws."""
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


def test_an_unknown_loss_is_refused():
  with pytest.raises(InputError, match="'hinge'"):
    TrainerOptions(loss="hinge")  # pyright: ignore


def test_the_published_loss_is_of_one_negative_a_position():
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
