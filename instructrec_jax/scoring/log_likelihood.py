"""log P(candidate | instruction), token by token, as a pure function.

Key to shapes. B: instructions, T: encoder length, U: tokens of an
instruction's candidates, D: emb_dim, V: vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel

# Logits that may stand at once: 64 MiB of float32.
_LOGITS_AT_ONCE = 1 << 24


def token_log_likelihoods(
  params: Any, batch: dict[str, jax.Array], *, config: T5Config
) -> Float[Array, "batch length"]:
  """Returns log P of every candidate token, in float32 (paper 2.3.2).

  The encoder reads each instruction once. All its candidates stand in one
  decoder row; the segment mask keeps them from seeing each other, and T5's
  positions are index differences, so each is scored as if alone.

  Args:
    params: the model's.
    batch: of `packing.to_batch`.
    config: the model's sizes.

  Returns:
    Log-probabilities; those of padding have no meaning.
  """
  model = Transformer(config)
  encoded = model.apply(
    {"params": params},
    batch["encoder_input_tokens"],
    enable_dropout=False,
    method="encode",
  )
  hidden: Any = model.apply(
    {"params": params},
    encoded,
    batch["encoder_input_tokens"],
    batch["decoder_input_tokens"],
    batch["decoder_target_tokens"],
    decoder_segment_ids=batch["decoder_segment_ids"],
    enable_dropout=False,
    method="decode_hidden",
  )
  return target_log_probabilities(
    hidden, output_kernel(config, params), batch["decoder_target_tokens"]
  )


def target_log_probabilities(
  hidden_BxUxD: Float[Array, "batch length embed"],
  kernel_DxV: Float[Array, "embed vocab"],
  targets_BxU: Int[Array, "batch length"],
) -> Float[Array, "batch length"]:
  """Returns log softmax at the targets; logits never stand whole."""
  rows, length, _ = hidden_BxUxD.shape
  width = max(
    width
    for width in range(1, length + 1)
    if length % width == 0
    and (width == 1 or rows * width * kernel_DxV.shape[1] <= _LOGITS_AT_ONCE)
  )

  def one_slice(slice_):
    hidden, targets = slice_
    logits_BxWxV = hidden.astype(jnp.float32) @ kernel_DxV
    target_logit = jnp.take_along_axis(logits_BxWxV, targets[..., None], -1)
    return target_logit[..., 0] - jax.nn.logsumexp(logits_BxWxV, axis=-1)

  def slices(array):
    array = array.reshape(rows, length // width, width, *array.shape[2:])
    return jnp.moveaxis(array, 1, 0)

  by_slice = jax.lax.map(one_slice, (slices(hidden_BxUxD), slices(targets_BxU)))
  return jnp.moveaxis(by_slice, 0, 1).reshape(rows, length)
