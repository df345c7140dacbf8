"""Atomic writes: a file or folder is complete, or it does not exist."""

import contextlib
import hashlib
import json
import os
import pathlib
import reprlib
import shutil
from collections.abc import Iterator
from typing import Any

from instructrec_jax.errors import InputError

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
  """Returns the hex SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def staged_folder(
  path: pathlib.Path, *, force: bool = False
) -> Iterator[pathlib.Path]:
  """Yields a scratch folder that becomes `path` only if the block succeeds.

  A killed run leaves a hidden `.NAME.partial` folder, which the next run
  removes.

  Raises:
    InputError: `path` exists and `force` is not set, or the working directory
      lies in it.
  """
  path = pathlib.Path(path).absolute()
  _refuse_existing(path, force)
  if pathlib.Path.cwd().is_relative_to(path.resolve()):
    raise InputError(f"{path} is where this runs: name another place.")
  partial = path.with_name(f".{path.name}.partial")
  _remove(partial)
  partial.mkdir(parents=True)
  try:
    yield partial
  except BaseException:
    _remove(partial)
    raise
  if path.exists():
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    os.replace(path, old)
    os.replace(partial, path)
    _remove(old)
  else:
    os.replace(partial, path)


@contextlib.contextmanager
def staged_file(
  path: pathlib.Path, *, force: bool = True
) -> Iterator[pathlib.Path]:
  """Yields a scratch file name that becomes `path` only on success.

  Raises:
    InputError: `path` exists and `force` is not set, or it is a folder.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(f"{path} is a folder: name a file.")
  _refuse_existing(path, force)
  path.parent.mkdir(parents=True, exist_ok=True)
  # The suffix stays last: some writers choose their format by it.
  partial = path.with_name(f".{path.stem}.partial{path.suffix}")
  try:
    yield partial
  except BaseException:
    _remove(partial)
    raise
  os.replace(partial, path)


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
  try:
    value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
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


def _refuse_existing(path: pathlib.Path, force: bool) -> None:
  if path.exists() and not force:
    raise InputError(
      f"{path} exists already: name another place, or pass --force to "
      "replace it."
    )


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  elif path.exists():
    path.unlink()
