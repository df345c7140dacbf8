"""What gin/t5x asks before T5X would fail without a word that helps."""

import pathlib
from typing import Any

import jax

from instructrec_jax.errors import InputError


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
    InputError: a local folder is no checkpoint of T5X.
  """
  if not isinstance(path, str) or "://" in path:
    return path
  from instructrec_jax.checkpoints.t5x_checkpoint import is_t5x

  if not is_t5x(pathlib.Path(path)):
    raise InputError(
      f"INITIAL_CHECKPOINT_PATH is {path}: no checkpoint of T5X; name a folder "
      "checkpoint_STEP that holds `checkpoint` or `state`."
    )
  return path
