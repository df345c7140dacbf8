"""Lists the instruction templates with their aspects and a rendered example."""

import argparse
import json
import pathlib

EXAMPLE = "instructrec templates --file my_templates.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--file", type=pathlib.Path, help="YAML (default: the package's)"
  )
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Prints the templates."""
  from instructrec_jax.instructions.render import Slots, render
  from instructrec_jax.instructions.templates import load_templates

  slots = Slots(
    history=["Alder Tent Green", "Alder Stove Green"],
    candidates=["Borea Saddle Grey", "Alder Lantern Green"],
    candidate="Alder Lantern Green",
    preference="I like green gear that lasts",
  )
  found = [
    {
      "name": template.name,
      "aspects": template.aspects.label,
      "strategy": str(template.strategy),
      "response": template.response,
      "text": template.text,
      "example": render(template, slots, count_tokens=lambda text: 0).text,
    }
    for template in load_templates(args.file)
  ]
  if args.json:
    print(json.dumps(found))
    return
  for entry in found:
    print(
      f"{entry['name']}  {entry['aspects']}  {entry['strategy']}, answers "
      f"{entry['response']}\n     {entry['example']}"
    )
