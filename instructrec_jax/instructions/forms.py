"""A template and its forms.

A template has one or more forms: variants that differ in what its query is
and in whether its optional preference is shown.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from instructrec_jax.instructions.aspects import (
  Preference,
  Query,
  Response,
  Strategy,
  TaskForm,
)

SLOT = re.compile(r"\{(\w+)\}")
OPTIONAL = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Template:
  """One way to word an instruction.

  Attributes:
    name: the appendix's letter and number, such as A07.
    preferences: those that an instruction always shows.
    optional: preferences that are shown or left out: the paper's (P2).
    queries: what can stand in {query}, or be the answer; none is I0.
    task_form: None if the model is not asked to recommend, or not that alone.
    strategy: how it adds diversity.
    response: what the model answers.
    text: with {slots}, and [[what is left out without its slot's value]].
  """

  name: str
  preferences: tuple[Preference, ...]
  optional: tuple[Preference, ...]
  queries: tuple[Query, ...]
  task_form: TaskForm | None
  strategy: Strategy
  response: Response
  text: str

  @property
  def group(self) -> str:
    """The appendix's letter."""
    return self.name[0]

  @property
  def label(self) -> str:
    """The paper's notation, such as <P1,(P2),P2/I1/I2,T3>."""
    return _label(
      [*self.preferences, *(f"({part})" for part in self.optional)],
      "/".join(self.queries),
      self,
    )

  @functools.cached_property
  def forms(self) -> tuple["Form", ...]:
    """Every variant; none shows the same preference twice."""
    required = Preference.EXPLICIT in self.preferences
    shown = (True,) if required else (False, True)[: 1 + len(self.optional)]
    return tuple(
      Form(self, query, with_preference)
      for query in self._queries
      for with_preference in shown
      if not (with_preference and query == Query.PREFERENCE)
    )

  @property
  def _queries(self) -> tuple[Query | None, ...]:
    """What to make forms for; a shown I1 has two views, as in Figure 3."""
    if Query.VAGUE not in self.queries or self.response.holds_query:
      return self.queries or (None,)
    place = self.queries.index(Query.VAGUE) + 1
    return (*self.queries[:place], Query.VAGUE_STAR, *self.queries[place:])


@dataclasses.dataclass(frozen=True)
class Form:
  """One variant of a template.

  Attributes:
    template: whose variant.
    query: what stands in {query}, or is the answer; None without a query.
    with_preference: whether the preference is shown in words.
  """

  template: Template
  query: Query | None
  with_preference: bool

  @functools.cached_property
  def label(self) -> str:
    """The aspects in use, such as <P1,P2,I0,T3>.

    A preference or query that only the answer holds counts too.
    """
    response = self.template.response
    has_history = (
      Preference.IMPLICIT in self.template.preferences or response.holds_history
    )
    in_words = self.with_preference or response.holds_preference
    preferences = [Preference.IMPLICIT] * has_history
    preferences += [Preference.EXPLICIT] * in_words
    return _label(
      preferences or [Preference.NONE], self.query or "", self.template
    )

  @functools.cached_property
  def family(self) -> str:
    """The aspects in use, as in names of mixtures: p1_p2_i0_t3."""
    label = self.label[1:-1].replace("*", "star")
    return re.sub(r"\W", "_", label).lower()

  @functools.cached_property
  def name(self) -> str:
    """The template's name, with the family if it has several forms."""
    name = self.template.name
    return name if len(self.template.forms) == 1 else f"{name}_{self.family}"

  @property
  def task_name(self) -> str:
    """The SeqIO task's name, with its version."""
    return f"instructrec_{self.name.lower()}_v1"

  @functools.cached_property
  def segments(self) -> tuple[str, ...]:
    """Literals at even places and names of slots at odd ones."""
    return self._split(context=True)

  @functools.cached_property
  def segments_without_context(self) -> tuple[str, ...]:
    """The same for a row that has no context."""
    return self._split(context=False)

  @property
  def slots(self) -> frozenset[str]:
    """Names of all slots."""
    return frozenset(self.segments[1::2])

  @property
  def needs_preference(self) -> bool:
    """Whether a row must have a preference in words."""
    return (
      self.with_preference
      or self.query == Query.PREFERENCE
      or self.template.response.holds_preference
    )

  @property
  def needs_history(self) -> bool:
    """Whether a row must have a history, to show or to answer."""
    return "history" in self.slots or self.template.response.holds_history

  def _split(self, *, context: bool) -> tuple[str, ...]:
    shown = {"preference": self.with_preference, "context": context}

    def part(match: re.Match[str]) -> str:
      (slot,) = SLOT.findall(match[1])
      return match[1] if shown[slot] else ""

    return tuple(SLOT.split(OPTIONAL.sub(part, self.template.text)))


def _label(preferences: Sequence[str], query: str, template: Template) -> str:
  plain = template.strategy == Strategy.PLAIN
  query = query or ("I0" if plain else "")
  task = template.task_form if plain else template.strategy
  return f"<{','.join(filter(None, [*preferences, query, task]))}>"
