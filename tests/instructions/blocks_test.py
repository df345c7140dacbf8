"""Tests for instructrec_jax/instructions/blocks.py: rows are build_test's."""

import functools
import multiprocessing
import operator
import os
import signal
import time
from typing import Any

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.blocks import Processes


def refuse():
  raise InputError("store.sqlite: damaged.")


def call(source, argument):
  return source, argument


def test_what_no_process_can_open_is_told_as_it_is():
  source: Any = None
  with pytest.raises(InputError, match="store.sqlite: damaged"):
    with Processes(source, refuse, workers=2) as processes:
      list(processes.map(call, range(9)))


@pytest.mark.timeout(120)
def test_processes_that_die_while_they_send_are_told():
  """A pool alone waits for the rest of what they were sending, for ever."""
  make: Any = functools.partial(bytes, 60 << 20)
  for delay in (0.01, 0.02, 0.03, 0.05):
    with (
      pytest.raises(InputError, match="ended from outside"),
      Processes(make(), make, workers=2) as processes,
    ):
      results = processes.map(operator.mul, [1] * 60)
      next(results)
      time.sleep(delay)
      for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
      for _ in results:
        pass
  assert not multiprocessing.active_children()
