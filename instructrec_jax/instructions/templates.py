"""Instruction templates: YAML data, checked when it is loaded.

A template has one or more forms: variants that differ in what their query is
and in whether their optional preference is shown.
"""

import collections
import dataclasses
import functools
import pathlib
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import pydantic
import pydantic.dataclasses
import yaml

from instructrec_jax.errors import InputError, check_file
from instructrec_jax.instructions.aspects import (
  Preference,
  Query,
  Response,
  Strategy,
  TaskForm,
)

_PACKAGED = {
  "package": pathlib.Path(__file__).with_name("templates.yaml"),
  "unlisted": pathlib.Path(__file__).with_name("templates.yaml"),
  "pairwise": pathlib.Path(__file__).with_name("pairwise.yaml"),
  "crowd": pathlib.Path(__file__).with_name("crowd.yaml"),
}
_SLOTS = tuple(
  "history preference query candidates candidate target context".split()
)
_NAME = re.compile(r"[A-Z]\d{2}")
_SLOT = re.compile(r"\{(\w+)\}")
_OPTIONAL = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
# All but what T5's vocabulary has pieces for, and what marks slots and parts.
_UNPRINTABLE = re.compile(r"[^ -;=?-Z_a-z|ÉÎÜßàáâäçèéêîóôöùûü«»°–—‘’“”„…€£]")
_DOUBLED = re.compile(r"  | [.,;:?!]|[.,;:]{2}")


# Not a BaseModel: its == would compare the cached forms, which refer back.
@pydantic.dataclasses.dataclass(
  config=pydantic.ConfigDict(extra="forbid", str_strip_whitespace=True),
  frozen=True,
  kw_only=True,
)
class Template:
  """One way to word an instruction.

  Attributes:
    name: the appendix's letter and number, such as A07.
    preferences: those that an instruction always shows.
    optional: preferences that are shown or left out: the paper's (P2).
    queries: what {query} can be, or the answer; empty for I0.
    task_form: None if the model is not asked to recommend, or not that alone.
    text: with {slots}, and [[a part that is left out without its slot]].
    held_out: for evaluation alone: no row to train on is worded so.
  """

  name: str
  preferences: Annotated[tuple[Preference, ...], pydantic.Field(min_length=1)]
  optional: tuple[Preference, ...] = ()
  queries: tuple[Query, ...] = ()
  task_form: TaskForm | None = None
  strategy: Strategy = Strategy.PLAIN
  response: Response
  text: Annotated[str, pydantic.Field(min_length=1)]
  held_out: bool = False

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Template":
    """Raises ValueError with the first error; others may follow from it."""
    for check in (_aspect_errors, _slot_errors, _wording_errors):
      if error := next(check(self), None):
        raise ValueError(error)
    return self

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
    queries = self.queries or (None,)
    if Query.VAGUE in queries and not self.response.holds_query:
      # A shown I1 has two views, as in Figure 3.
      place = queries.index(Query.VAGUE) + 1
      queries = (*queries[:place], Query.VAGUE_STAR, *queries[place:])
    return tuple(
      Form(self, query, with_preference)
      for query in queries
      for with_preference in shown
      if not (with_preference and query == Query.PREFERENCE)
    )


@dataclasses.dataclass(frozen=True)
class Form:
  """One variant of a template.

  Attributes:
    query: what {query} is, or the answer; None without a query.
    with_preference: whether the preference is shown in words.
    preference_kind: which of a teacher's preferences, such as "short_term";
      any if "". Templates have no such forms: `of_each_preference` makes them.
  """

  template: Template
  query: Query | None
  with_preference: bool
  preference_kind: str = ""

  @functools.cached_property
  def label(self) -> str:
    """The aspects in use, such as <P1,P2,I0,T3>; those of the answer count."""
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
    if len(self.template.forms) > 1:
      name += f"_{self.family}"
    return f"{name}_{self.preference_kind}".rstrip("_")

  @property
  def task_name(self) -> str:
    """The SeqIO task's name, with its version."""
    return f"instructrec_{self.name.lower()}_v1"

  @functools.cached_property
  def segments(self) -> tuple[str, ...]:
    """Literals at even indices and names of slots at odd ones."""
    return self._split(context=True)

  @functools.cached_property
  def segments_without_context(self) -> tuple[str, ...]:
    """The same without the optional part for a context."""
    return self._split(context=False)

  @property
  def slots(self) -> frozenset[str]:
    """Their names."""
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

  def of_each_preference(self, kinds: Sequence[str]) -> list["Form"]:
    """Returns itself, and a form for each kind if it needs a preference."""
    kinds = kinds if self.needs_preference else ()
    own = [dataclasses.replace(self, preference_kind=kind) for kind in kinds]
    return [self, *own]

  def _split(self, *, context: bool) -> tuple[str, ...]:
    shown = {"preference": self.with_preference, "context": context}

    def part(match: re.Match[str]) -> str:
      (slot,) = _SLOT.findall(match[1])
      return match[1] if shown[slot] else ""

    return tuple(_SLOT.split(_OPTIONAL.sub(part, self.template.text)))


def _label(preferences: Sequence[str], query: str, template: Template) -> str:
  plain = template.strategy == Strategy.PLAIN
  query = query or ("I0" if plain else "")
  task = template.task_form if plain else template.strategy
  return f"<{','.join(filter(None, [*preferences, query, task]))}>"


_ADAPTER = pydantic.TypeAdapter(Template)


def load_templates(*sources: str | pathlib.Path) -> list[Template]:
  """Loads and checks templates.

  Sources are YAML files, or the words "package" (the appendix's 39; the
  default), "unlisted" (those of them that do not list candidates, T3),
  "pairwise" (T1) and "crowd" (how people would say it themselves). A later
  one's template replaces an earlier one of the same name.

  Raises:
    InputError: names a wrong file, and which of its templates is wrong.
  """
  templates: dict[str, Template] = {}
  for source in sources or ("package",):
    loaded = _load(pathlib.Path(_PACKAGED.get(str(source), source)))
    if str(source) == "unlisted":
      loaded = {
        name: template
        for name, template in loaded.items()
        if template.task_form != TaskForm.RERANKING
      }
    templates |= loaded
  return list(templates.values())


def dump_templates(templates: Sequence[Template]) -> str:
  """Returns YAML that `load_templates` reads as the same templates."""
  entries = [
    {name: value for name, value in entry.items() if value}
    for entry in (_ADAPTER.dump_python(t, mode="json") for t in templates)
  ]
  return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
  """Refuses a field that is there twice, of which the last would count."""

  def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    keys = (key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
    for name, count in collections.Counter(keys).items():
      if count > 1:
        raise yaml.constructor.ConstructorError(
          None, None, f"{name!r} is there {count} times", node.start_mark
        )
    return super().construct_mapping(node, deep=deep)


def _load(path: pathlib.Path) -> dict[str, Template]:
  if not path.exists():
    raise InputError(f"{path}: no such file of templates.")
  check_file(path, is_small=True)
  try:
    entries = yaml.load(path.read_text(encoding="utf-8"), _Loader)
  except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
    reason = " ".join(str(error).split())
    raise InputError(f"{path}: not valid YAML ({reason}).") from None
  if not isinstance(entries, list) or not entries:
    raise InputError(
      f"{path}: a list of templates is expected, each with name, preferences, "
      "response and text."
    )
  templates: dict[str, Template] = {}
  for entry in entries:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
      raise InputError(
        f"{path}: a template needs a name of a capital letter and two digits, "
        f"such as A07, but there is {reprlib.repr(entry):.80}."
      )
    if name in templates:
      raise InputError(f"{path}: template {name} is there more than once.")
    try:
      templates[name] = _ADAPTER.validate_python(entry)
    except pydantic.ValidationError as error:
      raise InputError(
        f"{path}, template {name}: {_sentence(error)}."
      ) from None
  return templates


def _sentence(error: pydantic.ValidationError) -> str:
  """Words the first error; an unknown field, often a typo, comes first."""
  unknown = ("unexpected_keyword_argument", "invalid_key")
  first = min(error.errors(), key=lambda e: e["type"] not in unknown)
  field, value = (*first["loc"], "")[0], first["input"]
  match first["type"]:
    case "unexpected_keyword_argument" | "invalid_key":
      fields = ", ".join(sorted(f.name for f in dataclasses.fields(Template)))
      return f"there is no field {field!r}; there are {fields}"
    case "value_error":
      return str(first.get("ctx", {})["error"])
    case "enum":
      members = re.findall("'(.+?)'", first.get("ctx", {})["expected"])
      return _not_among(str(field), value, members)
    case "tuple_type":
      return f"{field} must be a list, such as [P1]"
    case "string_type" if value:
      return f"{field} must be text"
    case "string_unicode":
      return f"{field} has half of a character in it, such as \\ud800"
    case "bool_parsing" | "bool_type":
      return f"{field} must be true or false"
  return f"the field {field!r} is missing or empty"


def _not_among(field: str, value: Any, members: Sequence[str]) -> str:
  # I1* is not for templates: each that shows I1 has a form for it.
  known = ", ".join(m for m in members if m != Query.VAGUE_STAR)
  return f"{field} has {reprlib.repr(value):.80}, but there are {known}"


def _aspect_errors(template: Template) -> Iterator[str]:
  """Yields errors in the combination of aspects."""
  shown = [*template.preferences, *template.optional]
  explicit = Preference.EXPLICIT
  if len(set(shown)) < len(shown) or (
    Preference.NONE in shown and len(shown) > 1
  ):
    yield "preferences are [P0], [P1], [P2] or [P1, P2], each named once"
  if set(template.optional) - {explicit}:
    yield "only P2 can be optional"
  if Query.VAGUE_STAR in template.queries:
    yield _not_among("queries", str(Query.VAGUE_STAR), list(Query))
  if len(set(template.queries)) < len(template.queries):
    yield "a query is named twice"
  response, strategy = template.response, template.strategy
  task_form = template.task_form
  recommends = strategy in (Strategy.PLAIN, Strategy.CHAIN_OF_THOUGHT)
  if recommends != (task_form is not None):
    has = "needs a task_form" if recommends else "has no task_form"
    yield f"a template whose strategy is {strategy} {has}"
  if strategy == Strategy.CHAIN_OF_THOUGHT:
    if task_form in (TaskForm.POINTWISE, TaskForm.PAIRWISE):
      yield f"a template whose strategy is {strategy} is of T2 or T3"
    fitting = {Response.REASONED_ITEM}
  elif strategy == Strategy.PLAIN:
    judges = task_form == TaskForm.POINTWISE
    fitting = {Response.YES_NO if judges else Response.ITEM}
  else:
    fitting = {*Response}
    fitting -= {Response.YES_NO, Response.ITEM, Response.REASONED_ITEM}
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


def _slot_errors(template: Template) -> Iterator[str]:
  """Yields errors in slots and optional parts."""
  outside = _SLOT.findall(_OPTIONAL.sub("", template.text))
  parts = [_SLOT.findall(part) for part in _OPTIONAL.findall(template.text)]
  inside = [slot for part in parts for slot in part]
  for slot in (*outside, *inside):
    if slot not in _SLOTS:
      yield f"there is no slot {{{slot}}}; there are {', '.join(_SLOTS)}"
    if (*outside, *inside).count(slot) > 1:
      yield f"the slot {{{slot}}} is there more than once"
  for part in parts:
    if part not in (["preference"], ["context"]):
      yield (
        "an optional [[part]] holds {preference} or {context} and no other slot"
      )
  if "context" in outside:
    yield "{context} is only allowed in an optional [[part]]"
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


def _wording_errors(template: Template) -> Iterator[str]:
  """Yields errors in the template's own words."""
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
