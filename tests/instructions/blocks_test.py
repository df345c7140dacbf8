"""Tests for instructrec_jax/instructions/blocks.py: rows are build_test's."""

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
