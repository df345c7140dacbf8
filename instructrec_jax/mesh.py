"""Where arrays live: a (data, model) mesh of devices, and T5X's axis names.

Parameters and activations name their axes logically; the rules here alone say
which of them are split. Batches are split over `data`; heads, feed-forward
width and vocabulary over `model`. With `zero`, the optimizer is split over
`data` too, or parameters as well, gathered where a layer needs them (ZeRO).
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.core import unfreeze
from flax.linen import partitioning, spmd
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
  Sharding,
)

from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import variable_shapes

# T5X's standard rules for one-dimensional activation and parameter sharding.
LOGICAL_AXIS_RULES = (
  ("batch", "data"),
  ("vocab", "model"),
  ("mlp", "model"),
  ("heads", "model"),
  ("joined_kv", "model"),
  ("embed", None),
  ("kv", None),
  ("length", None),
  ("relpos_buckets", None),
  ("unmodeled", None),
  ("layers", None),
  ("stack", None),
)


def axis_rules(*, zero: bool = False) -> tuple[tuple[str, Any], ...]:
  """Returns T5X's rules, with one or two dimensions of parameter sharding."""
  # An activation's batch has taken `data` before its embed asks for it.
  return tuple(
    (name, "data" if zero and name == "embed" else axis)
    for name, axis in LOGICAL_AXIS_RULES
  )


def check_zero(zero: bool | str) -> None:
  """Raises InputError unless it is False, "optimizer" or True."""
  if not isinstance(zero, bool) and zero != "optimizer":
    raise InputError(
      f"zero is {zero!r:.60}: False, 'optimizer' or True is needed."
    )


def parse_shape(shape: str) -> tuple[int, int]:
  """Returns data and model of "4x2"; "-1x2" leaves the data axis open."""
  match = re.fullmatch(
    r"(-1|[1-9]\d{0,4})x([1-9]\d{0,4})", str(shape), re.ASCII
  )
  if not match:
    raise InputError(
      f"the mesh is {shape!r}: data x model devices are needed, such as '4x2', "
      "or '-1x2' for all devices in pairs."
    )
  return int(match[1]), int(match[2])


def make_mesh(
  shape: str | None = None,
  *,
  data: int = -1,
  model: int = 1,
  devices: list[Any] | None = None,
) -> Mesh:
  """Returns a mesh with axes "data" and "model" of all devices, or of some.

  Args:
    shape: both sizes, as "4x2", in place of the next two.
    data: devices along the data axis; -1 takes all that are left.
    model: devices along the model axis.
    devices: the devices to use; all of them by default.
  """
  if shape is not None:
    data, model = parse_shape(shape)
  devices = jax.devices() if devices is None else devices
  if data == -1 and model > 0:
    data = len(devices) // model
  if data < 1 or model < 1 or data * model != len(devices):
    raise InputError(
      f"a mesh of data {data} x model {model} does not fit the "
      f"{len(devices)} devices here: their product must be the number of "
      "devices."
    )
  # Auto: the compiler splits what no rule names.
  return jax.make_mesh(
    (data, model),
    ("data", "model"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def abstract_mesh(shape: str) -> AbstractMesh:
  """Returns a mesh of no devices, to compute with; see `make_mesh`."""
  sizes = parse_shape(shape)
  if -1 in sizes:
    raise InputError(f"the mesh is {shape!r}: both sizes are needed here.")
  return AbstractMesh(
    sizes, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto)
  )


def parameter_shardings(
  params_axes: Any,
  mesh: Mesh | AbstractMesh,
  *,
  shapes: Any = None,
  zero: bool = False,
) -> Any:
  """Returns a NamedSharding for every parameter.

  Args:
    params_axes: the collection that `Transformer.init` gives beside `params`.
    shapes: the parameters or their shapes; given, divisibility is checked.
    zero: split over the data axis too.

  Raises:
    InputError: a split dimension is not a multiple of the mesh axis.
  """
  axes = unfreeze(partitioning.get_axis_names(params_axes))
  specs = spmd.logical_to_mesh(axes, axis_rules(zero=zero))
  shardings = jax.tree.map(
    functools.partial(NamedSharding, mesh),
    specs,
    is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
  )
  if shapes is not None:
    jax.tree_util.tree_map_with_path(_check_divisible, shardings, shapes)
  return shardings


def model_shardings(
  config: T5Config, mesh: Mesh | AbstractMesh, params: Any = None
) -> Any:
  """Returns a NamedSharding for every parameter of a model for inference.

  Args:
    config: the model's sizes.
    mesh: what it is laid out on.
    params: those that are laid out, which may be in int8; floats if None.

  Raises:
    InputError: a split dimension is not a multiple of the mesh axis.
  """
  variables = variable_shapes(config)
  shardings = parameter_shardings(
    variables["params_axes"], mesh, shapes=variables["params"]
  )
  if params is not None and int8.is_int8(params):
    return int8.with_scales(shardings, int8.scale_sharding)
  return shardings


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def with_activation_axes(
  function: Callable[..., Any], mesh: Mesh, *, zero: bool = False
) -> Callable[..., Any]:
  """Returns a function to jit whose activations are split as the rules say.

  Without it `with_logical_constraint` constrains nothing, and the compiler
  guesses the layout of activations from that of parameters.
  """

  @functools.wraps(function)
  def traced(*args: Any, **kwargs: Any) -> Any:
    rules = nn.logical_axis_rules(axis_rules(zero=zero))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), rules:
      return function(*args, **kwargs)

  return traced


def to_devices(tree: Any, shardings: Any) -> Any:
  """Lays out host arrays, the same on all processes, or arrays on devices.

  `shardings` is one, or a tree like `tree`.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)
  if isinstance(shardings, Sharding):
    one = shardings
    shardings = jax.tree.map(lambda _: one, tree)
  return jax.tree.map(_put_on_all, tree, shardings)


def _put_on_all(array: Any, sharding: Sharding) -> jax.Array:
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return jax.jit(lambda x: x, out_shardings=sharding)(array)
  host = np.asarray(array)
  return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def _check_divisible(path: Any, sharding: NamedSharding, array: Any) -> None:
  for size, axis in zip(array.shape, sharding.spec, strict=False):
    if axis is not None and size % sharding.mesh.shape[axis]:
      name = "/".join(key.key for key in path)
      raise InputError(
        f"{name} has a dimension of {size}, which the {axis} axis of "
        f"{sharding.mesh.shape[axis]} devices does not divide: choose "
        "another mesh."
      )
