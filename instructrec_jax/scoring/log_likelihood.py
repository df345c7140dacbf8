"""log P(candidate | instruction), token by token, as a pure function.

Key to shapes. B: instructions, T: encoder length, R: decoder rows of an
instruction, U: length of such a row, D: emb_dim, V: vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel

# Logits that may stand at once: 64 MiB of float32.
_LOGITS_AT_ONCE = 1 << 24


def token_log_likelihoods(
  params: Any, batch: dict[str, jax.Array], *, config: T5Config
) -> Float[Array, "batch rows length"]:
  """Returns log P of every candidate token, in float32 (paper 2.3.2).

  The encoder reads each instruction once. Its candidates stand end to end in
  decoder rows; the segment mask keeps them from seeing each other, and T5's
  positions are index differences, so each is scored as if alone.

  Args:
    params: the model's.
    batch: features of `packing.to_batch`.
    config: the model's sizes.

  Returns:
    Log-probabilities; those of padding have no meaning.
  """
  model = Transformer(config)
  instructions_BxT = batch["encoder_input_tokens"]
  targets_BxRxU = batch["decoder_target_tokens"]
  encoded_BxTxD = model.apply(
    {"params": params}, instructions_BxT, enable_dropout=False, method="encode"
  )
  with nn.intercept_methods(_attend_by_instruction):
    hidden: Any = model.apply(
      {"params": params},
      encoded_BxTxD,
      jnp.repeat(instructions_BxT, targets_BxRxU.shape[1], axis=0),
      _as_rows(batch["decoder_input_tokens"]),
      _as_rows(targets_BxRxU),
      decoder_segment_ids=_as_rows(batch["decoder_segment_ids"]),
      enable_dropout=False,
      method="decode_hidden",
    )
  return target_log_probabilities(
    hidden, output_kernel(config, params), _as_rows(targets_BxRxU)
  ).reshape(targets_BxRxU.shape)


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


def _as_rows(tokens_BxRxU: jax.Array) -> jax.Array:
  return tokens_BxRxU.reshape(-1, tokens_BxRxU.shape[-1])


def _attend_by_instruction(
  next_function: Any,
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  context: nn.module.InterceptorContext,
) -> Any:
  """Lets an instruction's decoder rows share its keys and values.

  Attention to the instruction knows no positions, so for it the rows may be
  one long axis of queries; the instruction is projected once, not once a row.
  """
  if context.module.name != "encoder_decoder_attention":
    return next_function(*args, **kwargs)
  if context.method_name != "__call__":
    return next_function(*args, **kwargs)
  rows_xUxD, encoded_BxTxD = args
  instructions, length, _ = encoded_BxTxD.shape
  gathered = next_function(
    rows_xUxD.reshape(instructions, -1, rows_xUxD.shape[-1]),
    encoded_BxTxD,
    mask=kwargs["mask"].reshape(instructions, 1, -1, length),
  )
  return gathered.reshape(rows_xUxD.shape)
