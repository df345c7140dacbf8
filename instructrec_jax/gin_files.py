"""Where the package's gin files are, in a clone and in an installed wheel."""

import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent


def search_path() -> pathlib.Path:
  """Returns the folder that holds `gin/`, for gin's search path.

  In a clone that is the repository, in a wheel the package's own folder; a name
  such as gin/model/mini.gin is found in either.
  """
  clone = _PACKAGE.parent
  is_clone = (clone / "gin" / "run" / "train.gin").is_file()
  return clone if is_clone else _PACKAGE
