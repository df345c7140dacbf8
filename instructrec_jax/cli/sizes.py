"""The model sizes of gin/model, by name."""

import pathlib

from instructrec_jax.errors import InputError

_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "gin" / "model"
# Included by each size, never used alone.
_ARCHITECTURE = "t5_1_1"


def named_size(name: str):
  """Returns the config of gin/model/NAME.gin.

  Raises:
    InputError: there is no such file.
  """
  import gin

  names = sorted({p.stem for p in _FOLDER.glob("*.gin")} - {_ARCHITECTURE})
  if name not in names:
    raise InputError(f"--size is {name!r}: one of {', '.join(names)} is known.")
  gin.clear_config()
  gin.add_config_file_search_path(str(_FOLDER.parents[1]))
  gin.parse_config_file(str(_FOLDER / f"{name}.gin"))
  return gin.get_configurable("config.T5Config")()
