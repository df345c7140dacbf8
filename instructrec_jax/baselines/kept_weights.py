"""A cache of fitted weights in the dataset folder.

baselines/NAME/weights.safetensors  the arrays
               config.json          options, what they were fitted to, versions
               checksums.txt        of both; damaged ones are fitted again

Of several processes the first fits and writes, and all read.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import traverse_util

from instructrec_jax import checksums, locks, processes, storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.data.folder import BASELINES, DatasetFolder
from instructrec_jax.errors import InputError

# Of the cache's format; entries of another version are fitted again.
_VERSION = 1
_CONFIG = {"report": dict}
# Between two checks whether the first process has written the weights.
_PAUSE_SECONDS = 0.5

Weights = dict[str, Any]


def load_or_fit(
  folder: DatasetFolder,
  name: str,
  *,
  options: dict[str, Any],
  fit: Callable[[], tuple[Weights, dict[str, Any]]],
) -> tuple[Weights, dict[str, Any]]:
  """Returns cached weights, or fits and caches them.

  Args:
    folder: the dataset, which also holds the cache.
    name: of the subfolder of `baselines/`.
    options: what else the weights depend on, of JSON's types.
    fit: returns weights, float32, and a report on the fit.

  Returns:
    The weights as NumPy arrays, and the report.
  """
  path = folder.path / BASELINES / name
  wanted = {
    "version": _VERSION,
    "options": json.loads(json.dumps(options)),
    "data_sha256": _data_hash(folder),
  }
  if processes.is_first():
    if not _is_cache_valid(path, wanted):
      # Another run may be fitting the same.
      with locks.writing(path.with_name(f"{name}.fit"), wait=True):
        if not _is_cache_valid(path, wanted):
          _fit(path, wanted, fit)
  else:
    # Not `processes.wait`: jax's barrier times out after half a minute.
    while not _is_cache_valid(path, wanted):
      time.sleep(_PAUSE_SECONDS)
  report = storage.read_json(path / "config.json", _CONFIG)["report"]
  return _read(path / "weights.safetensors"), report


def _is_cache_valid(path: pathlib.Path, wanted: dict[str, Any]) -> bool:
  """Whether undamaged weights of these options and data are cached."""
  try:
    checksums.verify(path, remedy="it is fitted again", is_told=False)
    config = storage.read_json(path / "config.json", _CONFIG)
    if any(config.get(key) != value for key, value in wanted.items()):
      return False
    _read(path / "weights.safetensors")
  except InputError:
    return False
  return True


def _fit(
  path: pathlib.Path,
  wanted: dict[str, Any],
  fit: Callable[[], tuple[Weights, dict[str, Any]]],
) -> None:
  with storage.staged_folder(path, force=True) as partial:
    weights, report = fit()
    arrays: dict[str, Any] = dict(traverse_util.flatten_dict(weights, sep="/"))
    safetensors_file.write_file(
      partial / "weights.safetensors",
      {key: array.shape for key, array in arrays.items()},
      "float32",
      lambda key: np.asarray(arrays[key]),
    )
    versions = {p: importlib.metadata.version(p) for p in ("jax", "flax")}
    storage.write_json(
      partial / "config.json",
      {**wanted, "report": report, "versions": versions},
    )
    checksums.write(partial)


def _read(path: pathlib.Path) -> Weights:
  leaves = safetensors_file.open_file(path)
  return traverse_util.unflatten_dict(
    {key: leaf.read() for key, leaf in leaves.items()}, sep="/"
  )


def _data_hash(folder: DatasetFolder) -> str:
  """Hashes what fitting reads: training items and validation targets."""
  sequences, splits = folder.sequences, folder.splits
  digest = hashlib.sha256(str(len(folder.items)).encode())
  for array in (
    sequences.offsets,
    splits.training_lengths,
    splits.validation.users,
    splits.validation.positions,
    sequences.items,
  ):
    digest.update(np.ascontiguousarray(array, np.int64).tobytes())
  return digest.hexdigest()
