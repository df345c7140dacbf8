"""The `instructrec` command: one file a subcommand, loaded when it is named.

Each subcommand module has a docstring and an `EXAMPLE` for its --help,
`Options` (a dataclass, see `options`) and `run(options)`, which returns None
or a pair: what --json prints, and the text that people get instead.
"""

import contextlib
import errno
import importlib
import importlib.metadata
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from instructrec_jax import compiled
from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

# In the order of the pipeline: name -> what `instructrec --help` says of it.
SUBCOMMANDS = {
  "quickstart": "the whole pipeline, small, offline, on a synthetic shop",
  "prepare": "raw reviews -> a dataset folder",
  "annotate": "a teacher writes preferences and intentions, each paid once",
  "statistics": "a dataset folder's Table 5 and Table 2",
  "templates": "the instruction templates, each with a rendered example",
  "build": "a dataset folder -> instructions (TFDS) and ranking requests",
  "inspect": "a SeqIO mixture: rates, counts, lengths, examples",
  "pack": "a mixture -> memory-mapped packed batches",
  "plan": "a model, a mesh, a batch -> the memory that training needs",
  "train": "instruction-tune a T5, configured with gin",
  "convert": "a checkpoint: T5X's, Hugging Face's or ours -> another of them",
  "score": "requests -> log-likelihoods and ranks per candidate",
  "generate": "requests -> answers that the model writes",
  "evaluate": "rankers on the same candidates -> the HR/NDCG table",
  "compare": "two evaluations, or two rankers -> differences and p-values",
  "reproduce": "the paper's tables and figure for a dataset folder, a report",
  "ask": "a user's own words -> the model instruction and a ranking",
  "chat": "a conversation in the terminal, from a wish to an item",
  "export": "a trained model -> a folder that opens with jax alone",
  "serve": "a trained model over HTTP, and a page to ask it",
  "mcp": "a trained model as tools of an assistant (MCP)",
}
# Those that run a model: their programs are worth keeping.
_COMPILING = (
  *("quickstart", "train", "score", "generate", "evaluate", "reproduce"),
  *("ask", "chat", "serve", "mcp"),
)
SHELLS = ("bash", "zsh")
# What a disk refuses; libraries raise types of their own with its words.
_DISK = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO),
  *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENAMETOOLONG),
  *(errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY),
)
# The options that say where a command writes, the likeliest first.
_PLACES = ("out", "dest", "dataset")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand; returns the process's exit status."""
  name, *words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
  # TensorFlow logs at length otherwise; errors still show.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  # A terminal without Unicode shows escapes of what it lacks.
  if isinstance(sys.stdout, io.TextIOWrapper):
    with contextlib.suppress(OSError):
      sys.stdout.reconfigure(errors="backslashreplace")
  prog = "instructrec"
  options = None
  try:
    if name not in SUBCOMMANDS:
      print(_without_subcommand(name, words))
      return 0
    prog += f" {name}"
    if name in _COMPILING:
      compiled.keep()
    command = _load(name)
    parser = _parser(command, prog)
    options = opt.parse(parser, command.Options, words)
    found = command.run(options)
    if found is not None:
      data, text = found
      _show(json.dumps(data) if options.json else text)
    return 0
  except InputError as error:
    _tell(prog, str(error))
    return 2
  except KeyboardInterrupt:
    print(f"\n{prog}: interrupted.", file=sys.stderr)
    return 130
  except BrokenPipeError:
    # `instructrec ... | head` is no error.
    sys.stderr.close()
    return 0
  except MemoryError as error:
    # numpy says for what.
    said = str(error).rstrip(".")
    _tell(prog, f"there is not enough memory{said and f': {said}'}.")
    return 2
  except Exception as error:
    # A path that cannot be read or written, or a full disk; any other is a
    # fault of the program.
    trouble = (
      _folder_trouble(error)
      or disk_trouble(error, options)
      or _backend_trouble(error)
    )
    if trouble is None:
      raise
    _tell(prog, f"{trouble}.")
    return 2


def _show(text: str) -> None:
  """Prints it; InputError where it cannot be written."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    raise
  except OSError as error:
    # At its exit Python would try again, and say so.
    sys.stdout = open(os.devnull, "w")
    raise InputError(
      f"the standard output cannot be written ({error.strerror})."
    ) from None


def _tell(prog: str, sentence: str) -> None:
  """Prints it as one line, whatever a file's name has in it."""
  shown = re.sub(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029]",
    lambda found: found[0].encode("unicode_escape").decode(),
    sentence,
  )
  print(f"{prog}: {shown}", file=sys.stderr)


def disk_trouble(error: BaseException, options: Any = None) -> str | None:
  """Returns what a disk refused, and where; None if the error is another.

  Args:
    error: of Python, or of a library that has the system's words in its text.
    options: of the subcommand, which name a place where the error does not.
  """
  links, link = [], error
  while link is not None and link not in links:
    links.append(link)
    link = link.__cause__ or link.__context__
  for link in links:
    text = str(link)
    said = [code for code in _DISK if os.strerror(code) in text]
    refused = isinstance(link, OSError) and link.errno in _DISK
    if isinstance(link, OSError) and link.filename is not None:
      # Of other errors only the one that ended the command, of which gin
      # raises a copy without its path, and with more lines.
      if refused or str(error).startswith(str(link)):
        return f"{os.fsdecode(link.filename)}: {link.strerror or link}"
    if not said and not refused:
      continue
    reason = os.strerror(said[0]) if said else str(link.strerror)  # type: ignore
    named = re.search(r"(?:^|[\s\"'=\[(])(/[^\s\"':,;)\]]+)", text)
    places = (getattr(options, name, None) for name in _PLACES)
    place = named[1] if named else next(filter(None, places), "")
    return f"{place}: {reason}" if place else reason
  return None


def _folder_trouble(error: Exception) -> str | None:
  """Says so if the working folder was removed."""
  if not isinstance(error, FileNotFoundError) or error.filename is not None:
    return None
  try:
    os.getcwd()
  except FileNotFoundError:
    return "the working folder is gone: change to one that is there"
  return None


def _backend_trouble(error: Exception) -> str | None:
  """Says so if jax was told to use devices that aren't here."""
  named = re.search(r"Unable to initialize backend '(\w+)'", str(error))
  if not named:
    return None
  return (
    f"jax cannot use {named[1]!r}, which JAX_PLATFORMS names: unset it, or "
    "name one that is here, such as cpu"
  )


def _load(name: str) -> ModuleType:
  return importlib.import_module(f"instructrec_jax.cli.{name}")


def _parser(command: ModuleType, prog: str) -> opt.Parser:
  return opt.Parser(
    prog=prog,
    description=command.__doc__,
    epilog=f"example:\n  {command.EXAMPLE}",
  )


def _without_subcommand(name: str, words: list[str]) -> str:
  """Returns what `instructrec --help` and its like print."""
  if name in ("-h", "--help"):
    lines = (f"  {name:<11} {about}" for name, about in SUBCOMMANDS.items())
    return "\n".join(
      [
        "usage: instructrec SUBCOMMAND [options]\n",
        *lines,
        "\n`instructrec SUBCOMMAND --help` shows options and an example.",
        "--version prints the version; --print-completion "
        f"{{{','.join(SHELLS)}}} a\nscript that completes subcommands and "
        "options in that shell.",
      ]
    )
  if name == "--version":
    return f"instructrec {_version()}"
  if name.partition("=")[0] == "--print-completion":
    shell = name.partition("=")[2] or " ".join(words)
    if shell not in SHELLS:
      raise InputError(
        f"--print-completion is {shell!r}: one of {', '.join(SHELLS)} is known."
      )
    return _completion(shell)
  known = [*SUBCOMMANDS, "--help", "--version", "--print-completion"]
  hint = opt.did_you_mean(name, known)
  what = "option" if name.startswith("-") else "subcommand"
  raise InputError(
    f"there is no {what} {name!r}{hint}; `instructrec --help` lists all."
  )


def _version() -> str:
  try:
    return importlib.metadata.version("instructrec-jax")
  except importlib.metadata.PackageNotFoundError:
    return "(run from a clone)"


def _completion(shell: str) -> str:
  """Returns a script that completes every subcommand and its options."""
  import shtab

  parser = opt.Parser(prog="instructrec")
  subparsers = parser.add_subparsers()
  for name, about in SUBCOMMANDS.items():
    each = subparsers.add_parser(name, help=about)
    opt.declare(each, _load(name).Options)
    for action in each._actions:
      is_folder = action.metavar == "DIR"
      if is_folder or action.metavar in ("FILE", "YAML", "GIN", "CSV"):
        vars(action)["complete"] = shtab.DIRECTORY if is_folder else shtab.FILE
  return shtab.complete(parser, shell)


if __name__ == "__main__":
  sys.exit(main())
