"""T5X's checkpoints: the legacy format in and out, and the orbax one in.

Legacy, which is what is published: checkpoint_STEP/checkpoint, a msgpack tree
of tensorstore specs or of whole arrays, beside one zarr folder an array. Since
2024 T5X writes orbax: checkpoint_STEP/state/. Its parameter tree is ours.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from instructrec_jax import checksums
from instructrec_jax.checkpoints import zarr_tree
from instructrec_jax.checkpoints.weights import (
  Leaf,
  Weights,
  check_shapes,
  flat_shapes,
  merged,
  with_inferred_config,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora

_FILE = "checkpoint"
_STATE = "state"
_TARGET = "target"
# Of T5X's msgpack; readers refuse those before 2.
_VERSION = 3
# T5X writes how adapters are scaled into the run's config.gin alone.
_CONFIG = "config.gin"
# By hand, or else by the macro.
_ALPHAS = [
  re.compile(rf"^{name} = (\d+(?:\.\d*)?(?:e[+-]?\d+)?)$", re.MULTILINE)
  for name in (r"config\.T5Config\.lora_alpha", "LORA_ALPHA")
]
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def is_t5x(folder: pathlib.Path) -> bool:
  """Returns whether this is a checkpoint of T5X, or a folder of some."""
  return is_checkpoint(folder) or bool(_steps(folder))


def is_checkpoint(folder: pathlib.Path) -> bool:
  """Returns whether this is a checkpoint_STEP of T5X."""
  return _kind(folder) is not None


def open_t5x(folder: pathlib.Path, *, step: int | None = None) -> Weights:
  """Opens a checkpoint; reads no array, unless msgpack holds them.

  Args:
    folder: a checkpoint_STEP, or the MODEL_DIR above it; adapters are merged.
    step: which of MODEL_DIR's, the latest if None.

  Raises:
    InputError: there is none, it is damaged (which is seen in what `write_t5x`
      wrote, and else as far as T5X's format tells), or it is not of a T5 1.1.
  """
  if _kind(folder) is None:
    steps = _steps(folder)
    if step is not None and step not in steps:
      raise InputError(
        f"{folder}: no checkpoint of step {step}; there are "
        f"{', '.join(map(str, sorted(steps)))}."
      )
    folder = steps[max(steps) if step is None else step]
  elif step is not None:
    raise InputError(
      f"{folder} is one checkpoint: a step chooses among those of a MODEL_DIR."
    )
  # What T5X wrote has none.
  if (folder / checksums.FILE).exists():
    checksums.verify(folder, remedy="convert or copy it again")
  match = _STEP_FOLDER.fullmatch(folder.absolute().name)
  leaves = _leaves(folder)
  if not leaves:
    raise InputError(
      f"{folder}: T5X's parameters are under {_TARGET}, which is missing."
    )
  adapters = _adapters(leaves)
  weights = with_inferred_config(
    folder,
    {name: leaves[name] for name in leaves.keys() - adapters.keys()},
    step=int(match[1]) if match else 0,
  )
  return _merged(weights, adapters) if adapters else weights


def lora_of(folder: pathlib.Path) -> tuple[int, float | None]:
  """Returns rank and alpha of a checkpoint's adapters; (0, None) without any.

  Args:
    folder: a checkpoint_STEP.

  Returns:
    The second is None, too, where no config.gin of the run tells.

  Raises:
    InputError: it is damaged.
  """
  adapters = _adapters(_leaves(folder))
  if not adapters:
    return 0, None
  return _rank(folder, adapters), _alpha(folder)


def write_t5x(folder: pathlib.Path, weights: Weights, *, dtype: str) -> None:
  """Writes folder/checkpoint_STEP in the legacy format, parameters only.

  checksums.txt is ours: T5X lets it be, and `open_t5x` verifies it.

  T5X restores it for evaluation and inference as it is, and for training with
  a fresh optimizer: `docs/checkpoints.md` has the bindings.
  """
  folder = folder / f"checkpoint_{weights.step}"
  folder.mkdir(parents=True)
  specs = {
    name: zarr_tree.write_zarr(
      folder, f"{_TARGET}.{name.replace('/', '.')}", leaf, dtype=dtype
    )
    for name, leaf in weights.leaves.items()
  }
  tree = {
    "version": _VERSION,
    "optimizer": {
      _TARGET: traverse_util.unflatten_dict(specs, sep="/"),
      "state": {"step": np.int32(weights.step)},
    },
  }
  (folder / _FILE).write_bytes(serialization.msgpack_serialize(tree))
  checksums.write(folder)


def _merged(weights: Weights, adapters: Mapping[str, Leaf]) -> Weights:
  rank = _rank(weights.where, adapters)
  shapes = flat_shapes(dataclasses.replace(weights.config, lora_rank=rank))
  expected = {
    name: shapes[name] for name in shapes.keys() - weights.leaves.keys()
  }
  check_shapes(weights.where, adapters, expected)
  alpha = _alpha(weights.where)
  if alpha is None:
    raise InputError(
      f"{weights.where}: its adapters (LoRA) are scaled by LORA_ALPHA, which "
      f"no {_CONFIG} beside it says: copy that file from T5X's MODEL_DIR."
    )
  leaves = merged(weights.leaves, adapters, alpha / rank)
  return dataclasses.replace(weights, leaves=leaves)


def _adapters(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
  return {
    name: leaf
    for name, leaf in leaves.items()
    if name.rpartition("/")[2] in lora.NAMES
  }


def _rank(where: pathlib.Path, adapters: Mapping[str, Leaf]) -> int:
  name, leaf = min(adapters.items())
  if len(leaf.shape) != 2 or not all(leaf.shape):
    raise InputError(
      f"{where}: {name} has the shape {leaf.shape}: no adapter of LoRA."
    )
  return leaf.shape[1 if name.endswith(lora.NAMES[0]) else 0]


def _alpha(folder: pathlib.Path) -> float | None:
  path = folder.absolute().parent / _CONFIG
  if not path.is_file():
    return None
  text = path.read_text(encoding="utf-8", errors="replace")
  found = [match for each in _ALPHAS if (match := each.search(text))]
  return float(found[0][1]) if found else None


def _kind(folder: pathlib.Path) -> str | None:
  if (folder / _STATE / zarr_tree.METADATA_FILE).is_file():
    return "orbax"
  return "legacy" if (folder / _FILE).is_file() else None


def _steps(folder: pathlib.Path) -> dict[int, pathlib.Path]:
  return {
    int(match[1]): path
    for path in (folder.iterdir() if folder.is_dir() else ())
    if (match := _STEP_FOLDER.fullmatch(path.name)) and _kind(path)
  }


def _leaves(folder: pathlib.Path) -> dict[str, Leaf]:
  if _kind(folder) == "orbax":
    return zarr_tree.open_orbax(folder / _STATE, under=_TARGET)
  path = folder / _FILE
  try:
    tree: Any = serialization.msgpack_restore(path.read_bytes())
    # Flax's own checkpoints have neither a version nor an "optimizer" level.
    target = tree.get("optimizer", tree).get(_TARGET, {})
  except Exception as error:
    # msgpack and flax raise errors of many types on damaged bytes.
    raise InputError(
      f"{path}: not T5X's msgpack, or a file that is cut short: fetch it again."
    ) from error
  flat = traverse_util.flatten_dict(
    target, is_leaf=lambda _, value: _is_spec(value), sep="/"
  )
  return {name: _legacy_leaf(folder, name, leaf) for name, leaf in flat.items()}


def _is_spec(value: Any) -> bool:
  return isinstance(value, dict) and {"driver", "kvstore"} <= value.keys()


def _legacy_leaf(folder: pathlib.Path, name: str, leaf: Any) -> Leaf:
  if isinstance(leaf, np.ndarray):
    return Leaf(leaf.shape, lambda: leaf)
  if not _is_spec(leaf):
    raise InputError(
      f"{folder / _FILE}: {name} is neither an array nor a tensorstore spec."
    )
  # Only the last part of the path: the spec may name the bucket it was saved
  # to. Old tensorstores kept the path beside `kvstore`.
  store = leaf["kvstore"]
  path = isinstance(store, dict) and store.get("path") or leaf.get("path", "")
  if not isinstance(path, str) or not pathlib.PurePosixPath(path).name:
    raise InputError(f"{folder / _FILE}: {name} names no folder of its array.")
  return zarr_tree.open_zarr(folder, pathlib.PurePosixPath(path).name)
