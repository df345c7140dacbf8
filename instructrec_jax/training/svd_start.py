"""Random weights that start as a ranker: what is bought together, by SVD.

The T5 begins as the log-bilinear model that its token vectors make. An
instruction's tokens add up to vectors of the titles they spell; the decoder
sees their mean, and a token is as likely as the purchases of titles that have
it go together with that mean, times how usual it is. Training finds
cross-attention formed, and can only improve on it. Nothing of the architecture
changes; the random weights of `Transformer` are, in parts, replaced or made
smaller.

Key to shapes. V: vocabulary, E: width of the SVD, D: emb_dim.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import EOS_ID

# Chosen on games_2018's validation, as what ranks best before any step.
# The residual stream's first feature is the same for all tokens, over the
# square root of the width: so large that the norms hand on which tokens have a
# long vector, and the output layer has a bias, which it meets there, about.
_CONSTANT = 1.0
_CONSTANT_OUT = 0.4
# What the decoder adds of the mean: most of a title's tokens say little.
_GAIN = 20.0
# Nats of a unit cosine.
_SHARPNESS = 8.0
# Of random projections that should not drown what is known at first.
_QUIET = 0.1
# A constant, a feature of what is bought, one of words, and what is learned.
_NARROWEST = 4
# Of a token without a vector.
_UNKNOWN = 0.3


def svd_start(
  config: T5Config,
  parts_VxE: Float32[np.ndarray, "vocab width"],
  means_VxE: Float32[np.ndarray, "vocab width"],
  counts_V: Int[np.ndarray, " vocab"],
  *,
  seed: int,
) -> Any:
  """Returns parameters that start from vectors of tokens.

  Args:
    config: the model's sizes; heads x head_dim is at least emb_dim, so that
      attention can hand on what it gathers, and the output layer is untied.
    parts_VxE: what instructions are read with; of `baselines.svd.PieceVectors`,
      with at most emb_dim - 1 features, and zeros for tokens without a vector.
    means_VxE: what tokens are said with; of the same.
    counts_V: how often each token is bought.
    seed: of the random weights.

  Raises:
    InputError: see `check_config`.
  """
  check_config(config)
  width, inner = config.emb_dim, config.num_heads * config.head_dim
  scale = width**0.5
  params = jax.tree.map(
    lambda x: np.array(x), parameters.initial_variables(config, seed=seed)
  )["params"]
  last = 1 + parts_VxE.shape[1]
  is_known = np.linalg.norm(parts_VxE, axis=1) > 1e-6
  rng = np.random.default_rng(seed)
  embedding = params["token_embedder"]["embedding"]
  embedding[:] = rng.normal(size=embedding.shape) * _UNKNOWN
  embedding[is_known] = 0
  embedding[:, 0] = scale * _CONSTANT
  embedding[is_known, 1:last] = scale * parts_VxE[is_known]
  # What begins and ends a text knows nothing.
  embedding[[0, EOS_ID], 1:] = 0
  head = params["decoder"]["logits_dense"]["kernel"]
  head[:] = 0
  usual = np.log((counts_V + 0.5) / max(counts_V.sum(), 1))
  head[0] = usual / (scale * _CONSTANT_OUT)
  head[1:last] = means_VxE.T * (_SHARPNESS / scale)
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
  # All layers together add that much of the mean, but not of its constant.
  gain = (_GAIN / len(cross)) ** 0.5
  for attention in cross:
    attention["query"]["kernel"] *= _QUIET
    attention["value"]["kernel"][:] = gain * np.eye(width, inner)
    attention["value"]["kernel"][0] = 0
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
  if width < _NARROWEST:
    raise InputError(
      f"a start from an SVD needs an EMB_DIM of at least {_NARROWEST}, not "
      f"{width}."
    )
  if inner < width:
    raise InputError(
      "a start from an SVD needs heads that are together as wide as the model: "
      f"NUM_HEADS x HEAD_DIM of at least {width}, not {inner}."
    )
