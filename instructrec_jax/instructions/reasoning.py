"""Chain of thought at inference: the model says what it makes of a history.

A chain-of-thought template has it write the taste before the item (the paper's
section 2.2.2). Here it writes, and items are ranked by how likely they are
behind its own words.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Response
from instructrec_jax.instructions.compose import Composed, NoForm, compose
from instructrec_jax.instructions.render import (
  reasoned_preference,
  reasoning,
)
from instructrec_jax.records import RankingRequest

Write = Callable[[Sequence[str]], list[str]]
"""Returns what a model answers to instructions, such as a `Generator`'s."""


def reason(
  words: str = "",
  *,
  write: Write,
  history: Sequence[str] = (),
  preference: str | None = None,
  template: str | None = None,
  **composing: Any,
) -> tuple[Composed, str]:
  """Has a model tell the taste, and composes what it is to answer with that.

  The words begin its answer where a chain-of-thought template fits, as it was
  trained. The package's show a history alone: beside a wish, the taste that the
  history tells of stands in the instruction, as the user's preference.

  Args:
    words: the user's own.
    write: the model.
    history: titles of the user's items, oldest first.
    preference: must be None, as it is the model that tells it.
    template: see `compose`.
    **composing: the other arguments of `compose`.

  Returns:
    The instruction that titles are ranked for, and the taste in the model's own
    words, "" if it had none. `said` is what its answer then begins with.

  Raises:
    InputError: as `compose` does, there is no history, the taste is given, or
      no template is of chain-of-thought.
  """
  if not history:
    raise InputError(
      "there is nothing to reason about: give a history, or ask without "
      "reasoning."
    )
  if preference:
    raise InputError(
      "a preference is given, and reasoning is to find one: leave out either."
    )
  try:
    composed = compose(
      words, history=history, template=template, reasoned=True, **composing
    )
  except NoForm:
    alone = composing | {"candidates": (), "context": None}
    asked = compose(history=history, reasoned=True, **alone)
    taste = _taste(write, asked.instruction)
    composed = compose(
      words,
      history=history,
      preference=taste or None,
      template=template,
      **composing,
    )
    return composed, taste
  return composed, _taste(write, composed.instruction)


def said(composed: Composed, taste: str) -> str:
  """Returns what an answer has before the title, "" if nothing."""
  begins = composed.form.template.response == Response.REASONED_ITEM
  return reasoning(taste) if taste and begins else ""


def answered(request: RankingRequest, answer: str) -> RankingRequest:
  """Returns a request behind what a model has answered to its instruction."""
  taste = reasoned_preference(answer)
  before = reasoning(taste) if taste else ""
  return dataclasses.replace(request, said=before)


def _taste(write: Write, instruction: str) -> str:
  (answer,) = write([instruction])
  return reasoned_preference(answer)
