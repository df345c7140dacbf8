"""One training step, a pure function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora, parts
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel
from instructrec_jax.training import data_parallel, losses
from instructrec_jax.training.data_parallel import Division
from instructrec_jax.training.inputs import (
  Capacity,
  balance,
  flat_inputs,
  padded_inputs,
)
from instructrec_jax.training.state import TrainState, update_shardings
from instructrec_jax.xla_options import compiler_options

AnyMesh = Mesh | AbstractMesh
Batch = dict[str, jax.Array]


def train_step(
  state: TrainState,
  batch: Batch,
  dropout_key: jax.Array,
  *,
  config: T5Config,
  optimizer: optax.GradientTransformation,
  microbatches: int = 1,
  z_loss: float = 1e-4,
  loss_normalizing_factor: float | None = None,
  capacity: Capacity | None = None,
  division: Division | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Returns the next state, and scalars to log.

  Args:
    state: before the step.
    batch: T5X's features, each [rows, length].
    dropout_key: of this step alone.
    config: the model's sizes.
    optimizer: whose state is in `state`.
    microbatches: equal parts that the rows are taken in, to save memory; the
      update is that of the whole batch.
    z_loss: weight of T5X's z-loss.
    loss_normalizing_factor: what the summed loss is divided by; the number of
      real target tokens by default.
    capacity: given, real tokens are computed as a flat batch, and not as rows;
      of `inputs.capacity_of_steps`.
    division: of parameters over the data axis, if there is one.
  """

  def loss(params, frozen, batch, dropout_key):
    return batch_loss(
      lora.join(params, frozen),
      batch,
      dropout_key,
      config=config,
      z_loss=z_loss,
      capacity=capacity,
    )

  gradients_of = jax.grad(loss, has_aux=True)
  if capacity is not None and microbatches > 1:
    counts = jnp.count_nonzero(batch["encoder_input_tokens"], axis=1)
    order = balance(counts, microbatches)
    batch = {name: array[order] for name, array in batch.items()}
  if microbatches > 1:
    gradients_of = _accumulated(gradients_of, microbatches)
  if data_parallel.is_split():
    gradients_of = data_parallel.over_data_axis(
      gradients_of, division or Division()
    )
  gradients, sums = gradients_of(state.params, state.frozen, batch, dropout_key)
  # Sums are divided once, so that rows with many tokens weigh as they should
  # whichever microbatch they are in.
  normalizer = loss_normalizing_factor or sums.tokens
  gradients = jax.tree.map(lambda g: g / normalizer, gradients)
  params = state.params
  if division and division.updated:
    params = jax.lax.with_sharding_constraint(params, division.updated)
  updates, optimizer_state = optimizer.update(
    gradients, state.optimizer_state, params
  )
  new_params = optax.apply_updates(params, updates)
  if division and division.updated:
    # Gathered when they are new, where all devices are to hold them.
    new_params = jax.lax.with_sharding_constraint(new_params, division.updated)
  metrics = {
    "loss": sums.loss / normalizer,
    "z_loss": sums.z_loss / normalizer,
    "accuracy": sums.correct / sums.tokens,
    "target_tokens": sums.tokens,
    "grad_norm": optax.tree.norm(gradients),
    # The learning rate, where the optimizer keeps it.
    **getattr(optimizer_state, "hyperparams", {}),
  }
  return (
    dataclasses.replace(
      state,
      step=state.step + 1,
      params=new_params,
      optimizer_state=optimizer_state,
    ),
    metrics,
  )


def jitted_step(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh,
  shardings: TrainState,
  zero: bool | str = False,
  seed: int = 0,
  **options: Any,
) -> Callable[..., Any]:
  """Returns `train_step` laid out on a mesh: from state and batch to the same.

  The input state is donated. `shardings` are of `state.state_shardings`, with
  the same `zero`; `seed` is of dropout, further options of `train_step`.
  """
  mesh_lib.check_zero(zero)
  division = None
  if zero and mesh.shape["data"] > 1:
    updated = update_shardings(config, mesh, like=shardings)
    held = (
      None
      if zero == "optimizer"
      else (
        shardings.params,
        shardings.frozen,
      )
    )
    division = Division(updated=updated, parts=held)

  def step(state: TrainState, batch: Batch):
    # Drawn on the devices: processes could not hand the mesh a key.
    key = jax.random.key(seed, impl="threefry2x32")
    return train_step(
      state,
      batch,
      jax.random.fold_in(key, state.step + 1),
      config=config,
      optimizer=optimizer,
      division=division,
      **options,
    )

  return jax.jit(
    mesh_lib.with_activation_axes(step, mesh),
    donate_argnums=0,
    in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
    out_shardings=(shardings, mesh_lib.replicated(mesh)),
    compiler_options=compiler_options(training=True),
  )


def check_batch(batch_size: int, mesh: AnyMesh, microbatches: int) -> None:
  """Raises InputError if the data axis does not divide the microbatches."""
  data = mesh.shape["data"]
  parts = data * microbatches
  if batch_size % parts:
    raise InputError(
      f"a batch of {batch_size} rows cannot be split over {data} data devices "
      f"in {microbatches} microbatches: choose a multiple of {parts}."
    )


def batch_loss(
  params: Any,
  batch: Batch,
  dropout_key: jax.Array,
  *,
  config: T5Config,
  z_loss: float = 1e-4,
  capacity: Capacity | None = None,
) -> tuple[jax.Array, losses.LossSums]:
  """Returns the summed loss of a batch, and its parts; see `train_step`."""
  params = {
    name: {
      # The model gathers its layers one by one.
      child: tree
      if child.startswith("layers")
      else parts.gathered(tree, name, child)
      for child, tree in children.items()
    }
    for name, children in params.items()
  }
  if capacity is None:
    inputs = padded_inputs(batch)
  else:
    inputs = flat_inputs(batch, capacity)
  apply = functools.partial(
    Transformer(config).apply,
    {"params": params},
    deterministic=config.dropout_rate == 0,
    rngs={"dropout": dropout_key},
  )
  encoded: Any = apply(
    inputs.encoder_tokens, inputs.encoder_layout, method="encode_states"
  )
  states: Any = apply(
    inputs.decoder_tokens,
    encoded,
    inputs.decoder_layout,
    inputs.cross_layout,
    method="decode_states",
  )
  sums = losses.cross_entropy_sums(
    states[0],
    output_kernel(config, params),
    inputs.targets,
    inputs.weights,
    z_loss=z_loss,
  )
  return sums.loss, sums


def _accumulated(
  gradients_of: data_parallel.Gradients, microbatches: int
) -> data_parallel.Gradients:
  """Returns what sums over parts of the batch, one part in memory at a time."""

  def gradients(params, frozen, batch, dropout_key):
    # Part i takes every `microbatches`-th row, so that each part is spread over
    # the data axis as the whole batch is.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0),
      batch,
    )
    keys = jax.random.split(dropout_key, microbatches)

    def of_part(part, key):
      return gradients_of(params, frozen, part, key)

    def add(total, part):
      return jax.tree.map(jnp.add, total, of_part(*part)), None

    zero = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts), keys[0]),
    )
    return jax.lax.scan(add, zero, (parts, keys))[0]

  return gradients
