"""What the teacher is asked, word for word, and what each question may see.

Bump `VERSION` with any change of wording or schema: the store then keeps the
new answers beside the old.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from instructrec_jax.teacher.chat import ChatRequest

VERSION = "1"
MAX_REVIEW_CHARACTERS = 3000


class PreferenceAnswer(pydantic.BaseModel):
  """Three descriptions of a user's taste (P2), as strict JSON."""

  model_config = pydantic.ConfigDict(extra="forbid")
  general: str
  long_term: str
  short_term: str


class IntentionAnswer(pydantic.BaseModel):
  """A user's intention (I1) from two points of view, as strict JSON."""

  model_config = pydantic.ConfigDict(extra="forbid")
  user_view: str
  item_view: str


@dataclasses.dataclass(frozen=True, slots=True)
class PreferenceQuestion:
  """Asks for a user's taste.

  Attributes:
    user: user number.
    position: where the history ends; the item there and all later ones are
      not in `titles`. Its last item is at `position - 1`.
    titles: the history, oldest first.
    labels: categories of each of these items, for teachers that use rules.
  """

  user: int
  position: int
  titles: Sequence[str]
  labels: Sequence[Sequence[str]] = ()

  kind = "preference"


@dataclasses.dataclass(frozen=True, slots=True)
class IntentionQuestion:
  """Asks what a user had in mind who then wrote a review.

  Attributes:
    user: user number.
    position: of the target, the one item whose review is seen.
    review: its summary and text.
  """

  user: int
  position: int
  review: str

  kind = "intention"


Question = PreferenceQuestion | IntentionQuestion

_PREFERENCE = """\
You describe the taste of a customer of an online shop. You are given the \
products that the customer bought, oldest first. Write three descriptions, \
each one sentence of 10 to 30 words about "the user" in the third person, \
beginning with "The user": `general`, what the user likes on the whole; \
`long_term`, what stays the same from the first purchase to the last; \
`short_term`, what the latest purchases are about. Add what you know of these \
products (kind, style, occasion), do not list their names, and say nothing \
that the purchases do not support."""

_INTENTION = """\
You find out what a customer of an online shop was looking for. You are given \
the customer's review of a product, written after buying it. Write down the \
wish that the customer had before buying, in the first person, as the \
customer would say it to a shop assistant, one sentence of 8 to 30 words \
each: `user_view`, from the customer's side (whom it is for, the occasion, \
the need); `item_view`, from the product's side (the properties that it \
should have). Never name the product, its brand or its title, and do not \
speak of a review or a past purchase. Leave a field empty if the review does \
not tell."""


def chat_request(
  question: Question,
  *,
  model: str,
  parameters: Mapping[str, float | int | str],
) -> ChatRequest:
  """Words a question; equal questions of two users are one request."""
  if isinstance(question, PreferenceQuestion):
    system, answer = _PREFERENCE, PreferenceAnswer
    user = "\n".join(
      f"{number}. {title}" for number, title in enumerate(question.titles, 1)
    )
  else:
    system, answer = _INTENTION, IntentionAnswer
    user = question.review[:MAX_REVIEW_CHARACTERS]
  return ChatRequest(
    model=model,
    system=system,
    user=user,
    schema_name=question.kind,
    schema=strict_schema(answer),
    parameters=parameters,
    prompt_version=VERSION,
  )


def strict_schema(answer: type[pydantic.BaseModel]) -> dict[str, Any]:
  """Returns the JSON schema that structured outputs want."""
  properties = {
    name: {"type": {str: "string", bool: "boolean"}[field.annotation]}  # pyright: ignore[reportArgumentType] no other kind is used
    for name, field in answer.model_fields.items()
  }
  return {
    "type": "object",
    "properties": properties,
    "required": list(properties),
    "additionalProperties": False,
  }
