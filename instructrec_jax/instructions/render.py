"""Templates and slots -> instructions, within the encoder's budget."""

import dataclasses
from collections.abc import Callable, Sequence

from instructrec_jax.instructions.templates import Template
from instructrec_jax.records import Item

# Longer titles are cut at a word, in prompts and answers alike: 0.1% of them.
MAX_TITLE_WORDS = 40
SEPARATOR = "; "


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
  """What an instruction is about, as texts.

  Attributes:
    history: titles of the user's items, oldest first.
    candidates: titles to choose from.
    candidate: the title that a pointwise instruction asks about.
    preference: the user's taste in words, if it is known.
    intention: what the user asks for, in words.
  """

  history: Sequence[str] = ()
  candidates: Sequence[str] = ()
  candidate: str = ""
  preference: str | None = None
  intention: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
  """An instruction, and what had to be left out of it.

  Attributes:
    text: for the encoder.
    items_dropped: oldest items of the history that did not fit.
    fits: whether the text keeps to the budget. The candidates or the query
      alone may be too long for it; they are never cut.
  """

  text: str
  items_dropped: int
  fits: bool


def display_titles(items: Sequence[Item]) -> list[str]:
  """Returns titles as instructions show and models answer them.

  Semicolons separate titles, so a title's own become commas; none ends in a
  comma or colon, which would stand before a separator or full stop.
  """
  cut = [
    " ".join(item.title.replace(";", ",").split()[:MAX_TITLE_WORDS])
    for item in items
  ]
  return [title.rstrip(" ,:") or title for title in cut]


def render(
  template: Template,
  slots: Slots,
  *,
  count_tokens: Callable[[str], int],
  budget: int = 512,
) -> Rendered:
  """Fills a template; the oldest history goes first if it gets too long.

  Args:
    template: whose text to fill.
    slots: what to fill it with.
    count_tokens: of the vocabulary.
    budget: tokens that the encoder takes, the end of sequence counted in.

  Raises:
    ValueError: there is nothing to fill one of the template's slots with.
  """
  history = slots.history
  dropped = 0
  while True:
    text = _fill(template, slots, history[dropped:])
    over = count_tokens(text) + 1 - budget
    left = len(history) - dropped
    # The latest item stays: without it there is no history to speak of.
    if over <= 0 or left <= 1 or "history" not in template.slots:
      return Rendered(text, items_dropped=dropped, fits=over <= 0)
    while over > 0 and dropped < len(history) - 1:
      over -= count_tokens(history[dropped] + SEPARATOR)
      dropped += 1


def _fill(template: Template, slots: Slots, history: Sequence[str]) -> str:
  if slots.preference is None:
    segments = template.without_preference
  else:
    segments = template.with_preference
  values = {
    "history": SEPARATOR.join(history),
    "preference": slots.preference,
    "intention": slots.intention,
    "candidates": SEPARATOR.join(slots.candidates),
    "candidate": slots.candidate,
  }
  text = segments[0]
  for name, literal in zip(segments[1::2], segments[2::2], strict=True):
    value = values[name]
    if not value:
      raise ValueError(f"template {template.name} needs a {name}")
    text += value
    # "... Super Mario Bros." ends the sentence by itself.
    if literal[:1] == "." and value[-1:] in (".", "!", "?"):
      literal = literal[1:]
    text += literal
  return text
