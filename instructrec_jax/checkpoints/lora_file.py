"""lora.json: which model the adapters of a MODEL_DIR adapt, and how.

A run of LoRA keeps adapters alone, in its checkpoints; the model that they
adapt stays where it is, as with Hugging Face's PEFT.
"""

import dataclasses
import pathlib
from typing import Any

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

FILE = "lora.json"


@dataclasses.dataclass(frozen=True)
class LoraSettings:
  """What lora.json says.

  Attributes:
    rank: of the adapters.
    alpha: they are scaled by alpha / rank.
    base: the folder of the adapted model.
    base_step: its step.
    base_sha256: of `model_folder.identity_file`, which tells another model of
      that name.
  """

  rank: int
  alpha: float
  base: str
  base_step: int
  base_sha256: str

  @property
  def scale(self) -> float:
    """What lora_a @ lora_b is multiplied by."""
    return self.alpha / self.rank

  def to_config(self, config: T5Config) -> T5Config:
    """Returns the config of the network with adapters."""
    return dataclasses.replace(
      config, lora_rank=self.rank, lora_alpha=self.alpha
    ).validate()


def is_lora(model_dir: pathlib.Path) -> bool:
  """Whether a folder of `train` holds adapters."""
  return (pathlib.Path(model_dir) / FILE).is_file()


def read(model_dir: pathlib.Path) -> LoraSettings:
  """Reads lora.json.

  Raises:
    InputError: it is missing or damaged.
  """
  path = pathlib.Path(model_dir) / FILE
  fields: dict[str, Any] = storage.read_json(
    path,
    {
      "rank": int,
      "alpha": float,
      "base": str,
      "base_step": int,
      "base_sha256": str,
    },
  )
  if not 0 < fields["rank"] <= 4096 or not 0 < fields["alpha"] < 1e9:
    raise InputError(
      f"{path}: a rank from 1 to 4096 and a positive alpha are needed: restore "
      "the file from a copy."
    )
  names = [field.name for field in dataclasses.fields(LoraSettings)]
  return LoraSettings(**{name: fields[name] for name in names})
