"""The model of an export folder: safetensors, and a manifest of all files.

export.json        its name and training step, and every file's SHA-256
model.safetensors  the parameters
checksums.txt      see `checksums`; what a load verifies, since it is faster

`instructrec convert --to ours` writes one with model.json and the vocabulary;
`instructrec export` adds a catalogue and templates (`serving.model_export`),
or has the weights in int8 (`seq2seq.int8`).
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
  flatten,
  leaves_of,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes

MANIFEST_FILE = "export.json"
WEIGHTS_FILE = "model.safetensors"
_REMEDY = "copy the export again"
# Of the folder's layout, and of one whose weights are in int8, which earlier
# readers do not know; a reader refuses any other.
_VERSION, _INT8_VERSION = 1, 2


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
  if manifest.get("version") not in (_VERSION, _INT8_VERSION):
    raise InputError(
      f"{path}: not an export of version {_VERSION} or {_INT8_VERSION}: export "
      "the model again."
    )
  return manifest


def write_manifest(
  folder: pathlib.Path,
  *,
  name: str,
  step: int,
  items: int = 0,
  int8: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes and returns export.json, with the hashes of all other files.

  The folder is complete then, but for checksums.txt, which is written too.
  `int8` is what weights in int8 were measured to change.
  """
  manifest = {
    "version": _INT8_VERSION if int8 else _VERSION,
    "name": name,
    "step": step,
    "items": items,
    **({"int8": dict(int8)} if int8 else {}),
    "files": {
      path.name: storage.sha256_of(path)
      for path in sorted(folder.iterdir())
      if path.name != checksums.RECORD
    },
  }
  storage.write_json(folder / MANIFEST_FILE, manifest)
  checksums.write(folder)
  return manifest


def refuse_int8(folder: pathlib.Path) -> None:
  """Raises InputError if weights are in int8, for what needs all their bits."""
  if "int8" in read_manifest(folder):
    raise InputError(
      f"{folder}: its weights are in int8, which is for inference alone: take "
      "the model that it was exported from."
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
  folder = pathlib.Path(folder)
  params = {}
  with _verified(folder):
    leaves = safetensors_file.open_file(folder / WEIGHTS_FILE, may_be_int8=True)
    expected: Any = parameter_shapes(config)
    if int8.is_int8(leaves):
      expected = int8.with_scales(expected, int8.scale_shape)
      shardings = shardings and int8.with_scales(shardings, int8.scale_sharding)
      dtype = None
    check_shapes(folder, leaves, flatten(expected))
    by_name: Any = shardings and flatten(shardings)
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
    InputError: a file of the folder is missing or has changed, or the weights
      are in int8.
  """
  folder = pathlib.Path(folder)
  refuse_int8(folder)
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
  """Writes weights in memory as they are: int8, all bfloat16, or float32."""
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
  dtype: Any = "bfloat16" if dtypes == {"bfloat16"} else "float32"
  if int8.is_int8(params):
    dtype = {name: leaf.dtype.name for name, leaf in flatten(params).items()}
  write_weights(folder, leaves_of(params), dtype=dtype)


def write_weights(
  folder: pathlib.Path,
  leaves: Mapping[str, Leaf],
  *,
  dtype: str | Mapping[str, str],
) -> None:
  """Writes model.safetensors, an array at a time.

  Args:
    folder: exists.
    leaves: by parameter name.
    dtype: "float32" or "bfloat16", to which they are cast, or one by name.
  """
  safetensors_file.write_file(
    folder / WEIGHTS_FILE,
    {name: leaf.shape for name, leaf in sorted(leaves.items())},
    dtype,
    lambda name: leaves[name].read(),
  )
