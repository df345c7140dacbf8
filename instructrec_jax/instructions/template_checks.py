"""What can be wrong with a template."""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.aspects import (
  Preference,
  Query,
  Response,
  Strategy,
  TaskForm,
)
from instructrec_jax.instructions.forms import OPTIONAL, SLOT, Template

SLOTS = (
  "history",
  "preference",
  "query",
  "candidates",
  "candidate",
  "target",
  "context",
)
# What T5's vocabulary has pieces for, less what marks slots and parts.
_UNPRINTABLE = re.compile(r"[^ -;=?-Z_a-z|ÉÎÜßàáâäçèéêîóôöùûü«»°–—‘’“”„…€£]")
_DOUBLED = re.compile(r"  | [.,;:?!]|[.,;:]{2}")


def complaints(template: Template) -> Iterator[str]:
  """Yields what is wrong; what follows a first complaint may stem from it."""
  for check in (_aspects, _slots, _wording):
    yield from check(template)


def _aspects(template: Template) -> Iterator[str]:
  """Yields what is wrong with a combination of aspects."""
  shown = [*template.preferences, *template.optional]
  explicit = Preference.EXPLICIT
  if len(set(shown)) < len(shown) or (
    Preference.NONE in shown and len(shown) > 1
  ):
    yield "preferences are [P0], [P1], [P2] or [P1, P2], each named once"
  if set(template.optional) - {explicit}:
    yield "only P2 can be optional"
  if len(set(template.queries)) < len(template.queries):
    yield "a query is named twice"
  response, strategy = template.response, template.strategy
  recommends = strategy in (Strategy.PLAIN, Strategy.CHAIN_OF_THOUGHT)
  if recommends != (template.task_form is not None):
    has = "needs a task_form" if recommends else "has no task_form"
    yield f"a template whose strategy is {strategy} {has}"
  fitting = {
    Strategy.PLAIN: {
      Response.YES_NO
      if template.task_form == TaskForm.POINTWISE
      else Response.ITEM
    },
    Strategy.CHAIN_OF_THOUGHT: {Response.REASONED_ITEM},
  }.get(
    strategy,
    {*Response} - {Response.YES_NO, Response.ITEM, Response.REASONED_ITEM},
  )
  if strategy == Strategy.CHAIN_OF_THOUGHT and template.task_form in (
    TaskForm.POINTWISE,
    TaskForm.PAIRWISE,
  ):
    yield f"a template whose strategy is {strategy} is of T2 or T3"
  if response not in fitting:
    yield (
      f"the response {response} does not fit {template.label}; it would be "
      f"{' or '.join(sorted(fitting))}"
    )
  if response.holds_history and Preference.IMPLICIT in shown:
    yield "P1 is shown and asked for"
  if response.holds_query and not template.queries:
    yield "the answer is a query, so queries must say which, such as [I1]"
  if response.holds_preference and (
    explicit in shown or Query.PREFERENCE in template.queries
  ):
    yield "P2 is shown and asked for"
  if explicit in template.preferences and Query.PREFERENCE in template.queries:
    yield "P2 is shown both as the preference and as the query"


def _slots(template: Template) -> Iterator[str]:
  """Yields what is wrong with slots and optional parts."""
  outside = SLOT.findall(OPTIONAL.sub("", template.text))
  parts = [SLOT.findall(part) for part in OPTIONAL.findall(template.text)]
  inside = [slot for part in parts for slot in part]
  for slot in (*outside, *inside):
    if slot not in SLOTS:
      yield f"there is no slot {{{slot}}}; there are {', '.join(SLOTS)}"
    if (*outside, *inside).count(slot) > 1:
      yield f"the slot {{{slot}}} is there more than once"
  for part in parts:
    if part not in (["preference"], ["context"]):
      yield (
        "an optional [[part]] holds {preference} or {context} and no other slot"
      )
  if "context" in outside:
    yield "{context} can only stand in an optional [[part]]"
  if (Preference.EXPLICIT in template.optional) != ("preference" in inside):
    yield (
      "a [[part with {preference}]] and the field optional: [P2] come together"
    )
  task_form, response = template.task_form, template.response
  needed = {
    "history": Preference.IMPLICIT in template.preferences,
    "preference": Preference.EXPLICIT in template.preferences,
    "query": bool(template.queries) and not response.holds_query,
    "candidates": task_form in (TaskForm.PAIRWISE, TaskForm.RERANKING),
    "candidate": task_form == TaskForm.POINTWISE,
    "target": response == Response.QUERY,
  }
  # Other answers may be about a target that is shown, but not hold it.
  if response in (Response.PREFERENCE, Response.HISTORY):
    del needed["target"]
  for slot, wanted in needed.items():
    if wanted != (slot in outside):
      what = "lacks" if wanted else "must not have"
      yield f"a template of {template.label} {what} {{{slot}}}"


def _wording(template: Template) -> Iterator[str]:
  """Yields what would not read well, or not at all."""
  for form in template.forms:
    for segments in (form.segments, form.segments_without_context):
      for literal in segments[::2]:
        if wrong := re.search(r"[\[\]{}]", literal):
          yield f"{wrong[0]!r} belongs to no {{slot}} and no [[optional part]]"
        if wrong := _UNPRINTABLE.search(literal):
          yield f"T5's vocabulary has no {wrong[0]!r}; word it otherwise"
      filled = "x".join(segments[::2])
      if _DOUBLED.search(filled):
        yield (
          "doubled spaces or punctuation once slots are filled: "
          f"{filled[:80]!r}"
        )
