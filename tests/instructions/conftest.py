"""Reading instructions back: the proof that a reader can tell titles apart."""

import re
from collections.abc import Callable

import pytest

from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.templates import Form


@pytest.fixture(scope="session")
def read_back() -> Callable[[Form, str], dict[str, list[str]]]:
  """Returns the texts in each slot of an instruction without context.

  A full stop that a title brought along counts as the template's own.
  """

  def read(form: Form, text: str) -> dict[str, list[str]]:
    segments = form.segments_without_context
    pattern = re.escape(segments[0])
    for literal in segments[2::2]:
      stop = re.fullmatch(r'("?)\.(.*)', literal, re.DOTALL)
      if stop:
        pattern += rf"(.+?){stop[1]}[.!?]?{re.escape(stop[2])}"
      else:
        pattern += rf"(.+?){re.escape(literal)}"
    found = re.fullmatch(pattern, text, re.DOTALL)
    assert found, (form.name, text)
    return {
      slot: values.split(SEPARATOR)
      for slot, values in zip(segments[1::2], found.groups(), strict=True)
    }

  return read
