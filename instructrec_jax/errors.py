"""The one exception that means: the user's input is at fault, not the code."""


class InputError(Exception):
  """Bad input, told in one sentence.

  The message names the file (and line, where there is one), what was expected
  and what to do about it. The command line prints it without a traceback and
  exits with status 2.
  """
