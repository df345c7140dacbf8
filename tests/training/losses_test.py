import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from instructrec_jax.training import losses

ROWS, LENGTH, EMBED, VOCAB = 3, 8, 16, 40


@pytest.fixture
def example():
  rng = np.random.default_rng(0)
  return (
    jnp.asarray(rng.normal(size=(ROWS, LENGTH, EMBED)), jnp.float32),
    jnp.asarray(rng.normal(size=(EMBED, VOCAB)), jnp.float32),
    jnp.asarray(rng.integers(0, VOCAB, (ROWS, LENGTH))),
    jnp.asarray(rng.integers(0, 2, (ROWS, LENGTH)), jnp.float32),
  )


@pytest.fixture(params=[1, 3, 8], ids=lambda width: f"slices_of_{width}")
def sliced(request, monkeypatch):
  monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", ROWS * request.param * VOCAB)
  assert losses._slice_width(ROWS, LENGTH, VOCAB) == request.param


def test_a_prime_length_takes_no_more_slices_than_the_next_one(monkeypatch):
  monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", ROWS * 32 * VOCAB)
  assert losses._slice_width(ROWS, 61, VOCAB) == 31
  assert losses.logits_at_once(ROWS, 61, VOCAB) == ROWS * 31 * VOCAB


def plain_loss(hidden, kernel, targets, weights, *, z_loss):
  """The formula, with all logits at once."""
  logits = hidden.astype(jnp.float32) @ kernel
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logit = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
  return jnp.sum((log_z - target_logit + z_loss * log_z**2) * weights)


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.1])
def test_loss_and_gradients_equal_the_plain_formula(example, sliced, z_loss):
  hidden, kernel, targets, weights = example

  def fused(hidden, kernel):
    # The scale checks that the gradient is that of the loss's consumer.
    return (
      3
      * losses.cross_entropy_sums(
        hidden, kernel, targets, weights, z_loss=z_loss
      ).loss
    )

  def plain(hidden, kernel):
    return 3 * plain_loss(hidden, kernel, targets, weights, z_loss=z_loss)

  value, gradients = jax.value_and_grad(fused, (0, 1))(hidden, kernel)
  expected = jax.value_and_grad(plain, (0, 1))(hidden, kernel)
  np.testing.assert_allclose(value, expected[0], rtol=1e-6)
  for ours, theirs in zip(gradients, expected[1], strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_bfloat16_states_get_gradients_summed_in_float32(example, sliced):
  hidden, kernel, targets, weights = example
  hidden = hidden.astype(jnp.bfloat16)
  ours, theirs = (
    jax.grad(lambda kernel, loss=loss: loss(hidden, kernel, targets, weights))(
      kernel
    )
    for loss in (
      lambda *a: losses.cross_entropy_sums(*a, z_loss=0.1).loss,
      lambda *a: plain_loss(*a, z_loss=0.1),
    )
  )
  np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_only_real_tokens_count(example, sliced):
  hidden, kernel, targets, weights = example
  sums = losses.cross_entropy_sums(hidden, kernel, targets, weights)
  padding = weights == 0
  changed = losses.cross_entropy_sums(
    jnp.where(padding[..., None], 7.0, hidden),
    kernel,
    jnp.where(padding, 1, targets),
    weights,
  )
  assert sums.tokens == weights.sum() < weights.size
  assert jax.tree.map(float, sums) == jax.tree.map(float, changed)
  gradient = jax.grad(
    lambda h: losses.cross_entropy_sums(h, kernel, targets, weights).loss
  )(hidden)
  assert not gradient[padding].any() and gradient[~padding].any()


def test_counts_correct_tokens_and_the_z_loss(example, sliced):
  hidden, kernel, targets, weights = example
  logits = hidden @ kernel
  best = logits.argmax(-1)
  targets = targets.at[0].set(best[0])
  sums = losses.cross_entropy_sums(hidden, kernel, targets, weights, z_loss=0.5)
  assert sums.correct == jnp.sum((best == targets) * weights)
  z_loss = 0.5 * jnp.sum(jax.nn.logsumexp(logits, -1) ** 2 * weights)
  np.testing.assert_allclose(sums.z_loss, z_loss, rtol=1e-6)


def test_logits_never_stand_whole(example, monkeypatch):
  monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", ROWS * 2 * VOCAB)
  hidden, kernel, targets, weights = example
  jaxpr = jax.make_jaxpr(
    jax.grad(
      lambda h, k: losses.cross_entropy_sums(h, k, targets, weights).loss,
      (0, 1),
    )
  )(hidden, kernel)
  largest = max(_sizes(jaxpr.jaxpr))
  assert ROWS * 2 * VOCAB <= largest < ROWS * LENGTH * VOCAB
  assert largest == max(ROWS * 2 * VOCAB, kernel.size)


def _sizes(jaxpr):
  """Sizes of all arrays that a program makes, inner programs included."""
  for equation in jaxpr.eqns:
    yield from (math.prod(var.aval.shape) for var in equation.outvars)
    for inner in jaxprs_in_params(equation.params):
      yield from _sizes(inner)
