"""What gin/t5x binds: LoRA's optimizer, and checks that T5X does not make."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import optax

from instructrec_jax.checkpoints import t5x_checkpoint
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora


def of_adapters(
  transforms: Sequence[optax.GradientTransformation],
) -> optax.GradientTransformation:
  """Returns an optimizer of LoRA's adapters, which leaves the rest as it is.

  It keeps a state of the adapters alone, in forms that T5X can lay out over
  devices.

  Args:
    transforms: of the adapters' gradients, in their order.
  """

  def label(path: Any, _: Any) -> str:
    return "adapters" if path[-1].key in lora.NAMES else "frozen"

  return optax.partition(
    {"adapters": optax.chain(*transforms), "frozen": optax.set_to_zero()},
    lambda params: jax.tree_util.tree_map_with_path(label, params),
  )


def model_partitions(
  partitions: int | None, submesh: tuple[int, ...] | None, heads: int
) -> int | None:
  """Returns T5X's `num_partitions` if the model's heads can be split so.

  On a CPU T5X ignores it: without a submesh, all devices share each layer.

  Args:
    partitions: devices that share each layer.
    submesh: the same as a block of the devices' grid, or None.
    heads: of each attention layer.

  Raises:
    InputError: the devices that share a layer do not divide its heads.
  """
  is_cpu = jax.default_backend() == "cpu"
  if submesh is not None:
    shares, name = 1, "MODEL_SUBMESH"
    for extent in submesh:
      shares *= extent
  elif is_cpu:
    shares, name = jax.device_count(), "MODEL_PARTITIONS"
  else:
    shares, name = partitions or 1, "MODEL_PARTITIONS"
  if heads % shares == 0:
    return partitions
  fits = max(n for n in range(1, shares) if not (shares % n or heads % n))
  advice = f"--gin.MODEL_PARTITIONS={fits}"
  if is_cpu or submesh is not None:
    block = (*[1] * (len(submesh or (1, 1)) - 1), fits)
    advice = f'--gin.MODEL_PARTITIONS=None --gin.MODEL_SUBMESH="{block}"'
  why = " (on a CPU T5X splits over all of them)" if is_cpu else ""
  raise InputError(
    f"{name} splits each layer over {shares} devices{why * (submesh is None)}, "
    f"which do not divide its {heads} heads: pass {advice}."
  )


def initial_checkpoint(path: Any) -> Any:
  """Returns INITIAL_CHECKPOINT_PATH if it is there, as far as can be seen.

  Args:
    path: a local folder, or one in a bucket, which is left to T5X.

  Raises:
    InputError: a local folder is no checkpoint of T5X, or has adapters, which
      T5X would leave out without a word.
  """
  if not isinstance(path, str) or "://" in path:
    return path
  folder = pathlib.Path(path)
  if not t5x_checkpoint.is_t5x(folder):
    raise InputError(
      f"INITIAL_CHECKPOINT_PATH is {path}: no checkpoint of T5X; name a folder "
      "checkpoint_STEP that holds `checkpoint` or `state`."
    )
  if t5x_checkpoint.is_checkpoint(folder) and t5x_checkpoint.lora_of(folder)[0]:
    raise InputError(
      f"INITIAL_CHECKPOINT_PATH is {path}, whose adapters (LoRA) T5X would "
      f"leave out: merge them, `instructrec convert {path} FOLDER --to t5x`, "
      "and name the checkpoint in FOLDER."
    )
  return path


def tuned_checkpoint(path: Any, rank: int, alpha: float) -> Any:
  """Returns CHECKPOINT_PATH if the model that is bound has its adapters.

  T5X itself would leave out what the model has no place for, and evaluate what
  was tuned without its tuning.

  Args:
    path: a local folder, or what is left to T5X: others, and those in a bucket.
    rank: LORA_RANK.
    alpha: LORA_ALPHA.

  Raises:
    InputError: adapters of the checkpoint are of another rank or alpha, or it
      has none.
  """
  if not isinstance(path, str) or "://" in path:
    return path
  folder = pathlib.Path(path)
  if not t5x_checkpoint.is_checkpoint(folder):
    return path
  found, scaled = t5x_checkpoint.lora_of(folder)
  if not found and rank:
    raise InputError(
      f"CHECKPOINT_PATH is {path}, which has no adapters (LoRA): pass "
      "--gin.LORA_RANK=0."
    )
  if found != rank or scaled not in (None, alpha):
    flags = f"--gin.LORA_RANK={found}"
    flags += f" --gin.LORA_ALPHA={scaled:g}" if scaled is not None else ""
    raise InputError(
      f"CHECKPOINT_PATH is {path}, whose adapters (LoRA) are not those of "
      f"LORA_RANK={rank}, LORA_ALPHA={alpha:g}: pass {flags}."
    )
  return path
