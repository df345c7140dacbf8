"""Where the package's gin files are, in a clone and in an installed wheel."""

import pathlib
from collections.abc import Sequence

_PACKAGE = pathlib.Path(__file__).resolve().parent


def search_path() -> pathlib.Path:
  """Returns the folder that holds `gin/`, for gin's search path.

  In a clone that is the repository, in a wheel the package's own folder; a name
  such as gin/model/mini.gin is found in either.
  """
  clone = _PACKAGE.parent
  is_clone = (clone / "gin" / "run" / "train.gin").is_file()
  return clone if is_clone else _PACKAGE


def find_gin_file(
  name: str, folders: Sequence[str] = ()
) -> pathlib.Path | None:
  """Returns a file as gin would find it, or None.

  It is looked for in the working folder, in `folders` and where the package has
  its own.
  """
  for folder in ("", *folders, search_path()):
    path = pathlib.Path(folder) / name
    if path.is_file():
      return path
  return None


def model_sizes() -> tuple[str, ...]:
  """Returns the names of the models in gin/model."""
  files = (search_path() / "gin" / "model").glob("*.gin")
  # The architecture is included by each, never used alone.
  return tuple(sorted({file.stem for file in files} - {"t5_1_1"}))
