"""Gin files and bindings, parsed with errors that are one sentence."""

import copy
import logging
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import gin

from instructrec_jax.errors import InputError
from instructrec_jax.gin_files import search_path

# Parts of gin's own errors at call time; others are not the user's to mend.
_GIN_ERRORS = ("supplied by Gin", "Required bindings")


def named_size(name: str) -> Any:
  """Returns the `T5Config` of gin/model/NAME.gin."""
  return configured_model([f"{search_path()}/gin/model/{name}.gin"])


def configured_model(files: Sequence[str]) -> Any:
  """Returns the `T5Config` that gin files bind."""
  parse(files)
  return call(gin.get_configurable("config.T5Config"))


def parse(
  files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
) -> None:
  """Parses files, then bindings, in place of what was parsed before.

  Files and what they include are looked for in the working directory, in
  `search_paths`, beside the files and where the package has its own.

  Raises:
    InputError: gin refuses them, they bind no model, or a binding sets a macro
      that the files do not have.
  """
  if not files:
    raise InputError(
      "no gin file: pass --gin_file gin/model/mini.gin --gin_file "
      "gin/run/train.gin, say."
    )
  gin.clear_config()
  beside = [str(pathlib.Path(file).parent) for file in files]
  for folder in [*search_paths, *beside, str(search_path())]:
    gin.add_config_file_search_path(folder)
  # gin logs an error for each folder that a file is not in.
  logging.disable(logging.ERROR)
  try:
    gin.parse_config_files_and_bindings(
      list(files), None, finalize_config=False
    )
  except Exception as error:
    # Nearly every built-in exception, depending on what is wrong.
    raise InputError(
      f"gin: {_first_lines(error)[:-1]} (of {', '.join(map(str, files))})."
    ) from None
  finally:
    logging.disable(logging.NOTSET)
  _value(
    "config.T5Config.emb_dim",
    f"there is no model in {', '.join(files)}: one of gin/model/ is included, "
    "or given by another --gin_file.",
  )
  for binding in bindings:
    name, equals, value = binding.partition("=")
    name = name.strip()
    if not equals:
      raise InputError(
        f"unknown option '--gin.{binding}'; bindings are given as "
        "--gin.NAME=VALUE."
      )
    if name.isidentifier():
      macro(name, required=False)
    try:
      gin.parse_config(binding)
    except Exception as error:
      reason = _first_lines(error)
      if re.fullmatch(r"\s*[-+]?(nan|inf|infinity)\s*", value, re.I):
        reason = "a finite number is needed."
      elif "malformed" in reason:
        reason = f"texts need quotes of their own: --gin.{name}='\"...\"'."
      raise InputError(f"--gin.{binding:.100}: {reason}") from None


def macro(name: str, *, required: bool = True) -> Any:
  """Returns a macro's value.

  Raises:
    InputError: no file binds it, or it is `required` and still to be bound.
  """
  value = _value(
    f"{name}/macro.value",
    f"the gin files given bind no macro {name}; gin/run/train.gin and "
    "gin/model/ have those that `instructrec train` knows.",
  )
  # gin keeps %OTHER and %gin.REQUIRED as references.
  reference = type(value).__name__ == "ConfigurableReference"
  if reference and value.scoped_selector.endswith("/gin.macro"):
    return macro(value.scoped_selector.split("/")[0], required=required)
  if reference and required:
    raise InputError(
      f"the gin macro {name} is required: pass --gin.{name}=VALUE (texts in "
      "quotes of their own: '\"...\"')."
    )
  return value


def made(name: str) -> Any:
  """Returns what a macro makes that calls something: @optimizer.linear().

  Raises:
    InputError: no file binds it, or it refuses what is bound for it.
  """
  reference = _value(f"{name}/macro.value", f"gin binds no macro {name}.")
  # gin evaluates a reference when it is copied.
  return call(copy.deepcopy, x=reference)


def call(configurable: Callable[..., Any], **arguments: Any) -> Any:
  """Calls what gin configures, without the lines that gin adds to errors."""
  try:
    return configurable(**arguments)
  except InputError as error:
    raise InputError(str(error).splitlines()[0]) from None
  except (RuntimeError, TypeError) as error:
    if any(mark in str(error) for mark in _GIN_ERRORS):
      raise InputError(f"gin: {_first_lines(error)}") from None
    raise


def _value(parameter: str, if_unbound: str) -> Any:
  try:
    return gin.query_parameter(parameter)
  except ValueError:
    raise InputError(if_unbound) from None


def _first_lines(error: BaseException) -> str:
  said = str(error)
  if isinstance(error, UnicodeDecodeError):
    said = "a file is not UTF-8"
  if isinstance(error, OSError) and error.strerror:
    said = f"{error.filename}: {error.strerror}"
  lines = [line.strip() for line in said.splitlines() if line.strip()]
  text = " ".join(lines[:3])[:300] if lines else type(error).__name__
  text = re.sub(r": <[\w.]+ object at 0x\w+>", "", text)
  return text if text.endswith(".") else f"{text}."
