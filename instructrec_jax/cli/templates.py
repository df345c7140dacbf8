"""Lists the instruction templates with their aspects and a rendered example."""

import argparse
import collections
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from instructrec_jax.instructions.templates import Form, Template

EXAMPLE = "instructrec templates --file my_templates.yaml"

_GROUPS = {
  "A": "recommendation",
  "B": "product search",
  "C": "personalised search",
  "D": "pairwise",
}
_PREFERENCE = "The user prefers horror games with a strong story."
# By the value of {query}, as `aspects.Query` has it.
_QUERIES = {
  "P2": _PREFERENCE,
  "I1": "I want a scary game for long evenings.",
  "I2": "Video Games, PlayStation 4, Games",
}
_TARGET = "Resident Evil: Revelations 2"
_HISTORY = ("Resident Evil 4", "The Evil Within", "Alien: Isolation")
_OTHERS = ("FIFA 15", "Just Dance 2016", "Gran Turismo 6")

_INTRODUCTION = """\
# The instruction templates

`instructrec templates --markdown` prints this page: every template beside one
of its forms, filled in, and the answer that a model is tuned to give. P1 is a
history, P2 a preference in words; I1 is a vague and I2 a specific intention; T0
to T3 are pointwise, pairwise, matching and reranking. A form without a
preference leaves the `[[part]]` out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--file",
    nargs="+",
    default=[],
    metavar="YAML",
    help=(
      "templates to add to the package's, or to replace them by name; "
      "'pairwise' has the package's T1"
    ),
  )
  form = parser.add_mutually_exclusive_group()
  form.add_argument("--json", action="store_true")
  form.add_argument(
    "--markdown",
    action="store_true",
    help="a page of tables, such as docs/templates.md",
  )


def run(args: argparse.Namespace) -> None:
  """Prints the templates."""
  from instructrec_jax.instructions.templates import load_templates

  entries = [_entry(t) for t in load_templates("package", *args.file)]
  if args.json:
    print(json.dumps(entries, ensure_ascii=False))
  elif args.markdown:
    sys.stdout.write(_markdown(entries))
  else:
    for entry in entries:
      print(
        f"{entry['name']}  {entry['aspects']}  {entry['strategy']}, answers "
        f"{entry['response']}\n     {entry['example']}\n"
        f"     -> {entry['target']}"
      )
    print(_counts(entries))


def _entry(template: "Template") -> dict[str, Any]:
  from instructrec_jax.instructions.render import render
  from instructrec_jax.instructions.responses import response

  # Of all forms the one that shows most, with a query in the user's words.
  form = max(template.forms, key=lambda f: (f.with_preference, f.query == "I1"))
  slots = _slots(form)
  return {
    "name": template.name,
    "group": template.group,
    "aspects": template.label,
    "strategy": str(template.strategy),
    "response": str(template.response),
    "text": template.text,
    "forms": [each.name for each in template.forms],
    "families": [each.family for each in template.forms],
    "example": render(form, slots, count_tokens=lambda text: 0).text,
    "target": response(form, slots, target=_TARGET),
  }


def _slots(form: "Form") -> Any:
  from instructrec_jax.instructions.render import Slots

  others = _OTHERS[:1] if form.template.task_form == "T1" else _OTHERS
  return Slots(
    history=_HISTORY,
    candidates=(*others[:2], _TARGET, *others[2:]),
    candidate=_TARGET,
    target=_TARGET,
    preference=_PREFERENCE,
    query=_QUERIES[form.query] if form.query else "",
    context="It is for a long winter",
  )


def _counts(entries: list[dict[str, Any]]) -> str:
  groups = collections.Counter(entry["group"] for entry in entries)
  forms = sum(len(entry["forms"]) for entry in entries)
  listed = ", ".join(f"{count} {group}" for group, count in groups.items())
  return f"{len(entries)} templates ({listed}) in {forms} forms."


def _markdown(entries: list[dict[str, Any]]) -> str:
  lines = [_INTRODUCTION, _counts(entries)]
  for group in sorted({entry["group"] for entry in entries}):
    lines += [
      "",
      f"## {group}: {_GROUPS.get(group, 'further templates')}",
      "",
      "| Template | Text | Example | Answer |",
      "| --- | --- | --- | --- |",
    ]
    for entry in entries:
      if entry["group"] == group:
        about = f"**{entry['name']}** `{entry['aspects']}`"
        cells = (about, entry["text"], entry["example"], entry["target"])
        lines.append(
          "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"
        )
  return "\n".join(lines) + "\n"
