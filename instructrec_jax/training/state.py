"""What training carries from step to step."""

import functools
from typing import Any

import jax
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import lora, parameters, stacking
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.training.optimizer import takes_stacked_layers


@struct.dataclass
class TrainState:
  """Parameters and the optimizer's memory, after `step` steps.

  Attributes:
    step: steps taken.
    params: what is trained: a tree of float32 arrays with T5X's names.
    optimizer_state: of `params` alone.
    frozen: where `params` are LoRA's adapters, the model that they adapt.
  """

  step: jax.Array
  params: Any
  optimizer_state: Any
  frozen: Any = None


def initial_state(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  params: Any = None,
) -> TrainState:
  """Returns the state before the first step, of random weights if not given.

  With LoRA, the weights given are frozen.
  """
  frozen = None
  if params is None or config.lora_rank:
    random = parameters.initial_variables(config, seed=seed)["params"]
    if config.lora_rank:
      adapters, base = lora.split(random)
      params, frozen = adapters, lora.freeze(config, params or base)
    else:
      params = random
  return TrainState(
    step=jax.numpy.int32(0),
    params=params,
    optimizer_state=optimizer.init(params),
    frozen=frozen,
  )


def state_shardings(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  state: TrainState,
  mesh: Mesh | AbstractMesh,
  zero: bool | str = False,
) -> Any:
  """Returns a tree like `state`, of NamedShardings.

  An optimizer's array that has a parameter's shape lies as the parameter
  does while it is updated; Adafactor's factors are vectors, and are held whole.

  Args:
    config: the model's sizes.
    optimizer: whose state is in `state`.
    state: arrays or shapes.
    mesh: what it is laid out on.
    zero: "optimizer" splits the optimizer's state over the data axis too, True
      the parameters as well.

  Raises:
    InputError: a split dimension is not a multiple of the mesh axis.
  """
  mesh_lib.check_zero(zero)

  def of_parameters(zero):
    return mesh_lib.parameter_shardings(
      parameters.variable_shapes(config)["params_axes"],
      mesh,
      shapes=lora.join(state.params, state.frozen),
      zero=zero,
    )

  of_params, of_updated = of_parameters(zero is True), of_parameters(bool(zero))
  of_frozen = None
  if state.frozen is not None:
    of_params, of_frozen = lora.split(of_params)
    of_updated, _ = lora.split(of_updated)
  whole: Any = mesh_lib.replicated(mesh)
  of_optimizer = optax.tree_map_params(
    optimizer,
    lambda leaf, parameter, sharding: (
      sharding if leaf.shape == parameter.shape else whole
    ),
    state.optimizer_state,
    state.params,
    of_updated,
    transform_non_params=lambda _: whole,
  )
  return TrainState(
    step=whole,
    params=of_params,
    optimizer_state=of_optimizer,
    frozen=of_frozen,
  )


def update_shardings(
  config: T5Config, mesh: Mesh | AbstractMesh, *, like: TrainState
) -> Any:
  """Returns shardings of trained parameters, split over the data axis too.

  So they lie while they are updated, with `zero`; `like` is of
  `state_shardings`.
  """
  shardings = mesh_lib.parameter_shardings(
    parameters.variable_shapes(config)["params_axes"], mesh, zero=True
  )
  if like.frozen is not None:
    shardings, _ = lora.split(shardings)
  if stacking.is_stacked(like.params):
    shardings = stacking.stack_layers(shardings, stacking.stack_shardings)
  return shardings


def state_shapes(
  config: T5Config, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the shapes of `initial_state`; computes nothing."""
  make = functools.partial(initial_state, config, optimizer, seed=0)
  if config.lora_rank:
    return jax.eval_shape(make)
  # Drawing weights would be traced for a while.
  return jax.eval_shape(
    lambda params: make(params=params), parameters.parameter_shapes(config)
  )


def is_stacked(
  config: T5Config, optimizer: optax.GradientTransformation
) -> bool:
  """Whether a run holds its state with the layers stacked.

  A program that goes through them in a loop has to copy them otherwise.
  """
  return config.scans_layers() and takes_stacked_layers(optimizer)
