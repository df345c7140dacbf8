"""Forms of templates and slots -> instructions, within the encoder's budget."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from instructrec_jax.instructions.forms import Form
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
    target: the title that a turned-around instruction gives away.
    preference: the user's taste in words, if it is known.
    query: what the user asks for, in words.
    context: where, when or what for, if it is known.
  """

  history: Sequence[str] = ()
  candidates: Sequence[str] = ()
  candidate: str = ""
  target: str = ""
  preference: str | None = None
  query: str = ""
  context: str | None = None


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
  form: Form,
  slots: Slots,
  *,
  count_tokens: Callable[[str], int],
  budget: int = 512,
) -> Rendered:
  """Fills a form; the oldest history goes first if it gets too long.

  Args:
    form: of the template whose text to fill.
    slots: what to fill it with; what the form does not show is not looked at.
    count_tokens: of the vocabulary.
    budget: tokens that the encoder takes, the end of sequence counted in.

  Raises:
    ValueError: there is nothing to fill one of the form's slots with.
  """
  history = slots.history
  values = {
    "preference": plain_words(slots.preference or ""),
    "query": plain_words(slots.query),
    "context": plain_words(slots.context or ""),
    "candidates": SEPARATOR.join(slots.candidates),
    "candidate": slots.candidate,
    "target": slots.target,
  }
  segments = (
    form.segments if values["context"] else form.segments_without_context
  )
  dropped = 0
  while True:
    values["history"] = SEPARATOR.join(history[dropped:])
    text = _fill(form, segments, values)
    over = count_tokens(text) + 1 - budget
    left = len(history) - dropped
    # The latest item stays: without it there is no history to speak of.
    if over <= 0 or left <= 1 or "history" not in form.slots:
      return Rendered(text, items_dropped=dropped, fits=over <= 0)
    while over > 0 and dropped < len(history) - 1:
      over -= count_tokens(history[dropped] + SEPARATOR)
      dropped += 1


def plain_words(text: str) -> str:
  """Returns somebody's words on one line, ready for a sentence to go on."""
  return " ".join(text.split()).rstrip(",;: ")


def ends_sentence(text: str) -> bool:
  """Whether no full stop is wanted after a text, as after Mario Bros."""
  return text.rstrip("\"'").endswith((".", "!", "?"))


def _fill(
  form: Form, segments: Sequence[str], values: Mapping[str, str]
) -> str:
  text = segments[0]
  for name, literal in zip(segments[1::2], segments[2::2], strict=True):
    value = values[name]
    if not value:
      raise ValueError(f"template {form.template.name} needs a {name}")
    quote = literal[:1] if literal[:1] == '"' else ""
    if quote:
      value = value.replace('"', "'")
    if literal.removeprefix(quote)[:1] == "." and ends_sentence(value):
      literal = quote + literal.removeprefix(quote)[1:]
    text += value + literal
  return text
