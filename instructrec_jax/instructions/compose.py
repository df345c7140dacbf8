"""A user's own words -> the model instruction (paper section 2.3.2).

A template is chosen that fits the user's words and history. The words fill its
slots: concatenated if two texts share a slot, shifted to the third person if
they are a lasting preference (to the first if that is the query), and inserted.
"""

import dataclasses
import enum
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from instructrec_jax.data.cleaning import clean_title
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Query, Response, TaskForm
from instructrec_jax.instructions.persona import first_person, third_person
from instructrec_jax.instructions.render import Slots, display_titles, render
from instructrec_jax.instructions.templates import Form, Template
from instructrec_jax.instructions.utterance import (
  AUTO,
  Reading,
  denied_words,
  printable,
  readings,
  understand,
)
from instructrec_jax.records import Item

_TASK_FORMS = (TaskForm.RERANKING, TaskForm.MATCHING)


class NoForm(InputError):
  """No form of the templates takes what was said."""


class Operation(enum.StrEnum):
  """How a user's words become part of an instruction."""

  CONCATENATION = "concatenation"
  PERSONA_SHIFT = "persona shift"
  INSERTION = "insertion"


@dataclasses.dataclass(frozen=True, slots=True)
class Composed:
  """A model instruction and how it was composed.

  Attributes:
    items_dropped: items of the history that it does not show.
    label: its aspects, such as <P1,P2,I1,T3>.
    operations: those used, in this order.
    replaced: characters that were replaced or removed, as the vocabulary lacks
      them or they separate titles.
    query: the query that it quotes, "" if none.
    candidates: the distinct titles to choose from, as instructions show them.
    slots: the texts of the form's slots, with the whole history.
    denied: words that the user said it must not be, in lower case.
  """

  form: Form
  instruction: str
  items_dropped: int
  label: str
  operations: tuple[Operation, ...]
  replaced: str
  query: str
  candidates: tuple[str, ...]
  slots: Slots
  denied: tuple[str, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns the instruction and how it was composed, as JSON has it."""
    return {
      "instruction": self.instruction,
      "template": self.form.template.name,
      "aspects": self.label,
      "operations": [*map(str, self.operations)],
      "items_dropped": self.items_dropped,
      "replaced": self.replaced,
    }


def compose(
  words: str = "",
  *,
  history: Sequence[str] = (),
  candidates: Sequence[str] | None = None,
  preference: str | None = None,
  context: str | None = None,
  kind: str = AUTO,
  template: str | None = None,
  templates: Sequence[Template],
  count_tokens: Callable[[str], int],
  prints: Callable[[str], bool] | None = None,
  budget: int = 512,
  reasoned: bool = False,
) -> Composed:
  """Chooses the form of a template that fits, and fills it.

  Candidates are listed (T3), unless there are none or more than fit (T2). With
  a history the template is of the appendix's group C if there is a query, else
  of group A; without a history, of group B. The first that fits is taken.

  Args:
    words: the user's own; optional with a history.
    history: titles of the user's items, oldest first.
    candidates: titles to choose from.
    preference: the user's lasting taste, in the first or third person.
    context: where, when or what for; appended to the words if no template
      that fits has a slot for it.
    kind: of the words: "preference", "vague", "specific", or "auto": by the
      rules of `utterance.kind_of`, sentence by sentence.
    template: the name of the only one to consider; it may ignore the
      history.
    templates: to choose from.
    count_tokens: of the vocabulary.
    prints: whether the vocabulary has a character; all, if None.
    budget: the encoder's maximum of tokens, EOS included.
    reasoned: take a template by which the model tells the taste before the
      item, in place of those that it answers with an item alone.

  Raises:
    InputError: there are neither words nor a history, the instruction is too
      long, a title is empty, or, as `NoForm`, no template fits.
  """
  said = [
    printable(t or "", prints=prints) for t in (words, preference, context)
  ]
  (words, _), (preference, _), (context, _) = said
  utterance = understand(
    words, preference=preference, context=context, kind=kind
  )
  had = shown_titles(history, name="history")
  offered = shown_titles(candidates or (), name="candidates")
  offered = list(dict.fromkeys(offered))
  if not (utterance or had):
    raise InputError(
      "there is nothing to go by: give a history, or words with at least a "
      "letter that the vocabulary has."
    )
  if template is not None:
    named = [each for each in templates if each.name == template]
    if not named:
      raise InputError(
        f"there is no template {template!r}; there are "
        f"{', '.join(each.name for each in templates)}."
      )
    templates = named
  too_long = []
  for form, reading in _fitting(
    templates,
    list(readings(utterance, has_history=bool(had))),
    task_forms=_TASK_FORMS if offered else _TASK_FORMS[1:],
    has_history=bool(had),
    may_ignore_history=template is not None,
    response=Response.REASONED_ITEM if reasoned else Response.ITEM,
  ):
    is_preference = reading.query == Query.PREFERENCE
    slots = Slots(
      history=had,
      candidates=offered,
      preference=third_person(reading.preference),
      query=first_person(reading.text) if is_preference else reading.text,
      context=reading.context,
    )
    rendered = render(form, slots, count_tokens=count_tokens, budget=budget)
    if not rendered.fits:
      too_long.append((count_tokens(rendered.text) + 1, form.name))
      continue
    given = (reading.preference, reading.text)
    used = {
      Operation.CONCATENATION: reading.concatenated,
      Operation.PERSONA_SHIFT: given != (slots.preference, slots.query),
      Operation.INSERTION: True,
    }
    shows_history = "history" in form.slots
    return Composed(
      form=form,
      instruction=rendered.text,
      items_dropped=rendered.items_dropped if shows_history else len(had),
      label=form.label,
      operations=tuple(name for name, is_used in used.items() if is_used),
      replaced="".join(dict.fromkeys("".join(lost for _, lost in said))),
      query=slots.query,
      candidates=tuple(offered),
      slots=slots,
      denied=denied_words(words, preference, context),
    )
  if too_long:
    tokens, name = min(too_long)
    raise InputError(
      f"this is too long for the model: an instruction of {tokens:,} tokens "
      f"(template {name}), and it takes {budget:,}; say it in fewer words."
    )
  parts = [
    *["a preference (P2)"] * bool(utterance.preference),
    *[f"an intention ({utterance.kind})"] * bool(utterance.intention),
    *["a context"] * bool(utterance.context),
  ]
  given = " and ".join(parts) or "no words"
  of = "chain-of-thought form" if reasoned else "form"
  raise NoForm(
    f"no {of} of {template or 'the templates'} fits {given} "
    f"{'with' if had else 'without'} a history and "
    f"{'with' if offered else 'without'} candidates; `instructrec templates` "
    "lists what each takes."
  )


def shown_titles(titles: Sequence[str], *, name: str) -> list[str]:
  """Returns a user's titles as instructions show them.

  Raises:
    InputError: a title of the list, which it names, has no letter or digit.
  """
  if isinstance(titles, str):
    raise InputError(f"the {name} is a text: a list of titles is needed.")
  for title in titles:
    if not isinstance(title, str):
      raise InputError(f"the {name}: {title!r:.80} is no title.")
  items = [Item("", clean_title(title)) for title in titles]
  for title, item in zip(titles, items, strict=True):
    if not item.title:
      raise InputError(f"the {name}: {title!r:.80} is no title.")
  return display_titles(items)


def _fitting(
  templates: Sequence[Template],
  readings: Sequence[Reading],
  *,
  task_forms: Sequence[TaskForm],
  has_history: bool,
  may_ignore_history: bool,
  response: Response,
) -> Iterator[tuple[Form, Reading]]:
  """Yields the first form that fits of each task form, if any."""
  recommending = [
    form
    for template in templates
    for form in template.forms
    if template.response == response
    and (form.needs_history == has_history or may_ignore_history)
    and (has_history or not form.needs_history)
  ]
  for task_form in task_forms:
    fitting = (
      (form, reading)
      for reading in readings
      for form in recommending
      if form.template.task_form == task_form
      and form.query == reading.query
      and form.with_preference == bool(reading.preference)
      and (not reading.context or "context" in form.slots)
    )
    yield from itertools.islice(fitting, 1)
