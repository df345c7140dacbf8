"""Tests for instructrec_jax/instructions/blocks.py: rows are build_test's."""

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.blocks import Processes


def refuse():
  raise InputError("store.sqlite: damaged.")


def call(source, argument):
  return source, argument


@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_process_can_open_is_told_as_it_is(workers):
  with pytest.raises(InputError, match="store.sqlite: damaged"):
    with Processes(refuse, workers=workers) as processes:
      list(processes.map(call, range(9)))
