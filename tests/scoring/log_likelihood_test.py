"""Tests for instructrec_jax/scoring/log_likelihood.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.scoring import (
  batching,
  log_likelihood,
  shapes,
  tokenization,
)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("words", [1, 7, 25, 50])
@pytest.mark.parametrize("at_once", [1, 4, 5, 100])
def test_edges_equal_log_softmax(shards, words, at_once, monkeypatch):
  """Slices of every width give the same, of words on one processor."""
  rng = np.random.default_rng(0)
  # Of words in later slices, some are likelier than all before.
  hidden = jnp.asarray(10 * rng.normal(size=(shards, 12, 8)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(8, 50)), jnp.float32)
  nodes = jnp.asarray(rng.integers(0, 12, (shards, 20)))
  targets = jnp.asarray(rng.integers(0, 50, (shards, 20)))
  log_p = jax.nn.log_softmax(hidden @ kernel)
  expected = log_p[np.arange(shards)[:, None], nodes, targets]
  monkeypatch.setattr(log_likelihood, "_NODES_AT_ONCE", at_once)
  monkeypatch.setattr(log_likelihood, "_IN_CACHE", (at_once, words))
  np.testing.assert_allclose(
    log_likelihood.edge_log_probabilities(
      hidden, kernel, nodes, targets, in_cache=shards == 1
    ),
    expected,
    rtol=1e-5,
    # The spacing of float32 at logits of a hundred.
    atol=1e-5,
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_is_float32_on_accelerators(
  dtype, config, params, vocabulary, requests, monkeypatch
):
  """Whose default rounds the factors of products."""
  config = dataclasses.replace(config, dtype=dtype)
  pieces = tokenization.tokenize(requests[:2], vocabulary.encode_one)
  chunk = tokenization.Chunk(pieces)
  (shape,) = shapes.fitted_shapes(chunk, most=1, bin_tokens=4096, shards=1)
  bins = [np.arange(len(pieces))]
  (laid,) = batching.to_batches(chunk, bins, shape=shape, shards=1)
  batch = laid.features
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  program = str(
    jax.make_jaxpr(
      functools.partial(log_likelihood.edge_log_likelihoods, config=config)
    )(params, batch)
  )
  products = program.count("dot_general")
  exact = program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
  assert products > 10
  assert exact == (products if dtype == "float32" else 0)


def test_logits_are_materialised_in_slices(monkeypatch):
  monkeypatch.setattr(log_likelihood, "_NODES_AT_ONCE", 4)
  shapes = (
    jax.ShapeDtypeStruct((2, 64, 8), jnp.float32),
    jax.ShapeDtypeStruct((8, 1000), jnp.float32),
    jax.ShapeDtypeStruct((2, 70), jnp.int32),
    jax.ShapeDtypeStruct((2, 70), jnp.int32),
  )
  edges = log_likelihood.edge_log_probabilities
  program = str(
    jax.make_jaxpr(functools.partial(edges, in_cache=False))(*shapes)
  )
  assert "f32[2,4,1000]" in program
  assert "f32[2,64,1000]" not in program
  monkeypatch.setattr(log_likelihood, "_IN_CACHE", (8, 300))
  shapes = [
    jax.ShapeDtypeStruct((1, *shape.shape[1:]), shape.dtype)
    if shape.shape[0] == 2
    else shape
    for shape in shapes
  ]
  program = str(
    jax.make_jaxpr(functools.partial(edges, in_cache=True))(*shapes)
  )
  assert "f32[1,8,250]" in program
  assert "1000]" not in program.replace("f32[8,1000]", "")
