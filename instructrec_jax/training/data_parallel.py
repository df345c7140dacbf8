"""Gradients of rows that are split over the data axis, summed once a step.

Each data device differentiates the loss of its own rows, through all slices of
the vocabulary's matrix and all microbatches, and only the total is exchanged:
by one all-reduce, or by one reduce-scatter where each device updates a part of
the parameters. The model axis stays with the compiler. Were the data axis left
to it too, it would sum inside of loops: the output layer's gradient in each
slice of the loss, and every gradient in each microbatch.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import random as jax_random
from jax.sharding import NamedSharding, PartitionSpec

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import lora, parts

AXIS = "data"

# From parameters, frozen ones, a batch and a key to gradients and loss sums.
Gradients = Callable[..., tuple[Any, Any]]


def is_split() -> bool:
  """Whether the mesh that is being traced for has several data devices."""
  return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1) > 1


@dataclasses.dataclass(frozen=True)
class Division:
  """What data devices have parts of: trees of shardings, None: of nothing.

  Attributes:
    updated: of the parameters while they are updated, and of the gradients.
    parts: of parameters and of frozen ones, where devices hold but parts.
  """

  updated: Any = None
  parts: tuple[Any, Any] | None = None


def over_data_axis(gradients_of: Gradients, division: Division) -> Gradients:
  """Returns the same function of a batch that is split over the data axis.

  To be traced for the mesh. Dropout is that of one device.

  Args:
    gradients_of: sums over rows; a device calls it for its own. It gathers
      parameters that devices hold parts of (`parts.gathered`), and so scatters
      their gradients.
    division: of the parameters.
  """

  def of_shard(params, frozen, batch, key_data):
    key = jax.random.wrap_key_data(key_data, impl=_OF_SHARD)
    # The batch's axis is not the compiler's to constrain here.
    rules = tuple(
      (name, None if axis == AXIS else axis)
      for name, axis in mesh_lib.axis_rules()
    )
    of_parts = contextlib.nullcontext()
    if division.parts is not None:
      of_parts = parts.of_parts(lora.join(*division.parts))
    with nn.logical_axis_rules(rules), of_parts:
      gradients, sums = gradients_of(params, frozen, batch, key)

    def reduce(gradient, sharding):
      if AXIS not in sharding.spec:
        return jax.lax.psum(gradient, AXIS)
      if division.parts is not None:
        return gradient
      return parts.scatter_sum(gradient, tuple(sharding.spec))

    if division.updated is None:
      gradients = jax.lax.psum(gradients, AXIS)
    else:
      gradients = jax.tree.map(reduce, gradients, division.updated)
    return gradients, jax.lax.psum(sums, AXIS)

  whole, of_params, of_frozen = (PartitionSpec(),) * 3
  if division.parts is not None:
    of_params, of_frozen = jax.tree.map(_on_data_axis, division.parts)
  of_gradients = jax.tree.map(_on_data_axis, division.updated) or whole

  def gradients(params, frozen, batch, key):
    return jax.shard_map(
      of_shard,
      in_specs=(of_params, of_frozen, PartitionSpec(AXIS), whole),
      out_specs=(of_gradients, whole),
      axis_names={AXIS},
      check_vma=False,
    )(params, frozen, batch, jax.random.key_data(key))

  return gradients


def _on_data_axis(sharding: NamedSharding) -> PartitionSpec:
  return PartitionSpec(
    *(axis if axis == AXIS else None for axis in sharding.spec)
  )


# Random bits of a device are those that one device would draw for its rows of
# an array whose first axis is the batch, so that dropout depends on no mesh.
# Bits of threefry are a function of the key and of an element's index.


def _bits_of_shard(key: jax.Array, bit_width: int, shape: Any) -> jax.Array:
  size = math.prod(shape)
  starts = np.arange(jax.lax.axis_size(AXIS), dtype=np.uint64) * size
  start_high, start_low = (
    jnp.asarray(part.astype(np.uint32))[jax.lax.axis_index(AXIS)]
    for part in (starts >> 32, starts & 0xFFFFFFFF)
  )
  low = jax.lax.iota(np.uint32, size) + start_low
  high = start_high + (low < start_low).astype(np.uint32)
  first, second = jax_random.threefry_2x32(
    key, jnp.concatenate([high, low])
  ).reshape(2, *shape)
  return (first ^ second).astype(f"uint{bit_width}")


def _threefry(key: jax.Array) -> jax.Array:
  return jax.random.wrap_key_data(key, impl="threefry2x32")


_OF_SHARD = jax_random.define_prng_impl(
  key_shape=(2,),
  seed=lambda seed: jax.random.key_data(
    jax.random.key(seed, impl="threefry2x32")
  ),
  split=lambda key, shape: jax.random.key_data(
    jax.random.split(_threefry(key), shape)
  ),
  random_bits=_bits_of_shard,
  fold_in=lambda key, data: jax.random.key_data(
    jax.random.fold_in(_threefry(key), data)
  ),
  name="threefry_of_shard",
  tag="fryshard",
)
