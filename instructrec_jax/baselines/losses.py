"""Losses for next-item prediction.

P: positions to predict, I: items, D: width, K: negatives. Logits are products
of hidden states with the items' vectors, plus a bias.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from instructrec_jax.errors import InputError

Loss = Literal["full", "sampled", "bce"]


def check_loss(loss: str) -> None:
  """Checks the name of a loss.

  Raises:
    InputError: it is none of `Loss`.
  """
  if loss not in get_args(Loss):
    raise InputError(
      f"there is no loss {loss!r}: name one of {', '.join(get_args(Loss))}."
    )


def item_loss(
  hidden_PxD: Float[Array, "P D"],
  table_IxD: Float[Array, "I D"],
  bias_I: Float[Array, " I"],
  targets_P: Int[Array, " P"],
  *,
  loss: Loss,
  negatives: int,
  key: Array,
) -> Float[Array, " P"]:
  """Returns the loss of each position.

  Args:
    hidden_PxD: the encoder's output.
    table_IxD: the items' vectors, without padding and mask.
    bias_I: added to the items' logits.
    targets_P: item numbers.
    loss: "full" is cross-entropy over all items; "sampled" estimates it from
      `negatives` uniform items that all positions share, so that its cost does
      not grow with the catalogue; "bce" is SASRec as published: binary
      cross-entropy with one uniform negative a position.
    negatives: K of "sampled".
    key: of the draws.
  """
  num_items = len(table_IxD)
  if loss == "full":
    logits_PxI = hidden_PxD @ table_IxD.T + bias_I
    target_P = jnp.take_along_axis(logits_PxI, targets_P[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits_PxI, axis=1) - target_P
  target_P = (hidden_PxD * table_IxD[targets_P]).sum(1) + bias_I[targets_P]
  if loss == "bce":
    drawn_P = jax.random.randint(key, targets_P.shape, 0, num_items)
    negative_P = (hidden_PxD * table_IxD[drawn_P]).sum(1) + bias_I[drawn_P]
    return jax.nn.softplus(-target_P) + jnp.where(
      drawn_P == targets_P, 0.0, jax.nn.softplus(negative_P)
    )
  drawn_K = jax.random.randint(key, (negatives,), 0, num_items)
  return sampled_cross_entropy(
    target_P,
    hidden_PxD @ table_IxD[drawn_K].T + bias_I[drawn_K],
    is_target_PxK=drawn_K == targets_P[:, None],
    weight=(num_items - 1) / negatives,
  )


def sampled_cross_entropy(
  target_P: Float[Array, " P"],
  logits_PxK: Float[Array, "P K"],
  *,
  is_target_PxK: Bool[Array, "P K"],
  weight: float,
) -> Float[Array, " P"]:
  """Returns an estimate of cross-entropy over all items.

  Args:
    target_P: the targets' logits.
    logits_PxK: of the sampled negatives.
    is_target_PxK: which of these are the target, and left out.
    weight: number of items that each negative represents.
  """
  logits_PxK += jnp.log(weight)
  logits_PxK = jnp.where(is_target_PxK, -jnp.inf, logits_PxK)
  logits = jnp.concatenate([target_P[:, None], logits_PxK], axis=1)
  return jax.nn.logsumexp(logits, axis=1) - target_P
