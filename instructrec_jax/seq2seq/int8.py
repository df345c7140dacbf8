"""Weights in int8, for inference: 16 weights of one output share a scale.

A tree of parameters has them in place of the float ones, under the same
names, with bfloat16 scales beside: `kernel_scale` [inputs / 16, outputs] beside
a `kernel`, `embedding_scale` [vocab, emb_dim / 16] beside the `embedding`. That
is 1.125 bytes a weight. Layers make floats of a matrix where they multiply with
it. Norms and T5's table of distances stay as they are: they are small.

With one scale for each output, a model that began as an SVD (`svd_start`) would
lose a third of its HR@1 on games_2018: one input of its output layer is a bias,
beside which the weights of all others are rounded to 0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int8

_INPUTS = {"kernel": 0, "embedding": 1}
"""The matrices that are in int8, and the axis along which scales change."""
_SUFFIX = "_scale"
_TOGETHER = 16
_LARGEST = 127


def from_floats(params: Any) -> Any:
  """Returns host parameters with matrices in int8: nearest, symmetric."""
  flat = {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    if path[-1] not in _INPUTS:
      flat[path] = leaf
      continue
    matrix, axis = np.asarray(leaf, np.float32), _INPUTS[path[-1]]
    together = math.gcd(matrix.shape[axis], _TOGETHER)
    shape = list(matrix.shape)
    shape[axis : axis + 1] = [shape[axis] // together, together]
    groups = matrix.reshape(shape)
    largest = np.abs(groups).max(axis + 1)
    scale = np.where(largest > 0, largest / _LARGEST, 1)
    scale = scale.astype(ml_dtypes.bfloat16)
    steps = groups / np.expand_dims(scale.astype(np.float32), axis + 1)
    # A scale that was rounded down leaves 128.
    integers = np.rint(steps).clip(-_LARGEST, _LARGEST).astype(np.int8)
    flat[path] = integers.reshape(matrix.shape)
    flat[_name_of_scale(path)] = scale
  return traverse_util.unflatten_dict(flat)


def is_int8(params: Any) -> bool:
  """Whether parameters, or shapes or leaves of some, are of `from_floats`."""
  flat = traverse_util.flatten_dict(params, sep="/")
  names = tuple(name + _SUFFIX for name in _INPUTS)
  return any(name.endswith(names) for name in flat)


def with_scales(tree: Any, scale_of: Callable[[Any, int], Any]) -> Any:
  """Returns a tree of one leaf a parameter, with leaves for the scales.

  Args:
    tree: such as shapes or shardings, of parameters that are floats.
    scale_of: from a matrix' leaf, and the axis of its inputs, to the leaf of
      the scales: `scale_shape` or `scale_sharding`.
  """
  flat = traverse_util.flatten_dict(tree)
  scales = {
    _name_of_scale(path): scale_of(leaf, _INPUTS[path[-1]])
    for path, leaf in flat.items()
    if path[-1] in _INPUTS
  }
  return traverse_util.unflatten_dict(flat | scales)


def scale_shape(matrix: Any, axis: int) -> jax.ShapeDtypeStruct:
  """Returns the shape of a matrix' scales, for `with_scales`."""
  shape = list(matrix.shape)
  shape[axis] //= math.gcd(shape[axis], _TOGETHER)
  return jax.ShapeDtypeStruct(tuple(shape), jnp.bfloat16)


def scale_sharding(matrix: NamedSharding, axis: int) -> NamedSharding:
  """Returns how a matrix' scales are split, for `with_scales`: by output."""
  spec = [None if place == axis else of for place, of in enumerate(matrix.spec)]
  return NamedSharding(matrix.mesh, PartitionSpec(*spec))


def to_floats(
  integers: Int8[Array, "*rows columns"],
  scale: Float[Array, "*groups columns"],
  dtype: Any,
  *,
  axis: int,
) -> Float[Array, "*rows columns"]:
  """Returns weights of `from_floats` as floats, `axis` being their inputs'."""
  together = integers.shape[axis] // scale.shape[axis]
  repeated = jnp.repeat(scale.astype(jnp.float32), together, axis=axis)
  return (integers * repeated).astype(dtype)


def matrix(
  module: Mapping[str, Any], name: str, dtype: Any
) -> Float[Array, "rows columns"]:
  """Returns a matrix of a module's parameters, of either kind.

  Args:
    module: the parameters.
    name: "kernel" or "embedding".
    dtype: of the result where it is in int8; floats are left as they are.
  """
  scale = module.get(name + _SUFFIX)
  if scale is None:
    return module[name]
  return to_floats(module[name], scale, dtype, axis=_INPUTS[name])


def _name_of_scale(path: tuple[str, ...]) -> tuple[str, ...]:
  return (*path[:-1], path[-1] + _SUFFIX)
