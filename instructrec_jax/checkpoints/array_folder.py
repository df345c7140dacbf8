"""Trees of zarr arrays: what orbax and T5X's legacy checkpoints are made of.

Read and written with tensorstore, one array at a time: orbax itself wants the
whole tree in memory.
"""

import functools
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore

from instructrec_jax import storage
from instructrec_jax.checkpoints.lazy_weights import Leaf, Path, Shape
from instructrec_jax.errors import InputError

METADATA_FILE = "_METADATA"

# Larger arrays are stored in pieces, so that each device may read its own.
_CHUNK_BYTES = 64 << 20
_HANDLER = (
  "orbax.checkpoint._src.handlers.pytree_checkpoint_handler."
  "PyTreeCheckpointHandler"
)


def open_orbax(folder: pathlib.Path, *, under: Path = ()) -> dict[Path, Leaf]:
  """Returns the arrays of a tree that orbax saved, by path.

  Args:
    folder: of one tree: it holds `_METADATA`.
    under: opens only this branch, and leaves it out of the paths.

  Raises:
    InputError: the tree is not orbax's, or an array of it is missing.
  """
  metadata = storage.read_json(folder / METADATA_FILE)
  try:
    paths = [
      tuple(str(key["key"]) for key in entry["key_metadata"])
      for entry in metadata["tree_metadata"].values()
    ]
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    store = _in_database if metadata.get("use_ocdbt", True) else _in_folder
  except (AttributeError, KeyError, TypeError):
    raise InputError(
      f"{folder / METADATA_FILE}: not what orbax writes there."
    ) from None
  return {
    path[len(under) :]: _open(store(folder, ".".join(path)), folder, driver)
    for path in paths
    if path[: len(under)] == under
  }


def open_zarr(folder: pathlib.Path, name: str) -> Leaf:
  """Returns an array that lies in a folder of its own.

  Raises:
    InputError: it is missing or damaged.
  """
  return _open(_in_folder(folder, name), folder, "zarr")


def write_orbax(
  folder: pathlib.Path, leaves: Mapping[Path, Leaf], *, dtype: str
) -> None:
  """Writes a tree as orbax does, for `PyTreeRestore`.

  Args:
    folder: of the tree; made here.
    leaves: by path.
    dtype: that they are cast to.
  """
  folder.mkdir(parents=True)
  entries = {}
  for path, leaf in leaves.items():
    _write(_in_database(folder, ".".join(path)), leaf, dtype)
    entries[str(path)] = {
      # 2: a key of a dict.
      "key_metadata": [{"key": key, "key_type": 2} for key in path],
      "value_metadata": {
        "value_type": "jax.Array",
        "skip_deserialize": False,
        "write_shape": list(leaf.shape),
      },
    }
  metadata = {
    "tree_metadata": entries,
    "use_ocdbt": True,
    "use_zarr3": False,
    "store_array_data_equal_to_fill_value": True,
    "custom_metadata": None,
  }
  (folder / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")


def write_checkpoint_metadata(
  folder: pathlib.Path, *, items: list[str]
) -> None:
  """Writes what orbax says of a step: its trees, and when it was saved."""
  now = time.time_ns()
  storage.write_json(
    folder / "_CHECKPOINT_METADATA",
    {
      "item_handlers": dict.fromkeys(items, _HANDLER),
      "metrics": {},
      "performance_metrics": {},
      "init_timestamp_nsecs": now,
      "commit_timestamp_nsecs": now,
      "custom_metadata": {},
    },
  )


def write_zarr(
  folder: pathlib.Path, name: str, leaf: Leaf, *, dtype: str
) -> dict[str, Any]:
  """Writes an array into a folder of its own.

  Returns:
    The tensorstore spec that opens it, its path relative to `folder`.
  """
  spec = _write(_in_folder(folder, name), leaf, dtype)
  return {**spec, "kvstore": {"driver": "file", "path": f"{name}/"}}


def _in_folder(folder: pathlib.Path, name: str) -> dict[str, Any]:
  return {"driver": "file", "path": f"{folder.absolute() / name}/"}


def _in_database(folder: pathlib.Path, name: str) -> dict[str, Any]:
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
  """Calls tensorstore and waits; its errors become the user's."""
  try:
    return call(*args, **kwargs).result()
  except (ValueError, OSError) as error:
    folder, name = where
    raise InputError(
      f"{folder}: {name} is missing or damaged, fetch the checkpoint again "
      f"({str(error).splitlines()[0]:.160})."
    ) from error


def _write(store: dict[str, Any], leaf: Leaf, dtype: str) -> dict[str, Any]:
  # Read first: what cannot be read leaves nothing behind.
  array = leaf.read()
  spec = {
    "driver": "zarr",
    "dtype": dtype,
    "kvstore": store,
    "metadata": {
      "shape": list(leaf.shape),
      "chunks": _chunks(leaf.shape, tensorstore.dtype(dtype).numpy_dtype),
      "compressor": {"id": "zstd", "level": 1},
    },
    # Or a chunk of zeros would look like one that is missing.
    "store_data_equal_to_fill_value": True,
  }
  opened = tensorstore.open(spec, create=True).result()
  opened.write(array.astype(opened.dtype.numpy_dtype, copy=False)).result()
  return spec


def _chunks(shape: Shape, dtype: np.dtype) -> list[int]:
  """Halves the first axis until a chunk is small enough."""
  chunk = list(shape)
  while np.prod(chunk) * dtype.itemsize > _CHUNK_BYTES and chunk[0] % 2 == 0:
    chunk[0] //= 2
  return chunk
