"""Instruction templates are data: YAML files, checked when they are loaded."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import (
  Preference,
  Query,
  Response,
  Strategy,
  TaskForm,
)
from instructrec_jax.instructions.forms import Form, Template
from instructrec_jax.instructions.template_checks import complaints

__all__ = [
  "DEFAULT_FILE",
  "Form",
  "Template",
  "dump_templates",
  "load_templates",
]

DEFAULT_FILE = pathlib.Path(__file__).with_name("templates.yaml")
_PACKAGED = {
  "package": DEFAULT_FILE,
  "pairwise": DEFAULT_FILE.with_name("pairwise.yaml"),
}

_REQUIRED = ("name", "preferences", "response", "text")
# Field -> the kind of its value; of lists, of their members.
_LISTS = {"preferences": Preference, "optional": Preference, "queries": Query}
_CHOICES = {
  "task_form": TaskForm,
  "strategy": Strategy,
  "response": Response,
}
_NAME = re.compile(r"[A-Z]\d{2}")


def load_templates(*sources: str | pathlib.Path) -> list[Template]:
  """Loads and checks templates.

  Args:
    *sources: YAML files, or the words "package" (the appendix's 39, also if
      nothing is named) and "pairwise" (T1). A later file's template replaces
      an earlier one of the same name.

  Raises:
    InputError: a file is missing, no YAML list, or a template of it is wrong;
      the message names the template.
  """
  templates: dict[str, Template] = {}
  for source in sources or ("package",):
    templates |= _load(pathlib.Path(_PACKAGED.get(str(source), source)))
  return list(templates.values())


def dump_templates(templates: Sequence[Template]) -> str:
  """Returns YAML that `load_templates` reads as the same templates."""
  entries = []
  for template in templates:
    lists = {field: [*map(str, getattr(template, field))] for field in _LISTS}
    choices = {field: getattr(template, field) for field in _CHOICES}
    entry = {
      "name": template.name,
      **lists,
      **{field: value and str(value) for field, value in choices.items()},
      "text": template.text,
    }
    entries.append({field: value for field, value in entry.items() if value})
  return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _load(path: pathlib.Path) -> dict[str, Template]:
  try:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"{path}: no such file of templates.") from None
  except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
    reason = " ".join(str(error).split())
    raise InputError(f"{path}: not valid YAML ({reason}).") from None
  if not isinstance(entries, list) or not entries:
    raise InputError(
      f"{path}: a list of templates is expected, each with {_REQUIRED}."
    )
  templates: dict[str, Template] = {}
  for entry in entries:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
      raise InputError(
        f"{path}: a template needs a name of a capital letter and two digits, "
        f"such as A07, but there is {str(entry)[:60]!r}."
      )
    if name in templates:
      raise InputError(f"{path}: template {name} is there more than once.")
    try:
      templates[name] = _template(entry)
    except ValueError as error:
      raise InputError(f"{path}, template {name}: {error}.") from None
  return templates


def _template(entry: dict[Any, Any]) -> Template:
  """Returns a checked template.

  Raises:
    ValueError: it is wrong; says how.
  """
  fields = {*_REQUIRED, *_LISTS, *_CHOICES}
  for field in entry:
    if field not in fields:
      raise ValueError(
        f"there is no field {field!r}; there are {', '.join(sorted(fields))}"
      )
  for field in _REQUIRED:
    if not entry.get(field):
      raise ValueError(f"the field {field!r} is missing or empty")
  for field in _LISTS:
    if not isinstance(entry.get(field, []), list):
      raise ValueError(f"{field} must be a list, such as [P1]")
  template = Template(
    name=entry["name"],
    preferences=_members(entry, "preferences"),
    optional=_members(entry, "optional"),
    queries=_members(entry, "queries"),
    task_form=_choice(entry, "task_form", None),
    strategy=_choice(entry, "strategy", "plain"),
    response=_choice(entry, "response", None),
    text=str(entry["text"]).strip(),
  )
  for complaint in complaints(template):
    raise ValueError(complaint)
  return template


def _members(entry: dict[Any, Any], field: str) -> tuple[Any, ...]:
  return tuple(
    _valid(_LISTS[field], value, field) for value in entry.get(field, [])
  )


def _choice(entry: dict[Any, Any], field: str, default: str | None) -> Any:
  value = entry.get(field, default)
  return None if value is None else _valid(_CHOICES[field], value, field)


def _valid(kind: Any, value: Any, field: str) -> Any:
  # Every template that shows I1 has a form with its other view, I1*.
  allowed = [member for member in kind if member != Query.VAGUE_STAR]
  if value not in allowed:
    raise ValueError(
      f"{field} has {value!r}, but there are {', '.join(allowed)}"
    )
  return kind(value)
