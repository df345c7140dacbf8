"""Trains a sequence encoder on packed histories."""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.baselines.item_losses import Loss, check_loss, item_loss
from instructrec_jax.baselines.sequence_batches import Batch, Example, pack
from instructrec_jax.baselines.sequence_encoder import (
  EncoderConfig,
  SequenceEncoder,
)
from instructrec_jax.baselines.trainer import FitOptions, Fitted, Params, fit


@dataclasses.dataclass(frozen=True)
class TrainerOptions(FitOptions):
  """How to train; see `trainer.FitOptions` for the rest.

  Attributes:
    loss: see `item_losses.item_loss`.
    negatives: of the loss "sampled".
    tokens_per_step: of a minibatch of users, padding included.
  """

  loss: Loss = "full"
  negatives: int = 1024
  tokens_per_step: int = 2000

  def __post_init__(self):
    """Checks the loss's name."""
    check_loss(self.loss)


def train(
  config: EncoderConfig,
  options: TrainerOptions,
  *,
  draw: Callable[[np.random.Generator], Iterable[Example]],
  num_items: int,
  validate: Callable[[Params], float],
  label: str,
) -> Fitted:
  """Fits an encoder.

  Args:
    config: the encoder.
    options: how to train it.
    draw: returns an epoch's histories in random order.
    num_items: tokens 1 to `num_items` are items.
    validate: what is to be as high as possible.
    label: for the progress bar.
  """
  return fit(
    options,
    first=functools.partial(_first_params, config=config),
    loss=_PlacesLoss(config, num_items, options.loss, options.negatives),
    batches=lambda rng: pack(
      draw(rng),
      rows=max(1, options.tokens_per_step // config.max_length),
      length=config.max_length,
    ),
    validate=validate,
    label=label,
  )


@functools.partial(jax.jit, static_argnames="config")
def _first_params(key: jax.Array, *, config: EncoderConfig) -> Params:
  token = jnp.ones((1, 1), jnp.int32)
  variables = SequenceEncoder(config).init(key, token, token, 0 * token)
  return dict(variables["params"])


@dataclasses.dataclass(frozen=True)
class _PlacesLoss:
  """The mean over the places where an item is to be told."""

  config: EncoderConfig
  num_items: int
  loss: Loss
  negatives: int

  def __call__(self, params: Params, batch: Batch, key: jax.Array) -> jax.Array:
    dropout_key, draws_key = jax.random.split(key)
    hidden = SequenceEncoder(self.config).apply(
      {"params": params},
      batch.tokens,
      batch.segments,
      batch.distances,
      training=True,
      rngs={"dropout": dropout_key},
    )
    assert isinstance(hidden, jax.Array)
    loss_P = item_loss(
      hidden.reshape(-1, self.config.width)[batch.places],
      params["table"][1 : self.num_items + 1],
      params["bias"][1 : self.num_items + 1],
      jnp.asarray(batch.targets) - 1,
      loss=self.loss,
      negatives=self.negatives,
      key=draws_key,
    )
    return (loss_P * batch.weights).sum() / batch.weights.sum()
