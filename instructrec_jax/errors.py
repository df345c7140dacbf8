"""The exception of invalid user input, as opposed to a bug."""

import math
import os
import pathlib
import stat
from typing import Any


class InputError(Exception):
  """Invalid input, explained in one sentence.

  The message names the file (and line, if any), what was expected and what to
  do about it. The command line prints it without a traceback and
  exits with status 2.
  """


# Of what is counted, more has no use, and overflows arrays of 32 bits.
LARGEST_COUNT = 2**31 - 1
# More than any file that is read at once, such as a vocabulary.
MOST_BYTES = 1 << 28
# jax keeps 32 bits of a seed: with more, two seeds would be one.
LARGEST_SEED = 2**32 - 1


def read_number(text: str, kind: type = float) -> Any:
  """Returns the number that a text is; ValueError if it is none.

  Python itself takes 1_0 for 10, and the digits of any script.
  """
  if "_" in text or not text.isascii():
    raise ValueError(f"{text!r:.80} is no number")
  return kind(text)


def check_counts(
  *, least: int = 1, most: int = LARGEST_COUNT, **counts: Any
) -> None:
  """Raises an InputError that names the first that is no such whole number."""
  for name, count in counts.items():
    if not isinstance(count, int) or isinstance(count, bool):
      raise InputError(
        f"{name} is {count!r:.60}: a whole number from {least} is needed."
      )
    _check_range(name, count, least, most)


def check_numbers(
  *, least: float = 0.0, most: float = math.inf, **numbers: Any
) -> None:
  """Raises an InputError that names the first that is no such finite number."""
  for name, number in numbers.items():
    if not isinstance(number, int | float) or isinstance(number, bool):
      raise InputError(f"{name} is {number!r:.60}: a number is needed.")
    if isinstance(number, float) and not math.isfinite(number):
      raise InputError(f"{name} is {number}: a finite number is needed.")
    _check_range(name, number, least, most)


def check_seed(seed: Any) -> None:
  """Raises an InputError if a seed is not what numpy and jax take."""
  check_counts(least=0, most=LARGEST_SEED, seed=seed)


def _check_range(name: str, number: Any, least: float, most: float) -> None:
  # Python writes no whole number of more than 4,300 digits.
  shown = number if abs(number) < 1e30 else "a number of many digits"
  if number < least:
    raise InputError(f"{name} is {shown}: at least {least} is needed.")
  if number > most:
    raise InputError(f"{name} is {shown}: at most {most} is possible.")


def check_tree(folder: pathlib.Path) -> None:
  """Raises an InputError if a pipe, a socket or a device lies below a folder.

  For folders that a library reads, which would wait for a pipe for ever.
  """
  for parent, _, names in os.walk(folder):
    for name in names:
      path = pathlib.Path(parent, name)
      # A link to nothing is for the reader to refuse.
      if path.exists() and not path.is_file():
        check_file(path)


def check_file(path: pathlib.Path, *, is_small: bool = False) -> None:
  """Raises an InputError unless it is a file that may be read.

  A pipe would be waited for, a device never end, and neither is read twice.

  Args:
    path: the file.
    is_small: it is read at once, so that it may have MOST_BYTES.
  """
  try:
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
      is_folder = stat.S_ISDIR(info.st_mode)
      what = "is a directory" if is_folder else "is a pipe or a device"
      raise InputError(f"{path}: cannot be read ({what}): name a file.")
    if is_small and info.st_size > MOST_BYTES:
      raise InputError(
        f"{path}: it has {info.st_size:,} bytes, where {MOST_BYTES:,} are the "
        "most: it is another file, or damaged."
      )
    with open(path, "rb"):
      pass
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise InputError(f"{path}: cannot be read ({reason.lower()}).") from None
