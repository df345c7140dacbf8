"""Trees of zarr arrays: orbax checkpoints (read) and T5X's legacy ones.

Accessed through tensorstore, one array at a time; orbax itself restores a whole
tree into memory.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorstore

from instructrec_jax import storage
from instructrec_jax.checkpoints.weights import Leaf, Shape
from instructrec_jax.errors import InputError

METADATA_FILE = "_METADATA"

# Larger arrays are chunked, so that each device can read its own part.
_CHUNK_BYTES = 64 << 20


def open_orbax(folder: pathlib.Path, *, under: str = "") -> dict[str, Leaf]:
  """Returns the arrays of a tree that orbax saved, by name.

  Args:
    folder: of one tree: it holds `_METADATA`.
    under: the top-level key of the branch to open, left out of the names.

  Raises:
    InputError: the tree is not orbax's, or an array of it is missing.
  """
  metadata = storage.read_json(folder / METADATA_FILE, dict)
  try:
    paths = [
      [str(key["key"]) for key in entry["key_metadata"]]
      for entry in metadata["tree_metadata"].values()
    ]
    if any(not all(path) for path in paths):
      raise KeyError
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    store = _in_ocdbt if metadata.get("use_ocdbt", True) else _in_folder
  except (AttributeError, KeyError, TypeError):
    raise InputError(
      f"{folder / METADATA_FILE}: not what orbax writes there."
    ) from None
  depth = 1 if under else 0
  return {
    "/".join(path[depth:]): _open(store(folder, ".".join(path)), folder, driver)
    for path in paths
    if not under or path[0] == under
  }


def open_zarr(folder: pathlib.Path, name: str) -> Leaf:
  """Returns an array that is stored in a subfolder of its own.

  Raises:
    InputError: it is missing or damaged.
  """
  return _open(_in_folder(folder, name), folder, "zarr")


def write_zarr(
  folder: pathlib.Path, name: str, leaf: Leaf, *, dtype: str
) -> dict[str, Any]:
  """Writes an array into a subfolder of its own.

  Returns:
    The tensorstore spec that opens it, its path relative to `folder`.
  """
  # Read first: an unreadable array leaves nothing behind.
  array = leaf.read()
  spec = {
    "driver": "zarr",
    "dtype": dtype,
    "kvstore": _in_folder(folder, name),
    "metadata": {
      "shape": list(leaf.shape),
      "chunks": _chunks(leaf.shape, tensorstore.dtype(dtype).numpy_dtype),
      "compressor": {"id": "zstd", "level": 1},
    },
    # Otherwise a chunk of zeros would look like a missing one.
    "store_data_equal_to_fill_value": True,
  }
  opened = tensorstore.open(spec, create=True).result()
  opened.write(array.astype(opened.dtype.numpy_dtype, copy=False)).result()
  return {**spec, "kvstore": {"driver": "file", "path": f"{name}/"}}


def _in_folder(folder: pathlib.Path, name: str) -> dict[str, Any]:
  return {"driver": "file", "path": f"{folder.absolute() / name}/"}


def _in_ocdbt(folder: pathlib.Path, name: str) -> dict[str, Any]:
  base = {"driver": "file", "path": f"{folder.absolute()}/"}
  return {"driver": "ocdbt", "base": base, "path": f"{name}/"}


def _open(store: dict[str, Any], folder: pathlib.Path, driver: str) -> Leaf:
  name = pathlib.Path(store["path"]).name
  spec: dict[str, Any] = {"driver": driver, "kvstore": store}
  if driver == "zarr":
    # A chunk whose file is missing would be read as zeros.
    spec["fill_missing_data_reads"] = False
  array = _result(tensorstore.open, spec, open=True, where=(folder, name))
  if array.dtype.name not in ("bfloat16", "float16", "float32", "float64"):
    raise InputError(
      f"{folder}: {name} is stored as {array.dtype.name}, where a weight is of "
      "a float type."
    )
  read = functools.partial(_result, array.read, where=(folder, name))
  return Leaf(tuple(array.shape), read)


def _result(
  call: Any, *args: Any, where: tuple[pathlib.Path, str], **kwargs: Any
) -> Any:
  """Calls tensorstore and waits; its errors become `InputError`s."""
  try:
    return call(*args, **kwargs).result()
  except (ValueError, OSError) as error:
    folder, name = where
    raise InputError(
      f"{folder}: {name} is missing or damaged, fetch the checkpoint again "
      f"({str(error).splitlines()[0]:.160})."
    ) from error


def _chunks(shape: Shape, dtype: np.dtype) -> list[int]:
  """Halves the first axis until a chunk is small enough."""
  chunk = list(shape)
  while np.prod(chunk) * dtype.itemsize > _CHUNK_BYTES and chunk[0] % 2 == 0:
    chunk[0] //= 2
  return chunk
