"""Optimizers and learning-rate schedules, as small functions that gin binds.

The optimizers keep the learning rate of their last step in their state, where
`step.train_step` finds it to be logged.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from instructrec_jax.errors import InputError, check_counts, check_numbers
from instructrec_jax.seq2seq import stacking

# Their names among the parameters.
_EMBEDDING, _OUTPUT_LAYER = "token_embedder", "logits_dense"
# Of an update function.
_TAKES_STACKED = "takes_stacked_layers"
# Float32 has no smaller rate; a larger one than this has trained nothing.
_SLOWEST, _FASTEST = 1e-37, 1e6
# Averages that forget nothing divide by 0.
_BELOW_ONE = 1 - 1e-7


def adafactor(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
) -> optax.GradientTransformation:
  """Returns Adafactor as T5X configures it.

  Decay 1 - step ** -0.8, updates relative to parameter scale, clipped at an
  RMS of 1, matrices of 128 or more on both sides factored: equal to T5X's
  `adafactor.Adafactor` to rounding.
  """

  _check_rate(learning_rate)

  def make(learning_rate):
    return _by_layer(optax.adafactor(learning_rate, decay_rate=0.8))

  return _with_rate(make, learning_rate)


def adamw(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  weight_decay: float = 0.0,
  b2: float = 0.999,
  embedding_rate: float = 1.0,
  output_rate: float = 1.0,
) -> optax.GradientTransformation:
  """Returns AdamW on gradients clipped to a global norm of 1.

  Embeddings and the output layer learn at their shares of the learning rate. A
  start from an SVD is in them: at the full rate it is forgotten within a few
  dozen steps, since each entry moves by about the rate, however small it is.
  """

  _check_rate(learning_rate)
  shares = {_EMBEDDING: embedding_rate, _OUTPUT_LAYER: output_rate}
  check_numbers(
    weight_decay=weight_decay,
    embedding_rate=embedding_rate,
    output_rate=output_rate,
  )
  check_numbers(most=_BELOW_ONE, b2=b2)

  def slower(path, update):
    for key in path:
      update = update * shares.get(getattr(key, "key", ""), 1.0)
    return update

  def make(learning_rate):
    steps = [
      optax.clip_by_global_norm(1.0),
      optax.adamw(learning_rate, b2=b2, weight_decay=weight_decay),
    ]
    # The state of a run without it has no place for it.
    if {*shares.values()} != {1}:
      steps.append(
        optax.stateless(
          lambda updates, _: jax.tree_util.tree_map_with_path(slower, updates)
        )
      )
    return optax.chain(*steps)

  return _with_rate(make, learning_rate)


def takes_stacked_layers(transform: optax.GradientTransformation) -> bool:
  """Whether updates of `seq2seq.stacking`'s trees are those of layers apart.

  So it is for this module's optimizers. Another may take means over a whole
  array.
  """
  return getattr(transform.update, _TAKES_STACKED, False)


def _by_layer(
  transform: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Returns a transformation that treats each of stacked layers alone.

  For one that treats each array alone, whatever is in the others.
  """

  def update(updates, state, params=None):
    function = transform.update
    # The published algorithm takes any tree, our models' have stacks.
    children = updates if isinstance(updates, dict) else {}
    for stack in ("encoder", "decoder"):
      if stacking.STACKED in children.get(stack, ()):
        axes = functools.partial(_axes, stack=stack)
        function = jax.vmap(
          function,
          in_axes=(axes(updates), axes(state), axes(params)),
          out_axes=(axes(updates), axes(state)),
        )
    return function(updates, state, params)

  return optax.GradientTransformation(transform.init, update)


def _axes(tree: Any, *, stack: str) -> Any:
  """Returns 0 for stacked layers of a stack, None for all else."""
  path_of_stack = [stack, stacking.STACKED]

  def axis(path, _):
    keys = [getattr(key, "key", None) for key in path]
    pairs = zip(keys, keys[1:], strict=False)
    return 0 if path_of_stack in map(list, pairs) else None

  return jax.tree_util.tree_map_with_path(axis, tree)


def _with_rate(
  make: Callable[..., optax.GradientTransformation],
  learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
  """Returns the optimizer, which keeps its rate in its state."""
  transform = optax.inject_hyperparams(make)(learning_rate)
  if callable(learning_rate):
    setattr(transform.update, _TAKES_STACKED, True)
    return transform

  def update(updates, state, params=None, **extra):
    # A resumed run's state has the rate that it was begun with.
    old = state.hyperparams["learning_rate"]
    rate = {"learning_rate": jnp.full_like(old, learning_rate)}
    state = state._replace(hyperparams=state.hyperparams | rate)
    return transform.update(updates, state, params, **extra)

  setattr(update, _TAKES_STACKED, True)
  return optax.GradientTransformationExtraArgs(transform.init, update)


def constant(peak: float = 1e-3, warmup_steps: int = 0) -> optax.Schedule:
  """Returns a linear warm-up to `peak`, then `peak`: T5X's for fine-tuning."""
  _check(peak, warmup_steps)
  return _after_warmup(peak, warmup_steps, optax.constant_schedule(peak))


def inverse_sqrt(peak: float = 1e-2, warmup_steps: int = 100) -> optax.Schedule:
  """Returns a linear warm-up, then peak * sqrt(warmup_steps / step).

  T5's own schedule for training from random weights.
  """
  _check(peak, warmup_steps)
  warmup = max(warmup_steps, 1)

  def schedule(step):
    decay = (warmup / jnp.maximum(step, 1)) ** 0.5
    return peak * jnp.minimum(step / warmup, decay)

  return schedule


def linear(
  peak: float = 1e-3, warmup_steps: int = 0, total_steps: int = 1000
) -> optax.Schedule:
  """Returns a linear warm-up to `peak`, then a straight line to 0."""
  _check(peak, warmup_steps)
  check_counts(total_steps=total_steps)
  if total_steps <= warmup_steps:
    raise InputError(
      f"a schedule of {total_steps} steps cannot warm up for {warmup_steps}: "
      "make total_steps larger, or warmup_steps smaller."
    )
  decay = optax.linear_schedule(peak, 0.0, total_steps - warmup_steps)
  return _after_warmup(peak, warmup_steps, decay)


def warmup_stable_decay(
  peak: float = 1e-3,
  warmup_steps: int = 0,
  decay_steps: int = 100,
  total_steps: int = 1000,
) -> optax.Schedule:
  """Returns a warm-up to `peak`, then `peak`, and in the end a line to 0.

  A constant rate ends wherever the last steps have thrown the parameters; what
  decays settles (Hu et al., 2024, arXiv:2404.06395, section 4).
  """
  _check(peak, warmup_steps)
  check_counts(decay_steps=decay_steps, total_steps=total_steps)
  stable_steps = total_steps - warmup_steps - decay_steps
  if stable_steps < 0:
    raise InputError(
      f"a schedule of {total_steps} steps cannot warm up for {warmup_steps} "
      f"and decay for {decay_steps}: make total_steps larger, or the others "
      "smaller."
    )
  decay = optax.linear_schedule(peak, 0.0, decay_steps, stable_steps)
  return _after_warmup(peak, warmup_steps, decay)


def _after_warmup(
  peak: float, warmup_steps: int, schedule: optax.Schedule
) -> optax.Schedule:
  warmup = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
  return optax.join_schedules([warmup, schedule], [warmup_steps])


def _check(peak: float, warmup_steps: int) -> None:
  _check_rate(peak)
  check_counts(least=0, warmup_steps=warmup_steps)


def _check_rate(rate: optax.ScalarOrSchedule) -> None:
  if not callable(rate):
    check_numbers(least=_SLOWEST, most=_FASTEST, **{"learning_rate": rate})
