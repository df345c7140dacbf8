"""Progress: a bar on a terminal, now and then a line with a rate in a log."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

# In a log: before the first line, so that short work prints none, and between
# two lines.
_QUIET_SECONDS = 10
_LINE_SECONDS = 30
_LINE = (
  "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {rate_fmt}, {remaining} left"
  "{postfix}"
)


def progress(
  iterable: Iterable[Any] | None = None,
  desc: str = "",
  *,
  shown: bool = True,
  leave: bool = True,
  **options: Any,
) -> tqdm.tqdm:
  """Returns a tqdm of an iterable, or one to update.

  Args:
    iterable: what is gone through.
    desc: what is done.
    shown: False for all processes but the first.
    leave: whether a terminal keeps the bar in the end.
    **options: of tqdm: total, initial, unit, unit_scale.
  """
  if not shown:
    return tqdm.tqdm(iterable, desc, disable=True, **options)
  if sys.stderr.isatty():
    return tqdm.tqdm(iterable, desc, leave=leave, **options)
  return tqdm.tqdm(
    iterable,
    desc,
    file=_Lines(),
    delay=_QUIET_SECONDS,
    mininterval=_LINE_SECONDS,
    maxinterval=_LINE_SECONDS,
    bar_format=_LINE,
    **options,
  )


class _Lines:
  """Turns what tqdm draws again and again into lines of stderr."""

  def __init__(self):
    """Nothing is printed yet."""
    self._last = ""

  def write(self, text: str) -> None:
    """Prints a line, unless it is blank or its count was told before."""
    # A bar below another one moves the cursor back up.
    text = text.replace("\x1b[A", "").strip("\r\n ")
    count = text.rpartition(" in ")[0]
    if ": 1 of " in text:
      # The first has waited for what comes before them all: it tells no rate.
      text = text.partition(", ")[0]
    if text and count != self._last:
      print(text, file=sys.stderr)
      self._last = count

  def flush(self) -> None:
    """Flushes stderr."""
    sys.stderr.flush()
