"""The one exception that means: the user's input is at fault, not the code."""


class InputError(Exception):
  """Bad input, told in one sentence.

  The message names the file (and line, where there is one), what was expected
  and what to do about it. The command line prints it without a traceback and
  exits with status 2.
  """


def check_counts(**counts: int) -> None:
  """Refuses what is no whole number from 1.

  Raises:
    InputError: one is none; it is named.
  """
  for name, count in counts.items():
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
      raise InputError(f"{name} is {count!r}: a whole number from 1 is needed.")
