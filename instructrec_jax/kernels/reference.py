"""Attention as XLA compiles it, for any backend.

Key to shapes. B: batch, T: query length, S: key length, H: heads, K: head_dim.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrec_jax.errors import InputError

# Large enough to vanish in a softmax, small enough for bfloat16.
MASKED = -1e10


def check_backend(attention: str, *backends: str) -> None:
  """Raises InputError if this is not one of the kernel's backends."""
  if (backend := jax.default_backend()) not in backends:
    raise InputError(
      f"T5Config.attention is {attention!r}, a kernel for GPUs, and this is a "
      f"{backend}: 'xla' is needed."
    )


def attend(
  query_BxTxHxK: Float[Array, "batch query heads head_dim"],
  key_BxSxHxK: Float[Array, "batch key heads head_dim"],
  value_BxSxHxK: Float[Array, "batch key heads head_dim"],
  mask: Array | None,
  bias: Float[Array, "#batch heads query key"] | None,
  keep_BxHx1xS: Float[Array, "batch heads 1 key"] | None = None,
  *,
  float32_logits: bool = False,
) -> Float[Array, "batch query heads head_dim"]:
  """Returns softmax(q k + bias) v, without T5's missing 1/sqrt(head_dim).

  Args:
    query_BxTxHxK: queries.
    key_BxSxHxK: keys.
    value_BxSxHxK: values.
    mask: broadcastable to [batch, heads, query, key]; 0 masks a key.
    bias: added to the logits.
    keep_BxHx1xS: dropout of attention weights: a factor for each key.
    float32_logits: compute logits and softmax in float32.
  """
  dtype = value_BxSxHxK.dtype
  # A fifth faster than products over interleaved heads.
  query_BxHxTxK, key_BxHxSxK, value_BxHxSxK = (
    jnp.moveaxis(x, 2, 1) for x in (query_BxTxHxK, key_BxSxHxK, value_BxSxHxK)
  )
  if float32_logits:
    query_BxHxTxK = query_BxHxTxK.astype(jnp.float32)
    key_BxHxSxK = key_BxHxSxK.astype(jnp.float32)
  logits_BxHxTxS = jnp.einsum("bhtk,bhsk->bhts", query_BxHxTxK, key_BxHxSxK)
  if bias is not None:
    logits_BxHxTxS += bias.astype(logits_BxHxTxS.dtype)
  if mask is not None:
    masked = jnp.asarray(MASKED, logits_BxHxTxS.dtype)
    logits_BxHxTxS += jnp.where(mask > 0, 0, masked)
  weights_BxHxTxS = jax.nn.softmax(logits_BxHxTxS).astype(dtype)
  if keep_BxHx1xS is not None:
    weights_BxHxTxS *= keep_BxHx1xS
  gathered_BxHxTxK = jnp.einsum(
    "bhts,bhsk->bhtk", weights_BxHxTxS, value_BxHxSxK
  )
  return jnp.moveaxis(gathered_BxHxTxK, 1, 2)


def attend_cached(
  query_BxTxHxK: Float[Array, "batch query heads head_dim"],
  key_BxHxKxS: Float[Array, "batch heads head_dim key"],
  value_BxHxKxS: Float[Array, "batch heads head_dim key"],
  mask: Array,
  bias: Float[Array, "#batch heads query key"] | None,
  *,
  float32_logits: bool = False,
) -> Float[Array, "batch query heads head_dim"]:
  """Returns what `attend` would, of keys that a cache keeps.

  Cached keys and values lie as the products of few queries read them: laid out
  as `attend` has them, they would be moved at every token.

  Args:
    query_BxTxHxK: queries.
    key_BxHxKxS: keys.
    value_BxHxKxS: values.
    mask: broadcastable to [batch, heads, query, key]; 0 masks a key.
    bias: added to the logits.
    float32_logits: compute logits and softmax in float32.
  """
  dtype = value_BxHxKxS.dtype
  if float32_logits:
    query_BxTxHxK = query_BxTxHxK.astype(jnp.float32)
    key_BxHxKxS = key_BxHxKxS.astype(jnp.float32)
  logits_BxHxTxS = jnp.einsum("bthk,bhks->bhts", query_BxTxHxK, key_BxHxKxS)
  if bias is not None:
    logits_BxHxTxS += bias.astype(logits_BxHxTxS.dtype)
  masked = jnp.asarray(MASKED, logits_BxHxTxS.dtype)
  logits_BxHxTxS += jnp.where(mask > 0, 0, masked)
  weights_BxHxTxS = jax.nn.softmax(logits_BxHxTxS).astype(dtype)
  return jnp.einsum("bhts,bhks->bthk", weights_BxHxTxS, value_BxHxKxS)
