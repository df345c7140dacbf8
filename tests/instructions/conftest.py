"""Reading instructions back: the proof that a reader can tell titles apart."""

import re
from collections.abc import Callable

import pytest

from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.templates import Template


@pytest.fixture(scope="session")
def read_back() -> Callable[[Template, str], dict[str, list[str]]]:
  """Returns the titles in each slot of an instruction without preference.

  A full stop that a title brought along counts as the template's own.
  """

  def read(template: Template, text: str) -> dict[str, list[str]]:
    segments = template.without_preference
    pattern = re.escape(segments[0])
    for literal in segments[2::2]:
      stop = r"[.!?]" if literal.startswith(".") else ""
      pattern += "(.+)" + stop + re.escape(literal.removeprefix("."))
    found = re.fullmatch(pattern, text)
    assert found, (template.name, text)
    return {
      slot: values.split(SEPARATOR)
      for slot, values in zip(segments[1::2], found.groups(), strict=True)
    }

  return read
