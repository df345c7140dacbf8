"""Forms of templates and slots -> instructions and the desired answers.

Instructions keep to the encoder's budget of tokens. An answer that holds an
item ends in its title, word for word.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from instructrec_jax.instructions.aspects import Response
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import Item

# Longer titles are truncated, in prompts and answers alike: 0.1% of them.
MAX_TITLE_WORDS = 40
SEPARATOR = "; "
# The longest history that an answer lists.
MAX_HISTORY = 20
_NEXT = "Bought next: "
# Of reasoning before an item.
_TASTE = "The history shows this taste: "
_SUITS = "What suits it:"
# As a model tells them, whose vocabulary may fold case.
_TASTE_TOLD = re.compile(rf"^\s*{_TASTE.strip(': ')}\b", re.IGNORECASE)
_SUITS_TOLD = re.compile(rf"\b{_SUITS.strip(':')}\b", re.IGNORECASE)
YES = "Yes"
NO = "No"


@dataclasses.dataclass(frozen=True, slots=True)
class Slots:
  """The texts that fill an instruction's slots.

  Attributes:
    history: titles of the user's items, oldest first.
    candidates: titles to choose from.
    candidate: the title that a pointwise instruction asks about.
    target: the title that a turn-around instruction shows.
    preference: the user's taste in words, if it is known.
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
class FittedResponse:
  """A desired answer, and how it was truncated.

  Attributes:
    items_dropped: oldest items of a history that did not fit.
    words_dropped: last words of a preference or query that did not fit.
    fits: whether the text keeps to the budget. An item's title is never
      truncated, and may be too long alone.
  """

  text: str
  items_dropped: int = 0
  words_dropped: int = 0
  fits: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
  """An instruction, and how it was truncated.

  Attributes:
    items_dropped: oldest items of the history that did not fit.
    fits: whether the text keeps to the budget. Candidates and query are never
      truncated, and may be too long alone.
  """

  text: str
  items_dropped: int
  fits: bool


def display_titles(items: Sequence[Item]) -> list[str]:
  """Returns titles as instructions show and models answer them.

  Semicolons separate titles, so a title's own become commas; none ends in a
  comma or colon, which would precede a separator or full stop.
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
  """Fills a form; drops the oldest history if the text is too long.

  Texts that the form does not show are ignored. The budget is the encoder's
  maximum of tokens, EOS included.

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
    # The latest item is never dropped.
    if over <= 0 or left <= 1 or "history" not in form.slots:
      return Rendered(text, items_dropped=dropped, fits=over <= 0)
    while over > 0 and dropped < len(history) - 1:
      over -= count_tokens(history[dropped] + SEPARATOR)
      dropped += 1


def response(
  form: Form, slots: Slots, *, target: str, positive: bool = True
) -> str:
  """Returns the desired answer.

  `target` is the target item's title; a pointwise instruction that is not
  `positive` asks about another.

  Raises:
    ValueError: `slots` lacks what the answer holds.
  """
  kind = form.template.response
  preference = plain_words(slots.preference or "")
  query = plain_words(slots.query)
  history = SEPARATOR.join(slots.history[-MAX_HISTORY:])
  missing = (
    (kind.holds_preference and not preference and "preference")
    or (kind.holds_query and not query and "query")
    or (kind.holds_history and not history and "history")
  )
  if missing:
    raise ValueError(f"template {form.template.name} answers a {missing}")
  match kind:
    case Response.ITEM:
      return target
    case Response.YES_NO:
      return YES if positive else NO
    case Response.PREFERENCE:
      return preference
    case Response.QUERY:
      return query
    case Response.HISTORY:
      return history
    case Response.QUERY_AND_ITEM:
      return f"The search: {_closed(query)} The product: {target}"
    case Response.HISTORY_AND_ITEM:
      return f"Bought before: {_closed(history)} {_NEXT}{target}"
    case Response.REASONED_ITEM:
      # The paper's section 2.2.2: preferences, then the recommendation.
      return f"{reasoning(preference)} {target}"


def reasoning(preference: str) -> str:
  """Returns a reasoned answer up to its item: what is said of the taste."""
  return f"{_TASTE}{_closed(plain_words(preference))} {_SUITS}"


def reasoned_preference(answer: str) -> str:
  """Returns the taste of which a reasoned answer tells; "" if it has no words.

  An answer that a model wrote need not have all of the form, or have its end:
  what stands where the taste would is taken for it.
  """
  words, *_ = _SUITS_TOLD.split(answer, maxsplit=1)
  return plain_words(_TASTE_TOLD.sub("", words).lstrip(" :,;."))


def fitted_response(
  form: Form,
  slots: Slots,
  *,
  target: str,
  positive: bool = True,
  count_tokens: Callable[[str], int],
  budget: int | None,
) -> FittedResponse:
  """Returns the answer of `response` within a budget of tokens, EOS included.

  The oldest history goes first, then the last words of a preference or query;
  an item's title stays whole. None is no budget.
  """
  kind = form.template.response
  history = slots.history[-MAX_HISTORY:]
  texts = {
    "preference": plain_words(slots.preference or "").split(),
    "query": plain_words(slots.query).split(),
  }
  # What may lose words: all but an answer that is an item or Yes alone.
  told = ("preference" if kind.holds_preference else "query") * (
    kind.holds_preference or kind.holds_query
  )
  # A history is the answer, but for one before an item, which may go whole.
  least = 0 if kind == Response.HISTORY_AND_ITEM else 1
  most = max(len(history) - least, 0) * kind.holds_history
  dropped = words = 0
  while True:
    shown = dataclasses.replace(slots, history=history[dropped:])
    if told and words:
      kept = " ".join(texts[told][:-words])
      shown = dataclasses.replace(shown, **{told: kept})
    text = (
      f"{_NEXT}{target}"
      if history and dropped == len(history)
      else response(form, shown, target=target, positive=positive)
    )
    over = 0 if budget is None else count_tokens(text) + 1 - budget
    if over <= 0:
      return FittedResponse(text, dropped, words)
    if dropped < most:
      while over > 0 and dropped < most:
        over -= count_tokens(history[dropped] + SEPARATOR)
        dropped += 1
    elif told and words < len(texts[told]) - 1:
      words += 1
    else:
      return FittedResponse(text, dropped, words, fits=False)


def plain_words(text: str) -> str:
  """Returns words on one line, without punctuation that needs more words."""
  return " ".join(text.split()).rstrip(",;: ")


def ends_sentence(text: str) -> bool:
  """Whether a text needs no full stop, such as Mario Bros."""
  return text.rstrip("\"'").endswith((".", "!", "?"))


def _closed(text: str) -> str:
  return text if ends_sentence(text) else f"{text}."


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
