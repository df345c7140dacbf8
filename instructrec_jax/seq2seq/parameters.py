"""A model's tree of parameters: its shapes, and random ones."""

from typing import Any

import jax
import numpy as np

from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer


def parameter_shapes(config: T5Config) -> Any:
  """Returns the parameter tree of `jax.ShapeDtypeStruct`s; computes nothing."""
  return jax.eval_shape(lambda: initial_variables(config))["params"]


def initial_variables(config: T5Config, *, seed: int = 0) -> Any:
  """Returns `params` and `params_axes`, drawn at random from `seed`."""
  tokens = np.zeros((1, 8), np.int32)
  return Transformer(config).init(
    jax.random.key(seed), tokens, tokens, tokens, enable_dropout=False
  )
