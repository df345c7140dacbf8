"""What a training step needs of a device's memory, before there is a device.

Parameters, optimizer and gradients are counted as they are laid out on the
mesh. Activations are what differentiation keeps from the forward pass for the
backward one, read off the traced step: of one device's share, a model with
1/model of the heads and the width on 1/data of the rows.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import lora, parameters, stacking
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.training import losses
from instructrec_jax.training.collectives import collectives
from instructrec_jax.training.state import (
  TrainState,
  is_stacked,
  state_shapes,
  state_shardings,
)
from instructrec_jax.training.step import (
  Batch,
  batch_loss,
  check_batch,
  jitted_step,
)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
  """Bytes of one device.

  Attributes:
    parameters: with those that LoRA freezes.
    gradients: in float32, twice where microbatches are summed; of what is
      trained.
    activations: kept for the backward pass, of one microbatch.
    working: temporary: a slice of logits and its gradient, and under
      rematerialisation the widest layer that is computed again.
    exchanged: the least that it sends to others that have other rows, a step:
      gradients are summed and given back once; with parameters in parts, these
      are gathered once, and gradients scattered in each microbatch.
  """

  parameters: int
  optimizer: int
  batch: int
  gradients: int
  activations: int
  working: int
  exchanged: int

  @property
  def arguments(self) -> int:
    """What the step is given: XLA's argument size."""
    return self.parameters + self.optimizer + self.batch

  @property
  def outputs(self) -> int:
    """What it returns, in place of what it is given: XLA's output size."""
    return self.parameters + self.optimizer

  @property
  def temporaries(self) -> int:
    """What it needs beside them."""
    return self.gradients + self.activations + self.working

  @property
  def total(self) -> int:
    """At the peak; the new state takes the place of the old one."""
    return self.arguments + self.temporaries


def plan_memory(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | AbstractMesh,
  batch_size: int,
  input_length: int = 512,
  target_length: int = 64,
  microbatches: int = 1,
  zero: bool | str = False,
) -> MemoryPlan:
  """Reckons with shapes alone: neither devices nor memory are needed.

  Args:
    config: the model's sizes, and its rematerialisation.
    optimizer: whose state is counted.
    mesh: of `mesh.make_mesh` or `mesh.abstract_mesh`.
    batch_size: rows a step, over all devices.
    input_length: tokens of a packed row.
    target_length: of its answers.
    microbatches: parts that a batch is taken in.
    zero: "optimizer" splits the optimizer over the data axis too, True the
      parameters as well.

  Raises:
    InputError: the mesh does not divide the model or the batch.
  """
  config = dataclasses.replace(config, loop_over_examples=False)
  data, model = mesh.shape["data"], mesh.shape["model"]
  check_batch(batch_size, mesh, microbatches)
  state, shardings = _state_shapes(config, optimizer, mesh=mesh, zero=zero)
  batch = _batch_shapes(batch_size, input_length, target_length)
  share = dataclasses.replace(
    config,
    num_heads=config.num_heads // model,
    mlp_dim=config.mlp_dim // model,
    vocab_size=config.vocab_size // model,
  )
  rows = batch_size // data // microbatches
  part = _batch_shapes(rows, input_length, target_length)
  trained = _bytes_of(state.params, shardings.params)
  parameters = trained + _bytes_of(state.frozen, shardings.frozen)
  passes = 1 + microbatches if zero is True else 2
  whole = trained
  if zero is True:
    _, of_whole = _state_shapes(config, optimizer, mesh=mesh)
    whole = _bytes_of(state.params, of_whole.params)
  return MemoryPlan(
    parameters=parameters,
    optimizer=_bytes_of(state, shardings) - parameters,
    batch=_bytes_of(batch, dict.fromkeys(batch, mesh_lib.batch_sharding(mesh))),
    gradients=trained * (1 if microbatches == 1 else 2),
    activations=_kept(share, part),
    working=_working(config, share, part, zero=zero),
    exchanged=passes * whole * (data - 1) // data,
  )


def compile_step(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh,
  batch_size: int,
  input_length: int = 512,
  target_length: int = 64,
  microbatches: int = 1,
  zero: bool | str = False,
) -> dict[str, int]:
  """Compiles the step for abstract values; arguments as in `plan_memory`.

  Returns:
    XLA's own bytes of a device: arguments, outputs (of which most take the
    place of arguments) and temporaries; and what it sends over the data axis.
  """
  # The program of accelerators, wherever it is compiled.
  config = dataclasses.replace(config, loop_over_examples=False)
  state, shardings = _state_shapes(config, optimizer, mesh=mesh, zero=zero)
  step = jitted_step(
    config,
    optimizer,
    mesh=mesh,
    shardings=shardings,
    zero=zero,
    microbatches=microbatches,
  )
  batch = _batch_shapes(batch_size, input_length, target_length)
  compiled = step.lower(state, batch).compile()
  analysis: Any = compiled.memory_analysis()
  model = mesh.shape["model"]
  exchanged = sum(
    each.sent * each.times
    for each in collectives(compiled.as_text() or "")
    # Devices are numbered along the model axis first.
    if len({device // model for device in each.devices}) > 1
  )
  return {
    "arguments": analysis.argument_size_in_bytes,
    "outputs": analysis.output_size_in_bytes,
    "temporaries": analysis.temp_size_in_bytes,
    "exchanged": round(exchanged),
  }


def _state_shapes(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | AbstractMesh,
  zero: bool | str = False,
) -> tuple[TrainState, TrainState]:
  """Returns the shapes and the shardings of a run's state."""
  shapes = state_shapes(config, optimizer)
  shardings = state_shardings(
    config, optimizer, state=shapes, mesh=mesh, zero=zero
  )
  if is_stacked(config, optimizer):
    shapes = stacking.stack_layers(shapes, stacking.stack_shapes)
    shardings = stacking.stack_layers(shardings, stacking.stack_shardings)
  return shapes, shardings


def _batch_shapes(rows: int, input_length: int, target_length: int) -> Batch:
  """Returns the shapes of `PackedDataset.batch`."""
  both = ("input_tokens", "segment_ids", "positions")
  names = {
    "encoder": (input_length, both),
    "decoder": (target_length, ("target_tokens", "loss_weights", *both)),
  }
  shapes: Any = {
    f"{side}_{name}": jax.ShapeDtypeStruct(
      (rows, length), jnp.float32 if name == "loss_weights" else jnp.int32
    )
    for side, (length, of_side) in names.items()
    for name in of_side
  }
  return shapes


def _bytes_of(shapes: Any, shardings: Any) -> int:
  """Returns the bytes of one device's part of arrays."""
  sizes = jax.tree.map(
    lambda leaf, sharding: (
      math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    ),
    shapes,
    shardings,
  )
  return sum(jax.tree.leaves(sizes))


def _kept(config: T5Config, batch: Batch) -> int:
  """Bytes that the backward pass reads and only the forward pass has made."""

  def forward(
    params: Any, frozen: Any, batch: Batch, key: jax.Array
  ) -> list[jax.Array]:
    def loss(params):
      return batch_loss(lora.join(params, frozen), batch, key, config=config)

    _, backward, _ = jax.vjp(loss, params, has_aux=True)
    return jax.tree.leaves(backward)

  trained, frozen = parameters.parameter_shapes(config), None
  if config.scans_layers():
    trained = stacking.stack_layers(trained, stacking.stack_shapes)
  if config.lora_rank:
    trained, frozen = lora.split(trained)
    frozen = jax.eval_shape(functools.partial(lora.freeze, config), frozen)
  jaxpr = jax.make_jaxpr(forward)(
    trained,
    frozen,
    batch,
    jax.eval_shape(lambda: jax.random.key(0)),
  ).jaxpr
  given = set(jaxpr.invars)
  made: set[Any] = {
    variable
    for variable in jaxpr.outvars
    if isinstance(variable, jax.extend.core.Var) and variable not in given
  }
  return sum(each.aval.size * each.aval.dtype.itemsize for each in made)


def _working(
  config: T5Config,
  share: T5Config,
  part: Batch,
  *,
  zero: bool | str,
) -> int:
  rows, length = part["decoder_target_tokens"].shape
  output = 2 * 4 * losses.logits_at_once(rows, length, share.vocab_size)
  if zero is True:
    # The output layer, gathered.
    output += 4 * share.emb_dim * share.vocab_size
  if config.remat_policy == "none":
    return output
  one_layer = dataclasses.replace(
    share, num_encoder_layers=1, num_decoder_layers=1, remat_policy="none"
  )
  # Layers are computed again when the logits are gone.
  return max(output, _kept(one_layer, part))
