"""Attention of cuDNN, through `jax.nn`: NVIDIA GPUs, bfloat16."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrec_jax.kernels.reference import MASKED, check_backend


def attend(
  query_BxTxHxK: Float[Array, "batch query heads head_dim"],
  key_BxSxHxK: Float[Array, "batch key heads head_dim"],
  value_BxSxHxK: Float[Array, "batch key heads head_dim"],
  mask: Array | None,
  bias: Float[Array, "#batch heads query key"] | None,
  *,
  implementation: Any = "cudnn",
) -> Float[Array, "batch query heads head_dim"]:
  """Returns what `reference.attend` does, softmax in float32.

  The mask becomes part of a bias for each row: [batch, heads, query, key] in
  bfloat16 is made, but no weights. cuDNN's gradient of a bias wants even
  lengths.

  Args:
    query_BxTxHxK: queries.
    key_BxSxHxK: keys.
    value_BxSxHxK: values.
    mask: broadcastable to [batch, heads, query, key]; 0 masks a key.
    bias: added to the logits.
    implementation: of `jax.nn.dot_product_attention`; "xla" runs anywhere.

  Raises:
    InputError: cuDNN is asked for, and this is no GPU.
  """
  if implementation == "cudnn":
    check_backend("cudnn", "gpu")
  batch, length, heads, _ = query_BxTxHxK.shape
  others = key_BxSxHxK.shape[1]
  odd, odd_keys = length % 2, others % 2

  def even(x, amount):
    return jnp.pad(x, ((0, 0), (0, amount), (0, 0), (0, 0)))

  dtype = query_BxTxHxK.dtype
  whole = jnp.zeros((batch, heads, length, others), dtype)
  if bias is not None:
    whole += bias.astype(dtype)
  if mask is not None:
    whole = jnp.where(mask > 0, whole, jnp.asarray(MASKED, dtype))
  whole = jnp.pad(whole, ((0, 0), (0, 0), (0, odd), (0, 0)))
  whole = jnp.pad(
    whole, ((0, 0), (0, 0), (0, 0), (0, odd_keys)), constant_values=MASKED
  )
  gathered = jax.nn.dot_product_attention(
    even(query_BxTxHxK, odd),
    even(key_BxSxHxK, odd_keys),
    even(value_BxSxHxK, odd_keys),
    whole,
    scale=1.0,
    implementation=implementation,
  )
  return gathered[:, :length]
