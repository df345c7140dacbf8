"""The exception of invalid user input, as opposed to a bug."""


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
