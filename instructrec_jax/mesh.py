"""Where arrays live: a (data, model) mesh of devices, and T5X's axis names.

Parameters name their axes logically (`params_axes`); this table alone says
which of them are split. Batches are split over `data`; heads, feed-forward
width and vocabulary over `model`.
"""

from typing import Any

import jax
from flax.core import unfreeze
from flax.linen import partitioning, spmd
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from instructrec_jax.errors import InputError

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
  ("layers", None),
  ("stack", None),
)


def make_mesh(
  *, data: int = -1, model: int = 1, devices: list[Any] | None = None
) -> Mesh:
  """Returns a mesh with axes "data" and "model".

  Args:
    data: devices along the data axis; -1 takes all that are left.
    model: devices along the model axis.
    devices: the devices to use; all of them by default.

  Raises:
    InputError: the product is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  if data == -1 and model > 0:
    data = len(devices) // model
  if data < 1 or model < 1 or data * model != len(devices):
    raise InputError(
      f"a mesh of data {data} x model {model} does not fit the "
      f"{len(devices)} devices here: their product must be the number of "
      "devices."
    )
  # Auto: the compiler splits activations after the parameters and the batch.
  return jax.make_mesh(
    (data, model),
    ("data", "model"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def parameter_shardings(
  params_axes: Any, mesh: Mesh, *, shapes: Any = None
) -> Any:
  """Returns a NamedSharding for every parameter.

  Args:
    params_axes: the collection that `Transformer.init` gives beside `params`.
    mesh: of `make_mesh`.
    shapes: the parameters or their shapes; given, divisibility is checked.

  Raises:
    InputError: a split dimension is not a multiple of the mesh axis.
  """
  axes = unfreeze(partitioning.get_axis_names(params_axes))
  shardings = spmd.logical_to_mesh_sharding(axes, mesh, LOGICAL_AXIS_RULES)
  if shapes is not None:
    jax.tree_util.tree_map_with_path(_check_divisible, shardings, shapes)
  return shardings


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def _check_divisible(path: Any, sharding: NamedSharding, array: Any) -> None:
  for size, axis in zip(array.shape, sharding.spec, strict=False):
    if axis is not None and size % sharding.mesh.shape[axis]:
      name = "/".join(key.key for key in path)
      raise InputError(
        f"{name} has a dimension of {size}, which the {axis} axis of "
        f"{sharding.mesh.shape[axis]} devices does not divide: choose "
        "another mesh."
      )
