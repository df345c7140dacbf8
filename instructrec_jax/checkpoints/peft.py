"""Adapters as Hugging Face's PEFT stores them.

A folder is adapter_config.json and adapter_model.safetensors; `PeftModel` of
the package peft loads what is written, on the model that `convert --to hf`
writes. Torch stores matrices as [outputs, inputs]: our lora_a [inputs, rank] is
lora_A [rank, inputs], our lora_b [rank, outputs] is lora_B [outputs, rank].
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from flax import traverse_util

from instructrec_jax import storage
from instructrec_jax.checkpoints import safetensors_file
from instructrec_jax.checkpoints.hugging_face import hugging_face_name
from instructrec_jax.checkpoints.weights import (
  Leaf,
  check_shapes,
  flatten,
  leaves_of,
)
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TARGETS = ("k", "o", "q", "v", "wi_0", "wi_1", "wo")
# What changes the arithmetic, with the only value that our layers have.
_CONSTANTS: dict[str, Any] = {
  "peft_type": "LORA",
  "bias": "none",
  "use_dora": False,
  "use_rslora": False,
  "fan_in_fan_out": False,
  "modules_to_save": None,
  "rank_pattern": {},
  "alpha_pattern": {},
}


def is_peft(folder: pathlib.Path) -> bool:
  """Whether a folder has adapters of PEFT."""
  return (pathlib.Path(folder) / CONFIG_FILE).is_file()


def write_peft(
  folder: pathlib.Path, adapters: Any, *, rank: int, alpha: float, base: str
) -> None:
  """Writes adapters in float32.

  Args:
    folder: exists.
    adapters: of `lora.split`.
    rank: of the adapters.
    alpha: they are scaled by alpha / rank.
    base: name or folder of the model that they adapt.
  """
  leaves = {
    _peft_name(name): Leaf(leaf.shape[::-1], lambda leaf=leaf: leaf.read().T)
    for name, leaf in leaves_of(adapters).items()
  }
  safetensors_file.write_file(
    folder / WEIGHTS_FILE,
    {name: leaf.shape for name, leaf in sorted(leaves.items())},
    "float32",
    lambda name: leaves[name].read(),
  )
  storage.write_json(
    folder / CONFIG_FILE,
    {
      **_CONSTANTS,
      "base_model_name_or_path": base,
      "inference_mode": True,
      "init_lora_weights": True,
      "lora_alpha": alpha,
      "lora_dropout": 0.0,
      "r": rank,
      "target_modules": list(_TARGETS),
      "task_type": "SEQ_2_SEQ_LM",
    },
  )


def read_peft(folder: pathlib.Path, config: T5Config) -> tuple[Any, float]:
  """Reads adapters.

  Args:
    folder: of PEFT.
    config: of the model that they adapt.

  Returns:
    The adapters, float32 numpy arrays in a tree as `lora.split` gives it, and
    the scale of lora_a @ lora_b. Matrices that PEFT did not adapt are left out.

  Raises:
    InputError: it is of another kind or size, or damaged.
  """
  path = pathlib.Path(folder) / CONFIG_FILE
  fields = storage.read_json(path, {"r": int, "lora_alpha": float})
  for name, value in _CONSTANTS.items():
    found = fields.get(name, value)
    if found != value and (found or value):
      raise InputError(
        f'{path}: "{name}" is {found!r}: only plain LoRA is read, with '
        f"{value!r}."
      )
  rank, alpha = fields["r"], fields["lora_alpha"]
  if rank < 1:
    raise InputError(f'{path}: "r" is {rank}: a rank is positive.')
  shapes = flatten(
    lora.split(
      parameter_shapes(dataclasses.replace(config, lora_rank=rank).validate())
    )[0]
  )
  weights = pathlib.Path(folder) / WEIGHTS_FILE
  tensors = safetensors_file.open_file(weights)
  expected = {_peft_name(name): name for name in shapes}
  found = {name for name in expected if name in tensors}
  # Both of a pair, or none.
  halves = {name.replace("lora_A", "lora_B") for name in found}
  halves |= {name.replace("lora_B", "lora_A") for name in found}
  check_shapes(
    weights,
    tensors,
    {
      name: Leaf(shapes[expected[name]].shape[::-1], lambda: np.empty(0))
      for name in halves
    },
  )
  if not halves:
    raise InputError(f"{weights}: it has no adapters of a T5.")
  flat = {
    expected[name]: tensors[name].read().T.astype(np.float32) for name in halves
  }
  return traverse_util.unflatten_dict(flat, sep="/"), alpha / rank


def _peft_name(name: str) -> str:
  path, adapter = name.rsplit("/", 1)
  theirs = hugging_face_name(f"{path}/kernel").removesuffix(".weight")
  which = {"lora_a": "lora_A", "lora_b": "lora_B"}[adapter]
  return f"{_PREFIX}{theirs}.{which}.weight"
