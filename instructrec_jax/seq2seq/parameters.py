"""A model's tree of parameters: its shapes, and random ones."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.seq2seq import int8, lora
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer


def parameter_shapes(config: T5Config) -> Any:
  """Returns the parameter tree of `jax.ShapeDtypeStruct`s; computes nothing."""
  return variable_shapes(config)["params"]


def variable_shapes(config: T5Config) -> Any:
  """Returns the shapes of `initial_variables`; one layer of each is traced."""
  one = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
  shapes = jax.eval_shape(lambda: initial_variables(one))
  layers = {
    "encoder": config.num_encoder_layers,
    "decoder": config.num_decoder_layers,
  }
  # Parameters are shapes, axes are names: all are shared.
  for collection in shapes.values():
    for stack, count in layers.items():
      layer = collection[stack]["layers_0"]
      collection[stack] |= {
        f"layers_{number}": jax.tree.map(lambda x: x, layer)
        for number in range(count)
      }
  return shapes


def initial_variables(config: T5Config, *, seed: int = 0) -> Any:
  """Returns `params` and `params_axes`, drawn at random from `seed`."""
  tokens = np.zeros((1, 8), np.int32)
  return Transformer(config).init(
    jax.random.key(seed), tokens, tokens, tokens, enable_dropout=False
  )


def for_inference(config: T5Config, params: Any) -> Any:
  """Returns parameters as programs read them: cast once, not in each call.

  Those of a model that computes in float32, and int8, stay as they are.
  """
  if jnp.dtype(config.dtype) == jnp.float32 or int8.is_int8(params):
    return params
  return lora.freeze(config, params)
