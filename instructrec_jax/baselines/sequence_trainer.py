"""Trains a sequence encoder until validation no longer improves."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from instructrec_jax.baselines.item_losses import Loss, check_loss, item_loss
from instructrec_jax.baselines.sequence_batches import Batch, Example, pack
from instructrec_jax.baselines.sequence_encoder import (
  EncoderConfig,
  SequenceEncoder,
)

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """How to train.

  Attributes:
    loss: see `item_losses.item_loss`.
    negatives: of the loss "sampled".
    learning_rate: of Adam.
    tokens_per_step: of a minibatch of users, padding included.
    max_epochs: at most.
    patience: epochs without a better validation, after which it ends.
    seed: of the first weights, the users' order, draws and dropout.
  """

  loss: Loss = "full"
  negatives: int = 1024
  learning_rate: float = 1e-3
  tokens_per_step: int = 2000
  max_epochs: int = 200
  patience: int = 7
  seed: int = 0

  def __post_init__(self):
    """Checks the loss's name."""
    check_loss(self.loss)


class Fitted(NamedTuple):
  """The best weights that were met.

  Attributes:
    params: of a `SequenceEncoder`.
    epochs: after how many they were met.
    validation: what they reach.
    seconds: that training took, later epochs included.
  """

  params: Params
  epochs: int
  validation: float
  seconds: float


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
  start = time.perf_counter()
  rng = np.random.default_rng(options.seed)
  first_key, key = jax.random.split(jax.random.key(options.seed))
  params = _first_params(first_key, config=config)
  state = optax.scale_by_adam().init(params)
  step = functools.partial(
    _step,
    config=config,
    num_items=num_items,
    loss=options.loss,
    negatives=options.negatives,
  )
  best = Fitted(jax.device_get(params), 0, -np.inf, 0.0)
  steps = 0
  progress = tqdm.trange(
    1, options.max_epochs + 1, desc=label, unit="epoch", disable=None
  )
  for epoch in progress:
    losses = []
    for batch in pack(
      draw(rng),
      rows=max(1, options.tokens_per_step // config.max_length),
      length=config.max_length,
    ):
      steps += 1
      params, state, loss = step(
        params,
        state,
        batch,
        jax.random.fold_in(key, steps),
        options.learning_rate,
      )
      losses.append(loss)
    reached = validate(params)
    if reached > best.validation:
      best = Fitted(jax.device_get(params), epoch, reached, 0.0)
    progress.set_postfix(
      loss=f"{np.mean(jax.device_get(losses)):.3f}",
      validation=f"{reached:.4f}",
      best=f"{best.validation:.4f} @ {best.epochs}",
    )
    if epoch - best.epochs >= options.patience:
      break
  progress.close()
  return best._replace(seconds=time.perf_counter() - start)


@functools.partial(jax.jit, static_argnames="config")
def _first_params(key: jax.Array, *, config: EncoderConfig) -> Params:
  token = jnp.ones((1, 1), jnp.int32)
  variables = SequenceEncoder(config).init(key, token, token, 0 * token)
  return dict(variables["params"])


@functools.partial(
  jax.jit,
  static_argnames=("config", "num_items", "loss", "negatives"),
  donate_argnums=(0, 1),
)
def _step(
  params: Params,
  state: optax.OptState,
  batch: Batch,
  key: jax.Array,
  learning_rate: float,
  *,
  config: EncoderConfig,
  num_items: int,
  loss: Loss,
  negatives: int,
) -> tuple[Params, optax.OptState, jax.Array]:
  """Returns the next parameters and optimizer state, and the mean loss."""
  dropout_key, draws_key = jax.random.split(key)

  def mean_loss(params: Params) -> jax.Array:
    hidden = SequenceEncoder(config).apply(
      {"params": params},
      batch.tokens,
      batch.segments,
      batch.distances,
      training=True,
      rngs={"dropout": dropout_key},
    )
    assert isinstance(hidden, jax.Array)
    loss_P = item_loss(
      hidden.reshape(-1, config.width)[batch.places],
      params["table"][1 : num_items + 1],
      params["bias"][1 : num_items + 1],
      jnp.asarray(batch.targets) - 1,
      loss=loss,
      negatives=negatives,
      key=draws_key,
    )
    return (loss_P * batch.weights).sum() / batch.weights.sum()

  value, gradients = jax.value_and_grad(mean_loss)(params)
  updates, state = optax.scale_by_adam().update(gradients, state)
  params = jax.tree.map(
    lambda old, update: old - learning_rate * update, params, updates
  )
  return params, state, value
