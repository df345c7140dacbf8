"""How many cores this process may use, and work that is done ahead."""

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any

_END = object()


def cores() -> int:
  """Returns the number of cores that the process may run on, at least 1."""
  try:
    return len(os.sched_getaffinity(0))
  except AttributeError:
    # Only Linux has it.
    return os.cpu_count() or 1


def ahead(iterator: Iterator[Any]) -> Iterator[Any]:
  """Yields what an iterator does, which makes the next in a thread meanwhile.

  It helps where both sides let go of Python's lock.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    future = pool.submit(next, iterator, _END)
    while (item := future.result()) is not _END:
      future = pool.submit(next, iterator, _END)
      yield item
