"""Command-line options, each declared once, as the field of a dataclass.

A field's name is the option's spelling, its type says how many values of what
kind follow, its default is the option's and the docstring below it the help:

  limit: Count | None = None
  \"\"\"only the first so many requests\"\"\"

`Arg` in an annotation says what is left. A field whose type is another such
dataclass is a group of options, under that class's docstring.

tyro does the same; but it takes .1 s to import, prints errors as boxes of
several lines, and has no `--gin.NAME=VALUE`.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from instructrec_jax.errors import InputError

_T = typing.TypeVar("_T")
_METAVARS = {str: "NAME", int: "N", float: "X", Path: "FILE"}


@dataclasses.dataclass(frozen=True)
class Arg:
  """What a field's name, type and default do not say of an option.

  Attributes:
    help: of a type that several commands use; a field's docstring replaces it.
    metavar: what the help calls the value.
    flag: another spelling than the field's name.
    is_positional: it has no flag.
    is_repeated: each value has the flag before it.
    convert: what makes the value of its text.
    least: the smallest number allowed.
    either: options with the same word here exclude each other.
  """

  help: str = ""
  metavar: str | tuple[str, ...] = ""
  flag: str = ""
  is_positional: bool = False
  is_repeated: bool = False
  convert: Callable[[str], Any] | None = None
  least: float | None = None
  either: str = ""


# Options that several commands share.
File = Annotated[Path, Arg(metavar="FILE")]
Folder = Annotated[Path, Arg(metavar="DIR")]
Count = Annotated[int, Arg(least=1)]
CountOrZero = Annotated[int, Arg(least=0)]
Names = Annotated[
  tuple[str, ...],
  Arg(metavar="NAME,NAME", convert=lambda text: tuple(text.split(","))),
]
Dataset = Annotated[Folder, Arg("dataset folder of `prepare`")]
Model = Annotated[Folder, Arg("model folder of `train` or `export`")]
Out = Annotated[Folder, Arg("folder to write")]
Mixture = Annotated[str, Arg("a SeqIO mixture or task", is_positional=True)]
Split = Annotated[
  Literal["train", "validation", "test"], Arg("examples to read")
]
GinFiles = Annotated[
  tuple[str, ...], Arg(flag="--gin_file", metavar="FILE", is_repeated=True)
]
Step = Annotated[
  str, Arg("a checkpoint's number, or best (default: the latest)", metavar="N")
]
Templates = Annotated[
  tuple[str, ...],
  Arg(
    "files of templates, or the words package and pairwise; a later file's "
    "template replaces an earlier one of the same name",
    metavar="YAML",
  ),
]
InputLength = Annotated[Count, Arg("tokens that the encoder takes")]
TargetLength = Annotated[Count, Arg("tokens that the decoder takes")]
BatchTokens = Annotated[
  Count, Arg("tokens in a batch, about (default: what suits the device)")
]
Seed = Annotated[CountOrZero, Arg("seed of all that is random")]
Force = Annotated[bool, Arg("replace --out if it exists")]
Json = Annotated[bool, Arg("print JSON for programs, not text for people")]
MultiProcess = Annotated[
  bool,
  Arg(
    "join the other processes of this run (docs/partitioning.md)",
    flag="--multi_process",
  ),
]


class Parser(argparse.ArgumentParser):
  """An ArgumentParser whose errors are one sentence."""

  def __init__(self, **arguments: Any):
    super().__init__(
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **arguments,
    )

  def error(self, message: str) -> NoReturn:
    """Raises InputError."""
    raise InputError(f"{message}; see `{self.prog} --help`.")

  def format_help(self) -> str:
    """Returns the help, in which --gin. and its value are one word."""
    return super().format_help().replace("--gin. ", "--gin.")


def parse(parser: Parser, options: type[_T], words: Sequence[str]) -> _T:
  """Declares a dataclass's fields as options and reads them from words.

  Raises:
    InputError: an option is unknown or missing, or its value is not of its
      type.
  """
  declare(parser, options)
  flags = [flag for a in parser._actions for flag in a.option_strings]
  prefixes = tuple(flag for flag in flags if flag.endswith("."))
  end = words.index("--") if "--" in words else len(words)
  split = []
  for word in words[:end]:
    for prefix in prefixes:
      if word.startswith(prefix):
        word = f"{prefix}={word.removeprefix(prefix)}"
    flag = word.partition("=")[0]
    if re.match(r"--\w", word) and " " not in flag and flag not in flags:
      parser.error(f"unknown option {word!r}{did_you_mean(flag, flags)}")
    split.append(word)
  return _collect(options, vars(parser.parse_args([*split, *words[end:]])))


def did_you_mean(word: str, known: Sequence[str]) -> str:
  """Returns a hint at the most similar known word, or nothing."""
  close = difflib.get_close_matches(word, known, n=1)
  return f" (did you mean {close[0]}?)" if close else ""


def arguments(options: Any, *without: str) -> dict[str, Any]:
  """Returns the options as keyword arguments, but for those named."""
  names = (field.name for field in dataclasses.fields(options))
  return {name: getattr(options, name) for name in names if name not in without}


def words(options: Any, *without: str) -> tuple[str, ...]:
  """Spells the options that have a value, as one would type them."""
  spelled: list[str] = []
  for name, value in arguments(options, *without).items():
    if value is not None:
      values = value if isinstance(value, tuple) else (value,)
      spelled += [f"--{name.replace('_', '-')}", *map(str, values)]
  return tuple(spelled)


def declare(parser: Any, options: Any) -> None:
  """Adds the fields of a dataclass to a parser, or to a group of it."""
  exclusive: dict[str, Any] = {}
  for field, kind, arg in _typed_fields(options):
    if dataclasses.is_dataclass(kind):
      title, _, more = inspect.cleandoc(kind.__doc__ or "").partition("\n")
      group = parser.add_argument_group(title.rstrip("."), more.strip() or None)
      declare(group, kind)
      continue
    if arg.either and arg.either not in exclusive:
      exclusive[arg.either] = parser.add_mutually_exclusive_group()
    name, keywords = _argument(field, kind, arg)
    exclusive.get(arg.either, parser).add_argument(name, **keywords)


def _argument(
  field: dataclasses.Field, kind: Any, arg: Arg
) -> tuple[str, dict[str, Any]]:
  """Returns the arguments of `add_argument` for a field."""
  is_required = field.default is dataclasses.MISSING
  default = None if is_required else field.default
  help = arg.help
  # False and 0 are equal, and only one is worth a word.
  if str(default) not in ("None", "False", "()", "") and "default" not in help:
    values = default if isinstance(default, tuple) else (default,)
    help += f" (default: {' '.join(map(str, values))})"
  found: dict[str, Any] = {"help": help.replace("%", "%%"), "default": default}
  flag = arg.flag or f"--{field.name.replace('_', '-')}"
  if kind is bool:
    found["action"] = "store_true"
  elif typing.get_origin(kind) is Literal:
    found["choices"] = typing.get_args(kind)
  else:
    if typing.get_origin(kind) is tuple:
      kind, *others = typing.get_args(kind)
      if arg.is_repeated:
        found |= {"action": "append", "default": []}
      elif not arg.convert:
        found["nargs"] = "+" if others == [...] else 1 + len(others)
    found["type"] = arg.convert or _number(kind, arg.least, flag)
    found["metavar"] = arg.metavar or _METAVARS[kind]
  if not arg.is_positional:
    return flag, found | {"dest": field.name, "required": is_required}
  if not is_required:
    found["nargs"] = "?"
  return field.name, found | {"metavar": field.name.upper()}


def _number(kind: Any, least: float | None, flag: str) -> Callable[[str], Any]:
  """Returns a type for argparse that refuses smaller numbers, and NaN."""
  if least is None:
    return kind

  def number(text: str) -> Any:
    value = kind(text)
    if not value >= least:
      raise InputError(f"{flag} is {text}: at least {least} is needed.")
    return value

  # What argparse calls a text that is none.
  number.__name__ = kind.__name__
  return number


def _collect(options: Any, values: dict[str, Any]) -> Any:
  """Makes the dataclass of what argparse has read."""
  found = {}
  for field, kind, _ in _typed_fields(options):
    if dataclasses.is_dataclass(kind):
      found[field.name] = _collect(kind, values)
    else:
      value = values[field.name]
      found[field.name] = tuple(value) if isinstance(value, list) else value
  return options(**found)


def _typed_fields(
  options: Any,
) -> Iterator[tuple[dataclasses.Field, Any, Arg]]:
  """Yields each field, its bare type and the sum of its `Arg`s."""
  hints = typing.get_type_hints(options, include_extras=True)
  helps: dict[str, str] = {}
  for parent in reversed(options.__mro__[:-1]):
    helps |= _docstrings(parent)
  for field in dataclasses.fields(options):
    kind, args = _unwrap(hints[field.name])
    given: dict[str, Any] = {}
    for arg in (*args, Arg(helps.get(field.name, ""))):
      given |= {k: v for k, v in vars(arg).items() if v != getattr(Arg, k)}
    yield field, kind, Arg(**given)


def _docstrings(cls: type) -> dict[str, str]:
  """Returns the string below each of a class's annotated fields, by name."""
  found = {}
  (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
  assert isinstance(tree, ast.ClassDef)
  for field, below in itertools.pairwise(tree.body):
    if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
      text = ast.literal_eval(below.value)
      found[ast.unparse(field.target)] = " ".join(text.split())
  return found


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
  """Takes `Annotated` and `| None` off a type."""
  origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is Annotated:
    kind, args = _unwrap(inside[0])
    return kind, (*args, *inside[1:])
  if origin in (typing.Union, types.UnionType):
    return _unwrap(*(each for each in inside if each is not types.NoneType))
  return annotation, ()
