"""Token cross-entropy straight from the decoder's states.

The paper's Eq. 1 (with the minus that it misses), normalised as in T5X. The
output layer is part of the loss, so that logits are materialised for one slice
of positions at a time and their gradient is taken from them at once: three
matrix products a slice, nothing recomputed, and never all [tokens, vocab].

Key to shapes. B: rows, U: decoder length, D: emb_dim, V: vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from flax.linen import spmd
from jaxtyping import Array, Float, Int

# Logits that a device materialises at once: 256 MiB of float32.
_LOGITS_AT_ONCE = 1 << 26


@struct.dataclass
class LossSums:
  """Sums over real target tokens; divide by `tokens` for means."""

  # Cross-entropy plus z-loss, in nats.
  loss: Float[Array, ""]
  z_loss: Float[Array, ""]
  # Tokens that had the largest logit.
  correct: Float[Array, ""]
  tokens: Float[Array, ""]


def cross_entropy_sums(
  hidden_BxUxD: Float[Array, "batch length embed"],
  kernel_DxV: Float[Array, "embed vocab"],
  targets_BxU: Int[Array, "batch length"],
  weights_BxU: Float[Array, "batch length"],
  *,
  z_loss: float = 1e-4,
) -> LossSums:
  """Returns summed losses; only `loss` has a gradient.

  Args:
    hidden_BxUxD: of `Transformer.decode_states`.
    kernel_DxV: of `transformer.output_kernel`.
    targets_BxU: ids to predict.
    weights_BxU: 1 for real tokens, 0 for padding.
    z_loss: weight of log(Z)**2, which keeps logits from drifting (T5X).
  """
  fused: Any = _fused(
    hidden_BxUxD, kernel_DxV, targets_BxU, weights_BxU, z_loss
  )
  loss, (penalty, correct) = fused
  return LossSums(loss, penalty, correct, weights_BxU.sum())


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fused(hidden, kernel, targets, weights, z_loss):
  sums, _ = _scan(hidden, kernel, targets, weights, z_loss, gradient=False)
  return sums[0], sums[1:]


def _fused_forward(hidden, kernel, targets, weights, z_loss):
  sums, gradients = _scan(
    hidden, kernel, targets, weights, z_loss, gradient=True
  )
  return (sums[0], sums[1:]), gradients


def _fused_backward(z_loss, gradients, cotangents):
  d_hidden, d_kernel = gradients
  scale = cotangents[0]
  return (d_hidden * scale.astype(d_hidden.dtype), d_kernel * scale, None, None)


_fused.defvjp(_fused_forward, _fused_backward)


def _scan(hidden, kernel, targets, weights, z_loss, *, gradient: bool):
  """Goes through slices of positions, so that rows stay split over `data`."""
  rows, length, _ = hidden.shape
  # Gathered once, if it is fully sharded, and not in each slice.
  kernel = spmd.with_logical_constraint(kernel, (None, "vocab"))
  devices = jax.sharding.get_abstract_mesh().shape.get("model", 1)
  width = _slice_width(rows, length, kernel.shape[1] // devices)
  count = -(-length // width)

  def slices(array):
    # What is added weighs nothing.
    ends = [(0, 0)] * array.ndim
    ends[1] = (0, count * width - length)
    array = jnp.pad(array, ends)
    array = array.reshape(rows, count, width, *array.shape[2:])
    return jnp.moveaxis(array, 1, 0)

  def step(carry, slice_) -> tuple[Any, Any]:
    sums, d_kernel = carry
    hidden_BxWxD, targets_BxW, weights_BxW = slice_
    states = hidden_BxWxD.astype(jnp.float32)
    logits_BxWxV = states @ kernel
    log_z = jax.nn.logsumexp(logits_BxWxV, axis=-1)
    target_logit = jnp.take_along_axis(
      logits_BxWxV, targets_BxW[..., None], axis=-1
    )[..., 0]
    penalty = z_loss * jnp.square(log_z)
    correct = logits_BxWxV.argmax(-1) == targets_BxW
    sums += jnp.stack(
      [
        jnp.sum((log_z - target_logit + penalty) * weights_BxW),
        jnp.sum(penalty * weights_BxW),
        jnp.sum(correct * weights_BxW),
      ]
    )
    if not gradient:
      return (sums, d_kernel), None
    pull = weights_BxW * (1 + 2 * z_loss * log_z)
    d_logits = jnp.exp(logits_BxWxV - log_z[..., None]) * pull[..., None]
    vocab = jnp.arange(kernel.shape[1])
    is_target = targets_BxW[..., None] == vocab
    d_logits -= jnp.where(is_target, weights_BxW[..., None], 0)
    d_kernel += jnp.einsum("bwd,bwv->dv", states, d_logits)
    d_hidden = (d_logits @ kernel.T).astype(hidden.dtype)
    return (sums, d_kernel), d_hidden

  zero_kernel = jnp.zeros_like(kernel) if gradient else jnp.zeros(())
  (sums, d_kernel), d_hidden = jax.lax.scan(
    step,
    (jnp.zeros(3), zero_kernel),
    (slices(hidden), slices(targets), slices(weights)),
  )
  if not gradient:
    return sums, None
  d_hidden = jnp.moveaxis(d_hidden, 0, 1).reshape(rows, -1, hidden.shape[-1])
  return sums, (d_hidden[:, :length], d_kernel)


def logits_at_once(rows: int, length: int, vocab: int) -> int:
  """Returns how many logits a device materialises at the same time.

  Args:
    rows: of the device.
    length: of each.
    vocab: the device's share of the vocabulary.
  """
  return rows * _slice_width(rows, length, vocab) * vocab


def _slice_width(rows: int, length: int, vocab: int) -> int:
  """Positions of a slice: of the fewest that keep to `_LOGITS_AT_ONCE`."""
  most = max(_LOGITS_AT_ONCE // (rows * vocab), 1)
  slices = -(-length // most)
  return -(-length // slices)
