"""Command-line options, each declared once, as the field of a dataclass.

A field's name is the option's spelling, its type says how many values of what
kind follow, its default is the option's and the docstring below it the help:

  limit: Count | None = None
  \"\"\"only the first so many requests\"\"\"

`Arg` in an annotation says what is left, and what is refused: a value that is
not of its type never gets as far as an import that takes time, let alone to
something that is sent or written. A field whose type is another such dataclass
is a group of options, under that class's docstring.

tyro does the same; but it takes .1 s to import, prints errors as boxes of
several lines, and has no `--gin.NAME=VALUE`.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from instructrec_jax import storage
from instructrec_jax.errors import (
  LARGEST_COUNT,
  LARGEST_SEED,
  InputError,
  check_counts,
  check_file,
  check_numbers,
  read_number,
)
from instructrec_jax.gin_files import find_gin_file, model_sizes

if TYPE_CHECKING:
  from instructrec_jax.serving.recommender import Recommender

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
    least, most: the smallest and the largest number allowed.
    check: returns what is wrong with a value, or "".
    may_be_blank: a text that says nothing is a value too.
    is_set: of several values, each may be there once.
    either: options with the same word here exclude each other.
  """

  help: str = ""
  metavar: str | tuple[str, ...] = ""
  flag: str = ""
  is_positional: bool = False
  is_repeated: bool = False
  convert: Callable[[str], Any] | None = None
  least: float | None = None
  most: float | None = None
  check: Callable[[Any], str] | None = None
  may_be_blank: bool = False
  is_set: bool = False
  either: str = ""


def _existing_file(path: Path) -> str:
  if path.is_dir():
    return "it is a folder, where a file is needed"
  if path.is_file():
    return ""
  return "it is a pipe or a device" if path.exists() else "no such file"


def _existing_files(path: Path) -> str:
  files = storage.matching(path)
  return next(
    filter(None, map(_existing_file, files)), "" if files else "no such file"
  )


def _requests_file(path: Path) -> str:
  is_known = path.suffix in (".parquet", ".jsonl")
  kind = "" if is_known else "a .parquet or .jsonl file is needed, by suffix"
  return _existing_file(path) or kind


def existing(
  what: str, *holds: str, made_by: str = ""
) -> Callable[[Path], str]:
  """Returns a check for a folder that holds one of some files."""

  def check(path: Path) -> str:
    if not path.exists():
      found = "there is no such folder"
    elif not path.is_dir():
      found = "it is a file"
    elif holds and not any((path / name).exists() for name in holds):
      found = f"it has no {' or '.join(holds)}"
    else:
      return ""
    return f"not a {what}, {found}{made_by and f'; {made_by} makes one'}"

  return check


def _new_file(*suffixes: str) -> Callable[[Path], str]:
  """Returns a check for a file to write, of one of some kinds if any."""

  def check(path: Path) -> str:
    if path.is_dir():
      return "it is a folder, where a file is to be written"
    if suffixes and path.suffix not in suffixes:
      return f"a {' or '.join(suffixes)} file is written, by suffix"
    return _place(path)

  return check


def _new_folder(path: Path) -> str:
  if path.exists() and not path.is_dir():
    return "it is a file, where a folder is to be written"
  return _place(path)


def _place(path: Path) -> str:
  for parent in path.parents:
    if parent.name == ".." and not parent.exists():
      # Once it was made, the same words would name another place.
      return f"{parent.parent} does not exist: leave it and the .. out"
  for parent in path.absolute().parents:
    if parent.exists():
      return "" if parent.is_dir() else f"{parent} is a file: Not a directory"
  return ""


def _url(text: str) -> str:
  try:
    parts = urllib.parse.urlsplit(text)
    # Both raise ValueError: [::1 is no host, 99999 no port.
    is_url = bool(parts.hostname) and parts.port != 0
  except ValueError:
    is_url = False
  if is_url and parts.scheme in ("http", "https"):
    return ""
  return "an address that begins with http:// or https:// is needed"


def _step(text: str) -> str:
  is_step = text == "best" or (text.isascii() and text.isdecimal())
  return "" if is_step else "a number or best is needed"


def _known(what: str, names: Sequence[str]) -> Callable[[str], str]:
  def check(name: str) -> str:
    if name in names:
      return ""
    hint = did_you_mean(name, names)
    return f"there is no {what} {name!r}{hint}: name some of {', '.join(names)}"

  return check


def _ranker_or_run(name: str) -> str:
  if Path(name).suffix in (".run", ".trec", ".txt", ".parquet"):
    return _existing_files(Path(name))
  return _known("ranker", RANKERS)(name)


def _size(name: str) -> str:
  sizes = model_sizes()
  return "" if name in sizes else f"one of {', '.join(sizes)} is known"


def _template_file(source: str) -> str:
  # The words that `load_templates` knows.
  named = source in ("package", "unlisted", "pairwise", "crowd")
  return "" if named else _existing_file(Path(source))


# As `evaluation.rankers.RANKERS`, which takes time to import.
RANKERS = (
  *("all", "random", "popularity", "bm25", "tfidf", "bm25_categories"),
  *("tfidf_categories", "cooccurrence", "svd", "sasrec", "bert4rec", "dssm"),
  *("tem", "two_tower", "zero_shot", "chat", "model", "unlisted", "reasoned"),
  *("catalogue", "labels", "planted"),
)

# Options that several commands share.
File = Annotated[Path, Arg(metavar="FILE")]
Folder = Annotated[Path, Arg(metavar="DIR")]
InputFile = Annotated[File, Arg(check=_existing_file)]
InputFiles = Annotated[File, Arg(check=_existing_files)]
InputFolder = Annotated[Folder, Arg(check=existing("folder"))]
OutputFile = Annotated[File, Arg(check=_new_file())]
OutputFolder = Annotated[Folder, Arg(check=_new_folder)]
Count = Annotated[int, Arg(least=1)]
CountOrZero = Annotated[int, Arg(least=0)]
Names = Annotated[
  tuple[str, ...],
  Arg(
    metavar="NAME,NAME",
    convert=lambda text: tuple(text.split(",")),
    is_set=True,
  ),
]
TextEncoder = Annotated[str, Arg(metavar="MODEL")]
Rankers = Annotated[Names, Arg(check=_known("ranker", RANKERS))]
RankersOrRuns = Annotated[Names, Arg(check=_ranker_or_run)]
Dataset = Annotated[
  Folder,
  Arg(
    "dataset folder of `prepare`",
    check=existing(
      "dataset folder", "manifest.json", made_by="`instructrec prepare`"
    ),
  ),
]
Model = Annotated[
  Folder,
  Arg(
    "model folder of `train` or `export`",
    check=existing("model folder", "model.json", made_by="`instructrec train`"),
  ),
]
Results = Annotated[
  Folder,
  Arg(
    check=existing(
      "folder of results", "scores", made_by="`instructrec evaluate`"
    )
  ),
]
Out = Annotated[OutputFolder, Arg("folder to write")]
Requests = Annotated[File, Arg(check=_requests_file)]
Scores = Annotated[File, Arg(check=_new_file(".parquet", ".jsonl"))]
Mixture = Annotated[
  str,
  Arg(
    "a SeqIO mixture or task, or several with weights: NAME=3,NAME=1",
    is_positional=True,
  ),
]
Split = Annotated[
  Literal["train", "validation", "test"], Arg("examples to read")
]
GinFiles = Annotated[
  tuple[str, ...], Arg(flag="--gin_file", metavar="FILE", is_repeated=True)
]
Size = Annotated[str, Arg(check=_size)]
Step = Annotated[
  str,
  Arg(
    "a checkpoint's number, or best (default: the latest)",
    metavar="N",
    check=_step,
  ),
]
Templates = Annotated[
  tuple[str, ...],
  Arg(
    "files of templates, or the words package, unlisted (the package's that "
    "do not list candidates), pairwise and crowd; a later file's template "
    "replaces an earlier one of the same name",
    metavar="YAML",
    check=_template_file,
    is_set=True,
  ),
]
Text = Annotated[str, Arg(metavar="TEXT", may_be_blank=True)]
Url = Annotated[str, Arg(metavar="URL", check=_url)]
# Of 1 token nothing is left beside the end of the text.
_Length = Annotated[int, Arg(least=2, most=2**16)]
InputLength = Annotated[_Length, Arg("tokens that the encoder takes")]
TargetLength = Annotated[_Length, Arg("tokens that the decoder takes")]
BatchTokens = Annotated[
  Count, Arg("tokens in a batch, about (default: what suits the device)")
]
Seed = Annotated[
  CountOrZero, Arg("seed of all that is random", most=LARGEST_SEED)
]
Force = Annotated[bool, Arg("replace --out if it exists")]
Json = Annotated[bool, Arg("print JSON for programs, not text for people")]
MultiProcess = Annotated[
  bool,
  Arg(
    "join the other processes of this run (docs/partitioning.md)",
    flag="--multi_process",
  ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
  """A model that answers, and its catalogue: what `Recommender.load` takes."""

  model: Model
  dataset: Dataset | None = None
  """dataset folder whose items are the catalogue (default: the export's)"""
  templates: Templates | None = None
  """to choose from (default: the export's own, or package)"""
  step: Step | None = None

  def recommender(self, **more: Any) -> "Recommender":
    """Loads it."""
    from instructrec_jax.serving.recommender import Recommender

    return Recommender.load(
      self.model,
      dataset=self.dataset,
      templates=self.templates,
      step=self.step,
      **more,
    )


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
    raise InputError(f"{message:.400}; see `{self.prog} --help`.")

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


def check_gin_files(files: Sequence[str], folders: Sequence[str] = ()) -> None:
  """Raises InputError if gin would not find one of its files."""
  for folder in folders:
    if not Path(folder).is_dir():
      raise InputError(f"--gin_search_paths is {folder}: no such folder.")
  beside = [str(Path(file).parent) for file in files]
  for file in files:
    path = find_gin_file(file, (*folders, *beside))
    if path is None:
      raise InputError(f"--gin_file is {file}: no such gin file.")
    check_file(path, is_small=True)


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
  flag = _flag(field, arg)
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
    found["type"] = arg.convert or _OF_TEXT.get(kind, kind)
    found["metavar"] = arg.metavar or _METAVARS[kind]
  if not arg.is_positional:
    return flag, found | {"dest": field.name, "required": is_required}
  if not is_required:
    found["nargs"] = "?"
  return field.name, found | {"metavar": field.name.upper()}


def _path(text: str) -> Path:
  if not text.strip():
    # To Path it would be the working folder.
    raise argparse.ArgumentTypeError("a path is needed, and it is empty")
  return Path(text)


def _number(kind: type) -> Callable[[str], Any]:
  def convert(text: str) -> Any:
    try:
      return read_number(text, kind)
    except ValueError:
      what = "a whole number" if kind is int else "a number"
      raise argparse.ArgumentTypeError(
        f"{what} is needed, not {text!r:.80}"
      ) from None

  return convert


_OF_TEXT: dict[Any, Callable[[str], Any]] = {
  Path: _path,
  int: _number(int),
  float: _number(float),
}


def _flag(field: dataclasses.Field, arg: Arg) -> str:
  """Returns how an option is called, in messages and by argparse."""
  if arg.is_positional:
    return field.name.upper()
  return arg.flag or f"--{field.name.replace('_', '-')}"


def _collect(options: Any, values: dict[str, Any]) -> Any:
  """Makes the dataclass of what argparse has read, once it is checked."""
  found = {}
  for field, kind, arg in _typed_fields(options):
    if dataclasses.is_dataclass(kind):
      found[field.name] = _collect(kind, values)
      continue
    value = values[field.name]
    value = tuple(value) if isinstance(value, list) else value
    if value is not None and value != field.default:
      value = _checked(_flag(field, arg), value, arg)
    found[field.name] = value
  return options(**found)


def _checked(flag: str, value: Any, arg: Arg) -> Any:
  """Returns a value, or each of several, if it is what its `Arg` allows.

  Raises:
    InputError: it is not.
  """
  if isinstance(value, tuple):
    for place, each in enumerate(value):
      if arg.is_set and each in value[:place]:
        raise InputError(f"{flag} names {each!r} twice: name it once.")
    return tuple(_checked(flag, each, arg) for each in value)
  if isinstance(value, int) and not isinstance(value, bool):
    most = LARGEST_COUNT if arg.most is None else int(arg.most)
    check_counts(least=int(arg.least or 0), most=most, **{flag: value})
  elif isinstance(value, float):
    # Without the sign of -0.0.
    value += 0.0
    most = math.inf if arg.most is None else arg.most
    check_numbers(least=arg.least or 0.0, most=most, **{flag: value})
  elif isinstance(value, str | Path):
    reason = _text(value, arg) or (arg.check(value) if arg.check else "")
    if reason:
      shown = repr(value) if isinstance(value, str) else str(value)
      raise InputError(f"{flag} is {shown:.200}: {reason}.")
  return value


def _text(value: str | Path, arg: Arg) -> str:
  """Returns what is wrong with a text or a path, whatever it is for."""
  text = str(value)
  if not arg.may_be_blank and not text.strip():
    return "a name is needed, and it is empty"
  if "\0" in text:
    return "it has a zero byte"
  try:
    text.encode()
  except UnicodeEncodeError:
    return "it is not UTF-8"
  return ""


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
