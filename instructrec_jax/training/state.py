"""What training carries from step to step."""

from typing import Any

import jax
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config


@struct.dataclass
class TrainState:
  """Parameters and the optimizer's memory, after `step` steps."""

  step: jax.Array
  # A tree of float32 arrays with T5X's names.
  params: Any
  optimizer_state: Any


def initial_state(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  params: Any = None,
) -> TrainState:
  """Returns the state before the first step, of random weights if not given."""
  if params is None:
    params = parameters.initial_variables(config, seed=seed)["params"]
  return TrainState(
    step=jax.numpy.int32(0),
    params=params,
    optimizer_state=optimizer.init(params),
  )


def state_shardings(
  config: T5Config,
  optimizer: optax.GradientTransformation,
  *,
  state: TrainState,
  mesh: Mesh | AbstractMesh,
  zero: bool = False,
) -> Any:
  """Returns a tree like `state`, of NamedShardings.

  An optimizer's array that has a parameter's shape lies as the parameter
  does; Adafactor's factors are vectors, and are held whole. `state` has arrays
  or shapes; `zero` splits it over the data axis too.

  Raises:
    InputError: a split dimension is not a multiple of the mesh axis.
  """
  axes = jax.eval_shape(lambda: parameters.initial_variables(config))[
    "params_axes"
  ]
  of_params = mesh_lib.parameter_shardings(
    axes, mesh, shapes=state.params, zero=zero
  )
  whole: Any = mesh_lib.replicated(mesh)
  of_optimizer = optax.tree_map_params(
    optimizer,
    lambda leaf, parameter, sharding: (
      sharding if leaf.shape == parameter.shape else whole
    ),
    state.optimizer_state,
    state.params,
    of_params,
    transform_non_params=lambda _: whole,
  )
  return TrainState(step=whole, params=of_params, optimizer_state=of_optimizer)
