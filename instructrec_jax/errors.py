"""The exception of invalid user input, as opposed to a bug."""

import os
import pathlib
import stat


class InputError(Exception):
  """Invalid input, explained in one sentence.

  The message names the file (and line, if any), what was expected and what to
  do about it. The command line prints it without a traceback and
  exits with status 2.
  """


def check_counts(**counts: int) -> None:
  """Raises an InputError that names the first that is no positive integer."""
  for name, count in counts.items():
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
      raise InputError(f"{name} is {count!r}: a whole number from 1 is needed.")


def check_file(path: pathlib.Path) -> None:
  """Raises an InputError unless it is a file that may be read.

  A pipe would be waited for, a device never end, and neither is read twice.
  """
  try:
    if (mode := os.stat(path).st_mode) and not stat.S_ISREG(mode):
      is_folder = stat.S_ISDIR(mode)
      what = "is a directory" if is_folder else "is a pipe or a device"
      raise InputError(f"{path}: cannot be read ({what}): name a file.")
    with open(path, "rb"):
      pass
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise InputError(f"{path}: cannot be read ({reason.lower()}).") from None
