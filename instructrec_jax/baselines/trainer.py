"""Fits parameters until NDCG@10 on validation no longer improves."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from instructrec_jax.progress import progress

Params = dict[str, Any]

# Targets that validate: all would cost as much time as training does.
VALIDATION_LIMIT = 5_000
# Users whose whole catalogues are scored at once.
_USERS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """How long to train, and the learning rate.

  Attributes:
    learning_rate: of Adam.
    max_epochs: at most.
    patience: epochs without a better validation, after which it ends.
    seed: of the first weights, the examples' order, draws and dropout.
  """

  learning_rate: float = 1e-3
  max_epochs: int = 200
  patience: int = 7
  seed: int = 0


class Fitted(NamedTuple):
  """The best weights of all epochs.

  Attributes:
    params: of the model.
    epochs: after how many they were reached.
    validation: their metric.
    seconds: that training took, later epochs included.
  """

  params: Params
  epochs: int
  validation: float
  seconds: float

  @property
  def report(self) -> dict[str, Any]:
    """What is kept beside the weights."""
    return {
      "epochs": self.epochs,
      "validation_ndcg@10": self.validation,
      "seconds": self.seconds,
    }


class BatchLoss(Protocol):
  """A batch's mean loss; hashable, so that equal ones share a compilation."""

  def __call__(self, params: Params, batch: Any, key: jax.Array) -> jax.Array:
    """Returns the loss; the key is of draws and dropout."""
    ...


def fit(
  options: FitOptions,
  *,
  first: Callable[[jax.Array], Params],
  loss: BatchLoss,
  batches: Callable[[np.random.Generator], Iterable[Any]],
  validate: Callable[[Params], float],
  label: str,
) -> Fitted:
  """Fits parameters.

  Args:
    options: how.
    first: returns random parameters from a key.
    loss: to minimise.
    batches: returns an epoch's batches in random order, of few shapes.
    validate: the metric to maximise.
    label: for the progress bar.
  """
  start = time.perf_counter()
  rng = np.random.default_rng(options.seed)
  first_key, key = jax.random.split(jax.random.key(options.seed))
  params = first(first_key)
  state = optax.scale_by_adam().init(params)
  best = Fitted(jax.device_get(params), 0, -np.inf, 0.0)
  steps = 0
  bar = progress(range(1, options.max_epochs + 1), label, unit="epoch")
  for epoch in bar:
    losses = []
    for batch in batches(rng):
      steps += 1
      params, state, value = _step(
        params,
        state,
        batch,
        jax.random.fold_in(key, steps),
        options.learning_rate,
        loss=loss,
      )
      losses.append(value)
    reached = validate(params)
    if reached > best.validation:
      best = Fitted(jax.device_get(params), epoch, reached, 0.0)
    bar.set_postfix(
      refresh=False,
      loss=f"{np.mean(jax.device_get(losses)):.3f}",
      validation=f"{reached:.4f}",
      best=f"{best.validation:.4f} @ {best.epochs}",
    )
    if epoch - best.epochs >= options.patience:
      break
  bar.close()
  return best._replace(seconds=time.perf_counter() - start)


def count_parameters(params: Params) -> int:
  """Returns how many numbers weights are."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def program_flops(lowered: jax.stages.Lowered) -> float:
  """Returns the FLOPs of a program without loops, as XLA counts them."""
  found = lowered.cost_analysis()
  # Of older versions, for each device.
  found = found[0] if isinstance(found, list) else found
  return float((found or {}).get("flops", 0.0))


def catalogue_ndcg(
  vectors: Float[np.ndarray, "n D"],
  table: Float[np.ndarray, "items D"],
  bias: Float[np.ndarray, " items"],
  *,
  histories: Sequence[np.ndarray],
  targets: Int[np.ndarray, " n"],
) -> float:
  """Returns NDCG@10 of targets among the catalogue without the history.

  Args:
    vectors: of users or queries.
    table: the items' vectors.
    bias: added to the items' scores.
    histories: the item numbers to leave out for each target.
    targets: item numbers.
  """
  gains = []
  for start in range(0, len(targets), _USERS_AT_ONCE):
    block = slice(start, start + _USERS_AT_ONCE)
    scores = vectors[block] @ table.T + bias
    for row, history in zip(scores, histories[block], strict=True):
      row[history] = -np.inf
    of_target = np.take_along_axis(scores, targets[block][:, None], axis=1)
    # From 1; all that are not surely lower count as better, so that weights
    # that are NaN or score everything alike do not look perfect.
    ranks = (~(scores < of_target)).sum(axis=1)
    gains.append(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0))
  return float(np.concatenate(gains).mean())


@functools.partial(jax.jit, static_argnames="loss", donate_argnums=(0, 1))
def _step(
  params: Params,
  state: optax.OptState,
  batch: Any,
  key: jax.Array,
  learning_rate: float,
  *,
  loss: BatchLoss,
) -> tuple[Params, optax.OptState, jax.Array]:
  """Returns the next parameters and optimizer state, and the loss."""
  value, gradients = jax.value_and_grad(loss)(params, batch, key)
  updates, state = optax.scale_by_adam().update(gradients, state)
  params = jax.tree.map(
    lambda old, update: old - learning_rate * update, params, updates
  )
  return params, state, value
