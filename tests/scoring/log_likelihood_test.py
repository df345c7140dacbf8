"""Tests for instructrec_jax/scoring/log_likelihood.py."""

import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.scoring import log_likelihood


def test_target_log_probabilities_equal_log_softmax(monkeypatch):
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(3, 12, 8)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(8, 50)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, 50, (3, 12)))
  expected = jnp.take_along_axis(
    jax.nn.log_softmax(hidden @ kernel), targets[..., None], -1
  )[..., 0]
  # Slices of every width give the same.
  for at_once in (1, 3 * 50 * 4, 1 << 24):
    monkeypatch.setattr(log_likelihood, "_LOGITS_AT_ONCE", at_once)
    np.testing.assert_allclose(
      log_likelihood.target_log_probabilities(hidden, kernel, targets),
      expected,
      rtol=1e-5,
      atol=1e-6,
    )


def test_logits_never_stand_whole(monkeypatch):
  monkeypatch.setattr(log_likelihood, "_LOGITS_AT_ONCE", 2 * 4 * 1000)
  shapes = (
    jax.ShapeDtypeStruct((2, 64, 8), jnp.float32),
    jax.ShapeDtypeStruct((8, 1000), jnp.float32),
    jax.ShapeDtypeStruct((2, 64), jnp.int32),
  )
  program = str(
    jax.make_jaxpr(log_likelihood.target_log_probabilities)(*shapes)
  )
  assert "f32[2,4,1000]" in program
  assert "f32[2,64,1000]" not in program
