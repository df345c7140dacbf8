"""Parameters of which each device of the data axis holds a part (ZeRO-3).

A layer's are gathered where it is computed, and its gradients scattered there.
All is for a shard of the data axis: inside of a `shard_map` over it.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

# How each parameter lies of which the devices of the data axis hold parts: set
# while a function of such parts is traced.
_parts: contextvars.ContextVar[Any] = contextvars.ContextVar(
  "parts", default=None
)
GATHERED = "gathered parameter"
"""What `gathered` calls its results, for policies of rematerialisation."""


@contextlib.contextmanager
def of_parts(shardings: Any) -> Iterator[None]:
  """Has `gathered` gather parameters, a tree like `shardings`, in the block."""
  token = _parts.set(shardings)
  try:
    yield
  finally:
    _parts.reset(token)


def are_parts() -> bool:
  """Whether parameters are parts, which `gathered` makes whole."""
  return _parts.get() is not None


def gathered(
  params: Any, *path: str, dtype: Any = None, stacked: bool = False
) -> Any:
  """Returns parameters whole, and in `dtype` if given.

  Their gradients are summed in float32, and scattered. To be called for a shard
  of the data axis, in `of_parts`; elsewhere parameters are returned as they
  are. The model axis splits what is returned as before.

  Args:
    params: a tree of parts.
    path: where it is in the tree of all.
    dtype: that the parameters are used in.
    stacked: whether it is an element of a tree of stacked ones.
  """
  shardings = _parts.get()
  if shardings is None:
    return params
  for name in path:
    shardings = shardings[name]

  def gather(part, sharding):
    axes = tuple(sharding.spec)[stacked:]
    if "data" not in axes:
      return part
    whole = _all_gather(part, axes, jnp.dtype(dtype or part.dtype))
    return checkpoint_name(whole, GATHERED)

  return jax.tree.map(gather, params, shardings)


def scatter_sum(array: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
  """Returns a device's part of the sum over the data axis, for a shard of it.

  `axes` are of the sum's PartitionSpec; "data" is one of them.
  """
  sum_up = functools.partial(
    jax.lax.psum_scatter,
    axis_name="data",
    scatter_dimension=axes.index("data"),
    tiled=True,
  )
  return _in_parts_of_model(sum_up, array, axes)


def _in_parts_of_model(
  exchange: Callable[[jax.Array], jax.Array],
  array: jax.Array,
  axes: tuple[Any, ...],
) -> jax.Array:
  """Exchanges what each model device has: XLA would make it whole before."""
  if jax.sharding.get_abstract_mesh().shape["model"] == 1:
    return exchange(array)
  spec = PartitionSpec(*(None if axis == "data" else axis for axis in axes))
  return jax.shard_map(
    exchange,
    in_specs=spec,
    out_specs=spec,
    axis_names={"model"},
    check_vma=False,
  )(array)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _all_gather(part: jax.Array, axes: tuple[Any, ...], dtype: Any):
  gather = functools.partial(
    jax.lax.all_gather, axis_name="data", axis=axes.index("data"), tiled=True
  )
  return _in_parts_of_model(gather, part.astype(dtype), axes)


_all_gather.defvjp(
  lambda part, axes, dtype: (_all_gather(part, axes, dtype), None),
  lambda axes, dtype, _, gradient: (
    scatter_sum(gradient.astype(jnp.float32), axes),
  ),
)
