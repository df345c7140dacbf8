import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.seq2seq import lora
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import (
  initial_variables,
  parameter_shapes,
)
from instructrec_jax.seq2seq.transformer import Transformer

BASE = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  num_encoder_layers=2,
  num_decoder_layers=2,
  mlp_dim=32,
)
ADAPTED = dataclasses.replace(BASE, lora_rank=3, lora_alpha=6.0)


def logits(config, params):
  rng = np.random.default_rng(0)
  inputs, targets = rng.integers(2, 64, (2, 3, 9))
  return Transformer(config).apply(
    {"params": params}, inputs, targets, targets, enable_dropout=False
  )


def random_adapters(params):
  adapters, base = lora.split(params)
  leaves, tree = jax.tree.flatten(adapters)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noise = [
    0.2 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, noise), base


def test_every_matrix_but_embedding_and_head_is_adapted():
  adapters, base = lora.split(parameter_shapes(ADAPTED))
  plain = parameter_shapes(BASE)
  assert jax.tree.map(jnp.shape, base) == jax.tree.map(jnp.shape, plain)
  # Seven matrices an encoder layer, eleven a decoder layer, two arrays each.
  assert len(jax.tree.leaves(adapters)) == 2 * (2 * 7 + 2 * 11)


def test_new_adapters_change_nothing():
  params = initial_variables(ADAPTED)["params"]
  _, base = lora.split(params)
  np.testing.assert_array_equal(logits(ADAPTED, params), logits(BASE, base))


def test_merged_equals_unmerged():
  adapters, base = random_adapters(initial_variables(ADAPTED)["params"])
  unmerged = logits(ADAPTED, lora.join(adapters, base))
  merged = logits(BASE, lora.merge(base, adapters, scale=2.0))
  assert np.abs(unmerged - logits(BASE, base)).max() > 0.1
  np.testing.assert_allclose(merged, unmerged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_freezing_rounds_nothing_that_the_network_does_not_round(tied):
  config = dataclasses.replace(
    ADAPTED, dtype="bfloat16", logits_via_embedding=tied
  )
  adapters, base = random_adapters(initial_variables(config)["params"])
  frozen = lora.freeze(config, base)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen)} == {
    "bfloat16",
    "float32",
  }
  np.testing.assert_array_equal(
    logits(config, lora.join(adapters, frozen)),
    logits(config, lora.join(adapters, base)),
  )
