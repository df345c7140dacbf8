"""Makes the reference pages of the docs: a hook of mkdocs.yml.

  .venv/bin/mkdocs build --strict

Commands are shown as their --help has them, Python as docstrings have it, and
CONTRIBUTING and CHANGELOG of the repository's root are pages, too.
"""

import importlib
import inspect
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


def on_files(files: Any, config: Any) -> Any:
  """Adds the pages that are made."""
  from mkdocs.structure.files import File

  made = {
    "reference/commands.md": commands(),
    "reference/python.md": python(),
    "contributing.md": _of_root("CONTRIBUTING.md"),
    "changelog.md": _of_root("CHANGELOG.md"),
  }
  for name, text in made.items():
    files.append(File.generated(config, name, content=text))
  return files


def commands() -> str:
  """Returns a page with each subcommand's --help."""
  from instructrec_jax.cli import main, options

  parts = [
    "# Commands\n\nAs `instructrec SUBCOMMAND --help` prints them.",
  ]
  for name, about in main.SUBCOMMANDS.items():
    parser = main._parser(main._load(name), f"instructrec {name}")
    options.declare(parser, main._load(name).Options)
    text = parser.format_help()
    parts.append(f"## {name}\n\n{about}\n\n```text\n{text}```")
  return "\n\n".join(parts) + "\n"


def python() -> str:
  """Returns a page with what Python users call, from its docstrings."""
  parts = [
    "# Python\n\n`import instructrec_jax as ir` offers `ir.Recommender` and "
    "`ir.InputError`; [serving.md](../serving.md#python) has examples.",
  ]
  for module, names in (
    ("serving.recommender", ("Recommender",)),
    ("instructions.recommend", ("Recommendation", "Ranked")),
    ("instructions.compose", ("Composed",)),
    ("serving.explanation", ("Explanation", "Weight")),
    ("errors", ("InputError",)),
  ):
    home = importlib.import_module(f"instructrec_jax.{module}")
    for name in names:
      parts.append(_class(getattr(home, name)))
  return "\n\n".join(parts) + "\n"


def _class(cls: type) -> str:
  parts = [f"## {cls.__name__}", _docstring(cls)]
  for name, member in vars(cls).items():
    if name.startswith("_") or not getattr(member, "__doc__", None):
      continue
    function = getattr(member, "__func__", member)
    if isinstance(member, property):
      parts += [f"### {cls.__name__}.{name}", _docstring(member)]
    elif inspect.isfunction(function):
      signature = str(inspect.signature(function)).replace("self, ", "")
      signature = signature.replace("(self)", "()").replace("cls, ", "")
      heading = f"### {cls.__name__}.{name}"
      parts += [heading, f"```text\n{name}{signature}\n```", _docstring(member)]
  return "\n\n".join(parts)


def _docstring(thing: Any) -> str:
  # As it stands in the code: its sections are laid out by indentation.
  return f"```text\n{inspect.cleandoc(thing.__doc__ or '')}\n```"


def _of_root(name: str) -> str:
  text = (ROOT / name).read_text(encoding="utf-8")
  text = re.sub(r"\]\(docs/", "](", text)
  return text.replace("(CHANGELOG.md)", "(changelog.md)")
