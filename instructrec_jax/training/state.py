"""What training carries from step to step."""

from typing import Any

import jax
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import lora, parameters
from instructrec_jax.seq2seq.config import T5Config


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
    axes, mesh, shapes=lora.join(state.params, state.frozen), zero=zero
  )
  of_frozen = None
  if state.frozen is not None:
    of_params, of_frozen = lora.split(of_params)
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
  return TrainState(
    step=whole,
    params=of_params,
    optimizer_state=of_optimizer,
    frozen=of_frozen,
  )
