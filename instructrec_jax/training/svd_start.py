"""Random weights that start as a ranker: what is bought together, by SVD.

The T5 begins as the log-bilinear model that its token vectors make: the decoder
sees the mean of the instruction's tokens, and a token is as likely as it goes
together with that mean, times how usual it is. Training finds cross-attention
formed, and can only improve on it. Nothing of the architecture changes; the
random weights of `Transformer` are, in parts, replaced or made smaller.

Key to shapes. V: vocabulary, D: emb_dim.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config

# The residual stream's first feature is the same for all tokens, so that the
# output layer has a bias: how usual each token is.
_CONSTANT = 3.0
# What the output layer meets there, about, behind the decoder's norm.
_CONSTANT_OUT = 5.0
# Nats of a unit cosine, over the square root of the width, chosen on
# games_2018's validation: 8 of 11.3.
_SHARPNESS = 0.7
# Of random projections that should not drown what is known at first.
_QUIET = 0.1
# Of a token without a vector, beside those that have one.
_UNKNOWN = 0.3


def svd_start(
  config: T5Config,
  vectors_VxE: Float[np.ndarray, "vocab embed-1"],
  counts_V: Int[np.ndarray, " vocab"],
  *,
  seed: int,
) -> Any:
  """Returns parameters that start from vectors of tokens.

  Args:
    config: the model's sizes; heads x head_dim is at least emb_dim, so that
      attention can hand on what it gathers, and the output layer is untied.
    vectors_VxE: of `baselines.svd.piece_vectors`, one feature less than
      emb_dim; zeros for tokens that are not known.
    counts_V: how often each token is seen.
    seed: of the random weights.

  Raises:
    InputError: see `check_config`.
  """
  check_config(config)
  width, inner = config.emb_dim, config.num_heads * config.head_dim
  params = jax.tree.map(
    lambda x: np.array(x), parameters.initial_variables(config, seed=seed)
  )["params"]
  rng = np.random.default_rng(seed)
  lengths = np.linalg.norm(vectors_VxE, axis=1, keepdims=True)
  is_known = lengths > 1e-6
  random = rng.normal(size=vectors_VxE.shape) * width**-0.5 * _UNKNOWN
  unit = np.where(is_known, vectors_VxE / np.maximum(lengths, 1e-6), random)
  embedding = params["token_embedder"]["embedding"]
  embedding[:, 0] = _CONSTANT
  embedding[:, 1:] = unit * np.sqrt(width)
  # What decoding begins with knows nothing yet.
  embedding[0, 1:] = 0
  head = params["decoder"]["logits_dense"]["kernel"]
  head[0] = np.log((counts_V + 0.5) / max(counts_V.sum(), 1)) / _CONSTANT_OUT
  head[1:] = np.where(is_known, unit, 0).T * _SHARPNESS
  for stack in ("encoder", "decoder"):
    for name, layer in params[stack].items():
      if not name.startswith("layers_"):
        continue
      layer["mlp"]["wo"]["kernel"] *= _QUIET
      for kind in ("attention", "self_attention"):
        if kind in layer:
          layer[kind]["out"]["kernel"] *= _QUIET
          layer[kind]["query"]["kernel"] *= _QUIET
  cross = [
    layer["encoder_decoder_attention"]
    for name, layer in params["decoder"].items()
    if name.startswith("layers_")
  ]
  # All layers together add twice the mean: as much as a token itself has.
  gain = (2 / len(cross)) ** 0.5
  for attention in cross:
    attention["query"]["kernel"] *= _QUIET
    attention["value"]["kernel"][:] = gain * np.eye(width, inner)
    attention["out"]["kernel"][:] = gain * np.eye(inner, width)
  return params


def check_config(config: T5Config) -> None:
  """Checks that a model of these sizes can start so.

  Raises:
    InputError: its heads are too few, its embeddings tied, or it is LoRA's.
  """
  width, inner = config.emb_dim, config.num_heads * config.head_dim
  if config.logits_via_embedding or config.lora_rank:
    raise InputError(
      "a start from an SVD is of all weights, with an output layer of its own: "
      "leave out LORA_RANK and logits_via_embedding."
    )
  if inner < width:
    raise InputError(
      "a start from an SVD needs heads that are together as wide as the model: "
      f"NUM_HEADS x HEAD_DIM of at least {width}, not {inner}."
    )
