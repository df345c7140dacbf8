"""The model of an export folder: safetensors, and a manifest of all files.

export.json        its name and training step, and every file's SHA-256
model.safetensors  the parameters
checksums.txt      see `checksums`; what a load verifies, since it is faster

`instructrec convert --to ours` writes one with model.json and the vocabulary;
`instructrec export` adds a catalogue and templates (`serving.model_export`).
Unlike a training checkpoint it is read without orbax or tensorstore.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import traverse_util

from instructrec_jax import checksums, storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.checkpoints.weights import (
  Leaf,
  check_shapes,
  flat_shapes,
  leaves_of,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

MANIFEST_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
_REMEDY = "copy the export again"
# Of the folder's layout; a reader refuses any other.
_VERSION = 1


def is_export(folder: pathlib.Path) -> bool:
  """Whether a folder was written by `instructrec export` or `convert`."""
  return (pathlib.Path(folder) / MANIFEST_FILE).is_file()


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Reads export.json.

  Raises:
    InputError: it is broken or of another version.
  """
  path = pathlib.Path(folder) / MANIFEST_FILE
  manifest = storage.read_json(path, dict)
  if manifest.get("version") != _VERSION:
    raise InputError(
      f"{path}: not an export of version {_VERSION}: export the model again."
    )
  return manifest


def write_manifest(
  folder: pathlib.Path, *, name: str, step: int, items: int = 0
) -> dict[str, Any]:
  """Writes and returns export.json, with the hashes of all other files.

  The folder is complete then, but for checksums.txt, which is written too.
  """
  manifest = {
    "version": _VERSION,
    "name": name,
    "step": step,
    "items": items,
    "files": {
      path.name: storage.sha256_of(path) for path in sorted(folder.iterdir())
    },
  }
  storage.write_json(folder / MANIFEST_FILE, manifest)
  checksums.write(folder)
  return manifest


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
  folder = pathlib.Path(folder)
  by_name: Any = shardings and traverse_util.flatten_dict(shardings, sep="/")
  params = {}
  with _verified(folder):
    leaves = safetensors_file.open_file(folder / WEIGHTS_FILE)
    check_shapes(folder, leaves, flat_shapes(config))
    for name, leaf in leaves.items():
      array = leaf.read()
      array = array if dtype is None else array.astype(dtype, copy=False)
      if by_name:
        array = jax.make_array_from_callback(
          array.shape, by_name[name], array.__getitem__
        )
      params[name] = array
  return traverse_util.unflatten_dict(params, sep="/")


def open_leaves(folder: pathlib.Path) -> dict[str, Leaf]:
  """Returns the weights by parameter name, after verifying every file.

  Raises:
    InputError: a file of the folder is missing or has changed.
  """
  folder = pathlib.Path(folder)
  with _verified(folder):
    pass
  return safetensors_file.open_file(folder / WEIGHTS_FILE)


@contextlib.contextmanager
def _verified(folder: pathlib.Path) -> Iterator[None]:
  """Verifies all files, as `checksums.verified` does.

  Exports of before have no checksums.txt, but the slower SHA-256.
  """
  if (folder / checksums.FILE).exists():
    with checksums.verified(folder, remedy=_REMEDY):
      yield
    return
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
  yield


def write_params(folder: pathlib.Path, params: Any) -> None:
  """Writes the weights in memory as they are: all bfloat16, or float32."""
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
  dtype = "bfloat16" if dtypes == {"bfloat16"} else "float32"
  write_weights(folder, leaves_of(params), dtype=dtype)


def write_weights(
  folder: pathlib.Path, leaves: Mapping[str, Leaf], *, dtype: str
) -> None:
  """Writes model.safetensors, an array at a time.

  Args:
    folder: exists.
    leaves: by parameter name.
    dtype: "float32" or "bfloat16", to which they are cast.
  """
  safetensors_file.write_file(
    folder / WEIGHTS_FILE,
    {name: leaf.shape for name, leaf in sorted(leaves.items())},
    dtype,
    lambda name: leaves[name].read(),
  )
