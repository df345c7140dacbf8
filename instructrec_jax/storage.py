"""Atomic writes: a file or folder is complete, or it does not exist."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import reprlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from instructrec_jax import checksums, locks
from instructrec_jax.errors import InputError, check_file

# What is in every folder of ours, also in one that is not finished: the record,
# or a dataset's manifest.
_MARKS = (checksums.RECORD, "manifest.json")
# What `read_json` calls a type.
_NAMES = {
  dict: "an object",
  list: "a list",
  str: "a text",
  int: "a whole number",
  float: "a number",
  bool: "true or false",
}


def sha256_of(path: pathlib.Path) -> str:
  """Returns the hex SHA-256 of a file; InputError if it is a pipe."""
  path = pathlib.Path(path)
  if path.exists():
    check_file(path)
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def matching(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns a path, or the files of a name with a `*`, by name."""
  if "*" not in path.name:
    return [path]
  # pathlib takes two of them for folders within folders, or refuses them.
  return sorted(path.parent.glob(re.sub(r"\*+", "*", path.name)))


@contextlib.contextmanager
def staged_folder(
  path: pathlib.Path,
  *,
  force: bool = False,
  made_by: str | None = None,
  may_go: Callable[[pathlib.Path], None] | None = None,
  inputs: Sequence[pathlib.Path | None] = (),
) -> Iterator[pathlib.Path]:
  """Yields a scratch folder that becomes `path` only if the block succeeds.

  `path` is locked meanwhile. A killed run leaves hidden `.NAME.partial` and
  `.NAME.old`, which the next run removes or restores.

  Args:
    path: the folder to write.
    force: replace it, if `made_by` made all that is in it.
    made_by: the command that writes it, of which a record is left in it; None
      for a folder that nobody else writes to.
    may_go: raises an InputError if what is there may not be replaced.
    inputs: what is read, and may not be replaced.

  Raises:
    InputError: `path` exists and may not be replaced, another run is writing
      it, or somebody else's files have the hidden names.
  """
  path = _checked(path, inputs)
  is_marked = made_by is not None or may_go is not None
  if path.exists() and not path.is_dir():
    raise InputError(f"{path} is a file: name a folder.")
  partial = path.with_name(f".{path.name}.partial")
  old = path.with_name(f".{path.name}.old")
  with contextlib.ExitStack() as held:
    held.enter_context(locks.writing(path))
    if is_marked:
      _refuse_unmarked(old)
      _refuse_unmarked(partial)
    if old.exists():
      # Killed while it replaced the folder, before or after the new one came.
      _remove(old) if path.exists() else os.replace(old, path)
    if path.exists():
      held.enter_context(locks.writing_in(path))
      _refuse_existing(path, force)
      if made_by is not None:
        _refuse_foreign(path, made_by)
      if may_go is not None:
        may_go(path)
    _remove(partial)
    partial.mkdir()
    if is_marked:
      (partial / checksums.RECORD).touch()
    try:
      yield partial
      if made_by is not None:
        record = {"command": made_by, "files": sorted(_files(partial))}
        write_json(partial / checksums.RECORD, record)
        if (partial / checksums.FILE).exists():
          checksums.add(partial, [checksums.RECORD])
      elif is_marked:
        (partial / checksums.RECORD).unlink()
      if path.exists():
        os.replace(path, old)
      os.replace(partial, path)
    except BaseException:
      if old.exists() and not path.exists():
        os.replace(old, path)
      _remove(partial)
      raise
    _remove(old)


@contextlib.contextmanager
def output_file(
  path: pathlib.Path,
  *,
  force: bool,
  is_ours: Callable[[pathlib.Path], bool],
  inputs: Sequence[pathlib.Path | None] = (),
  leaves: Sequence[pathlib.Path] = (),
) -> Iterator[None]:
  """Locks a file that a command was told to write, for the whole of its run.

  Args:
    path: the file, to be written with `staged_file`.
    force: replace it, if `is_ours`.
    is_ours: whether an existing file is what the same command writes.
    inputs: what is read, and may not be replaced.
    leaves: what a run killed at its very end leaves beside a finished file.

  Raises:
    InputError: `path` exists and may not be replaced, or another run is
      writing it.
  """
  path = _checked(path, inputs)
  with locks.writing(path):
    if path.exists():
      for left in () if force else leaves:
        _remove(left)
      if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise InputError(f"{path} is {kind}: name a file.")
      _refuse_existing(path, force)
      if path.stat().st_size and not is_ours(path):
        raise InputError(
          f"{path} is not what this command writes, so --force does not "
          "replace it: name another file."
        )
    yield


@contextlib.contextmanager
def staged_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a scratch file name that becomes `path` only on success.

  What is there is replaced: a command asks `output_file` before.

  Raises:
    InputError: `path`, or what has the scratch file's name, is a folder.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(f"{path} is a folder: name a file.")
  # The suffix stays last: some writers choose their format by it.
  partial = path.with_name(f".{path.stem}.partial{path.suffix}")
  if partial.is_symlink():
    # What it leads to is not ours.
    partial.unlink()
  if partial.is_dir():
    raise InputError(_in_the_way(partial))
  with locks.made_parents(path):
    try:
      yield partial
      os.replace(partial, path)
    except BaseException:
      _remove(partial)
      raise


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` as indented JSON, atomically."""
  with staged_file(path) as partial:
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: pathlib.Path, expected: Any = None) -> Any:
  """Reads a JSON file that one of our commands wrote.

  Args:
    path: the file.
    expected: what to refuse it without: a type; a dict of names that an object
      must have, each with what is expected of it; or `{str: ...}`, of an
      object's every value.

  Raises:
    InputError: it is missing, not JSON, or of another form.
  """
  path = pathlib.Path(path)
  if path.exists():
    check_file(path, is_small=True)
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(f"{path}: no such file.") from None
  except (ValueError, RecursionError) as error:
    raise InputError(f"{path}: not valid JSON ({error}).") from None
  if expected is not None:
    _check_form(path, "", value, expected)
  return value


def _check_form(path: pathlib.Path, at: str, value: Any, expected: Any) -> None:
  kind: Any = dict if isinstance(expected, dict) else expected
  # True is no number, though Python's bool is an int; 1 is a float.
  fits = isinstance(value, (int, float) if kind is float else kind)
  if not fits or (isinstance(value, bool) and kind in (int, float)):
    shown = reprlib.repr(value)
    raise InputError(
      f"{path}: {at or 'the file'} is {shown}, where {_NAMES[kind]} is "
      "expected: it is damaged, or another kind of file."
    )
  if not isinstance(expected, dict) or not isinstance(value, dict):
    return
  for name, inner in expected.items():
    if name is str:
      for key, each in value.items():
        _check_form(path, f"{at}.{key}".lstrip("."), each, inner)
    elif name not in value:
      raise InputError(
        f"{path}: there is no {f'{at}.{name}'.lstrip('.')} in it: it is "
        "damaged, or another kind of file."
      )
    else:
      _check_form(path, f"{at}.{name}".lstrip("."), value[name], inner)


def _checked(
  path: pathlib.Path, inputs: Sequence[pathlib.Path | None]
) -> pathlib.Path:
  """Returns the absolute path of an output that endangers nothing else."""
  path = pathlib.Path(os.path.abspath(path))
  if path.is_symlink():
    raise InputError(f"{path} is a link: name what it points to.")
  real = path.resolve()
  for source in inputs:
    if source and pathlib.Path(source).resolve().is_relative_to(real):
      raise InputError(
        f"{path} would replace {source}, which is read: name another place."
      )
  for what, place in (("runs", pathlib.Path.cwd()), ("lives", _home())):
    if place and place.is_relative_to(real):
      who = "this" if what == "runs" else "the user"
      raise InputError(
        f"{path} is where {who} {what}, or a folder above: name another place."
      )
  return path


def _home() -> pathlib.Path | None:
  try:
    return pathlib.Path.home().resolve()
  except RuntimeError:
    return None


def _refuse_existing(path: pathlib.Path, force: bool) -> None:
  if not force:
    raise InputError(
      f"{path} exists already: name another place, or pass --force to "
      "replace it."
    )


def _refuse_foreign(path: pathlib.Path, made_by: str) -> None:
  """Raises InputError unless all files of a folder are on its record."""
  found = _files(path)
  if not found:
    return
  try:
    record = read_json(path / checksums.RECORD)
    known = set(record["files"]) if record["command"] == made_by else None
  except (InputError, KeyError, TypeError):
    known = None
  if known is None:
    raise InputError(
      f"{path} was not made by `instructrec {made_by}`, so --force does not "
      "replace it: name another place, or delete it yourself."
    )
  if foreign := sorted(found - known):
    raise InputError(
      f"{path} holds {foreign[0]}, which `instructrec {made_by}` did not "
      "write, so --force does not replace it: move the file away, or name "
      "another place."
    )


def _files(folder: pathlib.Path) -> set[str]:
  """Returns the files and links below a folder, but for records and locks."""
  return {
    str(path.relative_to(folder))
    for path in folder.rglob("*")
    if (path.is_symlink() or not path.is_dir())
    and path.name not in (checksums.RECORD, locks.INSIDE)
  }


def _refuse_unmarked(path: pathlib.Path) -> None:
  """Raises InputError unless a killed run left this, if anything is there."""
  if not os.path.lexists(path):
    return
  is_folder = path.is_dir() and not path.is_symlink()
  is_ours = is_folder and any((path / mark).exists() for mark in _MARKS)
  if not is_folder or (_files(path) and not is_ours):
    raise InputError(_in_the_way(path))


def _in_the_way(path: pathlib.Path) -> str:
  return (
    f"{path} has a name that is needed, and is not what this command writes: "
    "move it away."
  )


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    # What marks it goes last: this may be killed, too.
    for each in path.iterdir():
      if each.name not in _MARKS:
        _remove(each)
    shutil.rmtree(path)
  elif os.path.lexists(path):
    path.unlink()
