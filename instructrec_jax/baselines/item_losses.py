"""What it costs to tell the wrong item.

P: places where an item is to be told, I: items, D: width, K: negatives. Items
are tokens 1 to I of the table; logits are products with its rows, plus a bias.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from instructrec_jax.errors import InputError

Loss = Literal["full", "sampled", "bce"]


def check_loss(loss: str) -> None:
  """Stops at an unknown name.

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
  """Returns the loss of each place.

  Args:
    hidden_PxD: what the encoder says.
    table_IxD: the items' rows, without padding and mask.
    bias_I: added to the items' logits.
    targets_P: item numbers.
    loss: "full" is cross-entropy over all items; "sampled" estimates it from
      `negatives` uniform items that all places share, and so does not grow
      with the catalogue; "bce" is SASRec as published: two classes, with one
      uniform negative a place.
    negatives: K of "sampled".
    key: of the draws.
  """
  num_items = len(table_IxD)
  if loss == "full":
    logits_PxI = hidden_PxD @ table_IxD.T + bias_I
    right_P = jnp.take_along_axis(logits_PxI, targets_P[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits_PxI, axis=1) - right_P
  right_P = (hidden_PxD * table_IxD[targets_P]).sum(1) + bias_I[targets_P]
  if loss == "bce":
    drawn_P = jax.random.randint(key, targets_P.shape, 0, num_items)
    wrong_P = (hidden_PxD * table_IxD[drawn_P]).sum(1) + bias_I[drawn_P]
    return jax.nn.softplus(-right_P) + jnp.where(
      drawn_P == targets_P, 0.0, jax.nn.softplus(wrong_P)
    )
  drawn_K = jax.random.randint(key, (negatives,), 0, num_items)
  logits_PxK = hidden_PxD @ table_IxD[drawn_K].T + bias_I[drawn_K]
  # Each stands for so many items: logsumexp then estimates that of "full".
  logits_PxK += jnp.log((num_items - 1) / negatives)
  logits_PxK = jnp.where(drawn_K == targets_P[:, None], -jnp.inf, logits_PxK)
  logits = jnp.concatenate([right_P[:, None], logits_PxK], axis=1)
  return jax.nn.logsumexp(logits, axis=1) - right_P
