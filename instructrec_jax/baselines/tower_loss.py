"""What two towers are trained to lower.

Key to shapes. B: searches, K: negatives, I: items, D: width, L: words of a text
or the width of its given vector.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array

from instructrec_jax.baselines.tower_layers import Questions
from instructrec_jax.baselines.trainer import Params


class Batch(NamedTuple):
  """A step's searches, and what they are told from.

  Attributes:
    questions: B rows.
    items: [B], what was meant.
    item_text: [I, L], what is read of every title.
    pool: item numbers that negatives are drawn from.
  """

  questions: Questions
  items: Array | np.ndarray
  item_text: Array
  pool: Array


@dataclasses.dataclass(frozen=True)
class SearchLoss:
  """Cross-entropy of the item that was meant among drawn ones.

  Attributes:
    towers: of `TowerRanker.towers`.
    negatives: how many are drawn from the pool; all of it if it has no more.
  """

  towers: nn.Module
  negatives: int

  def __call__(self, params: Params, batch: Batch, key: Array) -> Array:
    """Returns the mean over a batch; the key is of draws and dropout."""
    draws_key, asked_key, offered_key = jax.random.split(key, 3)
    pool = batch.pool
    drawn_K = pool
    if len(pool) > self.negatives:
      drawn_K = jax.random.choice(draws_key, pool, (self.negatives,))
    asked_BxD = _apply(
      self.towers, params, "questions", batch.questions, batch, asked_key
    )
    offered = jnp.concatenate([jnp.asarray(batch.items), drawn_K])
    vectors, biases = _apply(
      self.towers, params, "items", offered, batch, offered_key
    )
    count = len(batch.items)
    right_B = (asked_BxD * vectors[:count]).sum(1) + biases[:count]
    logits_BxK = asked_BxD @ vectors[count:].T + biases[count:]
    # Each stands for so many items, as in `item_losses` "sampled".
    logits_BxK += jnp.log(len(pool) / len(drawn_K))
    same_BxK = jnp.asarray(batch.items)[:, None] == drawn_K
    logits_BxK = jnp.where(same_BxK, -jnp.inf, logits_BxK)
    logits = jnp.concatenate([right_B[:, None], logits_BxK], axis=1)
    return (jax.nn.logsumexp(logits, axis=1) - right_B).mean()


def _apply(
  towers: nn.Module,
  params: Params,
  method: str,
  asked: Any,
  batch: Batch,
  key: Array,
) -> Any:
  return towers.apply(
    {"params": params},
    asked,
    batch.item_text,
    training=True,
    method=method,
    rngs={"dropout": key},
  )
