"""The part of an export folder that is the model.

`serving.model_export` writes the folder, and says what else is in it. Unlike
a MODEL_DIR's checkpoints, its weights need neither orbax nor tensorstore.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from instructrec_jax import storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.checkpoints.lazy_weights import (
  Leaf,
  Path,
  check_shapes,
  flat_shapes,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

MANIFEST_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
# Of the folder's layout; a reader refuses any other.
VERSION = 1


def is_export(folder: pathlib.Path) -> bool:
  """Whether a folder was written by `instructrec export`."""
  return (pathlib.Path(folder) / MANIFEST_FILE).is_file()


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Reads export.json.

  Raises:
    InputError: it is broken or of another version.
  """
  path = pathlib.Path(folder) / MANIFEST_FILE
  manifest = storage.read_json(path)
  if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
    raise InputError(
      f"{path}: not an export of version {VERSION}: export the model again."
    )
  return manifest


def check_files(folder: pathlib.Path) -> None:
  """Compares every file of an export with its hash.

  Raises:
    InputError: a file is missing or has changed.
  """
  folder = pathlib.Path(folder)
  files = read_manifest(folder).get("files")
  if not isinstance(files, dict) or WEIGHTS_FILE not in files:
    raise InputError(
      f"{folder / MANIFEST_FILE}: it names no files: export the model again."
    )
  for name, sha256 in files.items():
    path = folder / name
    if not path.is_file():
      raise InputError(f"{path}: the file is missing: copy the export again.")
    if storage.sha256_of(path) != sha256:
      raise InputError(
        f"{path}: the file is not what {MANIFEST_FILE} says, it is cut short "
        "or damaged: copy the export again."
      )


def find_step(folder: pathlib.Path, step: int | str | None) -> int:
  """Returns the training step of the only checkpoint that an export has.

  Raises:
    InputError: another one is asked for.
  """
  only = read_manifest(folder).get("step")
  if not isinstance(only, int):
    raise InputError(
      f"{pathlib.Path(folder) / MANIFEST_FILE}: it names no step: export the "
      "model again."
    )
  if step is not None and str(step) != str(only):
    raise InputError(
      f"{folder}: an export has one checkpoint, here of step {only}, not "
      f"{step}: leave the step out."
    )
  return only


def load_params(
  folder: pathlib.Path,
  config: T5Config,
  *,
  shardings: Any = None,
  dtype: Any = None,
) -> Any:
  """Loads the parameters; see `model_folder.load_params`.

  Raises:
    InputError: a file is damaged, or the weights are of another size.
  """
  leaves = open_leaves(folder)
  check_shapes(
    folder,
    {"/".join(path): leaf.shape for path, leaf in leaves.items()},
    {"/".join(path): shape for path, shape in flat_shapes(config).items()},
  )
  by_path: Any = shardings and traverse_util.flatten_dict(shardings)
  params = {}
  for path, leaf in leaves.items():
    array = leaf.read()
    array = array if dtype is None else array.astype(dtype, copy=False)
    if by_path:
      array = jax.make_array_from_callback(
        array.shape, by_path[path], array.__getitem__
      )
    params[path] = array
  return traverse_util.unflatten_dict(params)


def open_leaves(folder: pathlib.Path) -> dict[Path, Leaf]:
  """Returns the weights by their path in the tree of parameters.

  Raises:
    InputError: a file of the folder is damaged.
  """
  check_files(folder)
  leaves = safetensors_file.open_file(folder / WEIGHTS_FILE)
  return {tuple(name.split("/")): leaf for name, leaf in leaves.items()}


def write_params(folder: pathlib.Path, params: Any) -> None:
  """Writes the weights as they are: all of bfloat16, or else float32."""
  flat = {
    "/".join(path): np.asarray(leaf)
    for path, leaf in traverse_util.flatten_dict(params).items()
  }
  dtypes = {array.dtype.name for array in flat.values()}
  safetensors_file.write_file(
    folder / WEIGHTS_FILE,
    {name: array.shape for name, array in sorted(flat.items())},
    "bfloat16" if dtypes == {"bfloat16"} else "float32",
    flat.__getitem__,
  )
