"""Instruction templates: data, checked when they are loaded."""

import dataclasses
import functools
import pathlib
import re
from typing import Any

import yaml

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import (
  Aspects,
  Intention,
  Preference,
  Strategy,
  TaskForm,
)

DEFAULT_FILE = pathlib.Path(__file__).with_name("templates.yaml")
RESPONSES = ("item", "yes_no")
SLOTS = ("history", "preference", "intention", "candidates", "candidate")

_FIELDS = {
  "name",
  "preferences",
  "optional",
  "intention",
  "task_form",
  "strategy",
  "response",
  "text",
}
_NAME = re.compile(r"[A-Z]\d{2}")
_SLOT = re.compile(r"\{(\w+)\}")
_OPTIONAL = re.compile(r"\[\[(.*?)\]\]", re.DOTALL)
# Without pieces in T5's vocabulary.
_UNPRINTABLE = re.compile(r"[{}<>~^\\\[\]\n\t]")

Segment = str | None
"""Literal text and names of slots take turns; literals come first and last."""


@dataclasses.dataclass(frozen=True)
class Template:
  """One way to word an instruction.

  Attributes:
    name: the appendix's letter and number, such as A07.
    aspects: its place in the paper's scheme.
    strategy: how it adds diversity.
    response: what the model answers, one of `RESPONSES`.
    text: with {slots}, and [[what is left out without a preference]].
  """

  name: str
  aspects: Aspects
  strategy: Strategy
  response: str
  text: str

  @functools.cached_property
  def without_preference(self) -> tuple[str, ...]:
    """Literals at even places and names of slots at odd ones."""
    return tuple(_SLOT.split(_OPTIONAL.sub("", self.text)))

  @functools.cached_property
  def with_preference(self) -> tuple[str, ...]:
    """The same, with the optional part."""
    return tuple(_SLOT.split(_OPTIONAL.sub(r"\1", self.text)))

  @property
  def slots(self) -> set[str]:
    """Names of all slots."""
    return set(self.with_preference[1::2])

  @property
  def task_name(self) -> str:
    """The SeqIO task's name, with its version."""
    return f"instructrec_{self.name.lower()}_v1"


def load_templates(path: pathlib.Path | None = None) -> list[Template]:
  """Loads and checks a YAML file of templates, by default the package's.

  Raises:
    InputError: the file is missing, no YAML list, or a template of it is
      wrong; the message names the template.
  """
  path = DEFAULT_FILE if path is None else pathlib.Path(path)
  try:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"{path}: no such file of templates.") from None
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    reason = " ".join(str(error).split())
    raise InputError(f"{path}: not valid YAML ({reason}).") from None
  if not isinstance(entries, list) or not entries:
    raise InputError(f"{path}: a list of templates is expected.")
  templates = [_template(entry, path=path) for entry in entries]
  names = [template.name for template in templates]
  for name in names:
    if names.count(name) > 1:
      raise InputError(f"{path}: template {name} is there more than once.")
  return templates


def _template(entry: Any, *, path: pathlib.Path) -> Template:
  if not isinstance(entry, dict) or not _NAME.fullmatch(str(entry.get("name"))):
    raise InputError(
      f"{path}: a template needs a name of a capital letter and two digits, "
      f"such as A07, but there is {str(entry)[:60]!r}."
    )
  where = f"{path}, template {entry['name']}"
  for field in sorted(entry.keys() ^ _FIELDS, key=str):
    if field not in _FIELDS:
      raise InputError(f"{where}: there is no field {field!r}.")
    if field not in ("optional", "strategy"):
      raise InputError(f"{where}: the field {field!r} is missing.")
  try:
    aspects = Aspects(
      preferences=tuple(map(Preference, entry["preferences"])),
      intention=Intention(entry["intention"]),
      task_form=TaskForm(entry["task_form"]),
      optional=tuple(map(Preference, entry.get("optional", ()))),
    )
    strategy = Strategy(entry.get("strategy", "plain"))
  except (ValueError, TypeError) as error:
    raise InputError(f"{where}: {error}.") from None
  if entry["response"] not in RESPONSES:
    raise InputError(
      f"{where}: the response is {entry['response']!r}, but must be one of "
      f"{', '.join(RESPONSES)}."
    )
  template = Template(
    name=entry["name"],
    aspects=aspects,
    strategy=strategy,
    response=entry["response"],
    text=str(entry["text"]).strip(),
  )
  _check_slots(template, where)
  _check_text(template, where)
  return template


def _check_slots(template: Template, where: str) -> None:
  aspects = template.aspects
  shown = [*aspects.preferences, *aspects.optional]
  if (
    not aspects.preferences
    or len(set(shown)) < len(shown)
    or (Preference.NONE in shown and len(shown) > 1)
    or set(aspects.optional) - {Preference.EXPLICIT}
  ):
    raise InputError(
      f"{where}: preferences are [P0], or P1 and P2 or one of them; only P2 "
      "can be optional."
    )
  needed = {
    "history": Preference.IMPLICIT in shown,
    "preference": Preference.EXPLICIT in shown,
    "intention": aspects.intention != Intention.NONE,
    "candidates": aspects.task_form == TaskForm.RERANKING,
    "candidate": aspects.task_form == TaskForm.POINTWISE,
  }
  for slot in sorted(template.slots - set(SLOTS)):
    raise InputError(
      f"{where}: there is no slot {{{slot}}}; there are {', '.join(SLOTS)}."
    )
  always = set(template.without_preference[1::2])
  for slot, wanted in needed.items():
    there = template.slots if slot == "preference" else always
    if wanted != (slot in there):
      what = "lacks" if wanted else "must not have"
      raise InputError(
        f"{where}: an instruction of {aspects.label} {what} {{{slot}}}."
      )
  if ("preference" in always) != (Preference.EXPLICIT in aspects.preferences):
    raise InputError(
      f"{where}: an optional P2 stands in [[double brackets]], a required one "
      "outside."
    )
  if (aspects.task_form == TaskForm.POINTWISE) != (
    template.response == "yes_no"
  ):
    raise InputError(f"{where}: T0, and T0 alone, is answered with yes_no.")


def _check_text(template: Template, where: str) -> None:
  for segments in (template.without_preference, template.with_preference):
    for literal in segments[::2]:
      if wrong := _UNPRINTABLE.search(literal):
        raise InputError(
          f"{where}: T5's vocabulary has no {wrong.group()!r}; word it "
          "otherwise."
        )
    filled = "x".join(segments[::2])
    if re.search(r"  | [.,;:?!]|[.,;:]{2}", filled):
      raise InputError(
        f"{where}: doubled spaces or punctuation once slots are filled: "
        f"{filled[:80]!r}."
      )
