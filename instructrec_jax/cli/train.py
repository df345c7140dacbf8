"""Tunes a T5 on packed instructions, configured with gin.

Give a model file and a run file, then bindings: --gin.NAME=VALUE. A run that
was killed goes on where its last checkpoint is when it is started again.
"""

import argparse
import functools
import json
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import gin

from instructrec_jax.errors import InputError

EXAMPLE = (
  "instructrec train --gin_file gin/model/mini.gin --gin_file "
  "gin/run/train.gin --gin.MODEL_DIR='\"runs/games\"' "
  "--gin.PACKED='\"packed/games\"' --gin.TRAIN_STEPS=5000"
)
TAKES_EXTRA = True

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Macros that this module reads itself; gin/run/train.gin explains them.
_SOURCE = ("PACKED", "MIXTURE", "DATASET", "INPUT_LENGTH", "TARGET_LENGTH")
_OTHERS = (
  "MODEL_DIR",
  "TRAIN_STEPS",
  "SEED",
  "INITIAL_CHECKPOINT",
  "VALIDATION_REQUESTS",
  "VALIDATION_LIMIT",
)
# Marks of gin's own errors at call time; others are not the user's to mend.
_GIN_ERRORS = ("supplied by Gin", "Required bindings")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="may be given several times; later files win",
  )
  parser.add_argument(
    "--gin_search_paths",
    action="append",
    default=[],
    metavar="DIR",
    help="where files and their includes are looked for, besides here and "
    "the repository",
  )
  parser.add_argument(
    "--multi_process",
    action="store_true",
    help="join the other processes of this run (docs/partitioning.md)",
  )
  parser.add_argument("--json", action="store_true", help="print final metrics")


def run(args: argparse.Namespace) -> None:
  """Trains, and prints the last step's metrics."""
  from instructrec_jax import processes

  if args.multi_process:
    processes.join()
  metrics = train_with_gin(
    files=args.gin_file,
    bindings=_bindings(args.extra),
    search_paths=args.gin_search_paths,
  )
  if not processes.is_first():
    return
  if args.json:
    print(json.dumps(metrics))
    return
  for name, value in metrics.items():
    print(f"{name:<24}{value:>12.4f}")


def train_with_gin(
  *, files: list[str], bindings: list[str], search_paths: list[str]
) -> dict[str, float]:
  """Parses gin files and bindings and calls `training.loop.train`.

  Raises:
    InputError: gin refuses them, or what they name is missing.
  """
  from instructrec_jax.checkpoints import model_folder
  from instructrec_jax.evaluation.validation import make_validator
  from instructrec_jax.training import loop

  _parse(files, bindings, search_paths)
  macros = {name: _macro(name) for name in (*_SOURCE, *_OTHERS)}
  data = _packed_data(macros)
  # The model's embedding follows the data, unless it is said otherwise.
  if not any(binding.startswith("VOCAB_SIZE") for binding in bindings):
    gin.parse_config(f"VOCAB_SIZE = {data.manifest['model_vocab_size']}")
  config = _call(gin.get_configurable("config.T5Config"))
  optional: dict[str, Any] = {}
  if macros["INITIAL_CHECKPOINT"]:
    optional["initial_params"] = model_folder.load_initial_params(
      pathlib.Path(macros["INITIAL_CHECKPOINT"]), config
    )
  if macros["VALIDATION_REQUESTS"]:
    validate = make_validator(
      pathlib.Path(macros["VALIDATION_REQUESTS"]),
      limit=macros["VALIDATION_LIMIT"],
      vocabulary=data.vocabulary,
      seed=macros["SEED"],
    )
    optional["validate"] = functools.partial(validate, config)
  return _call(
    gin.get_configurable(loop.train),
    data=data,
    config_text=gin.config_str(),
    **optional,
  )


def configured_model(files: list[str]) -> Any:
  """Returns the `T5Config` that gin files bind.

  Raises:
    InputError: gin refuses them, or they bind none.
  """
  _parse(files, [], [])
  return _call(gin.get_configurable("config.T5Config"))


def _call(configurable: Callable[..., Any], **arguments: Any) -> Any:
  """Calls what gin configures; gin adds lines of its own to any error."""
  try:
    return configurable(**arguments)
  except InputError as error:
    raise InputError(str(error).splitlines()[0]) from None
  except (RuntimeError, TypeError) as error:
    if any(mark in str(error) for mark in _GIN_ERRORS):
      raise InputError(f"gin: {_first_line(error)}") from None
    raise


def _packed_data(macros: dict[str, Any]):
  """Opens the packed rows, or packs the mixture on a run's first start."""
  import jax

  from instructrec_jax.text.packed_dataset import PackedDataset

  mixture, dataset = macros["MIXTURE"], macros["DATASET"]
  if bool(macros["PACKED"]) == bool(mixture) or bool(mixture) != bool(dataset):
    raise InputError(
      "bind either PACKED (a folder of `instructrec pack`), or both MIXTURE "
      "and DATASET, to say what to train on."
    )
  if macros["PACKED"]:
    return PackedDataset.open(pathlib.Path(macros["PACKED"]))
  packed = pathlib.Path(macros["MODEL_DIR"]) / "packed"
  if packed.exists():
    data = PackedDataset.open(packed)
    if data.manifest["mixture"] != mixture:
      raise InputError(
        f"{packed} holds the mixture {data.manifest['mixture']}, not "
        f"{mixture}: train into another MODEL_DIR, or delete this one."
      )
    return data
  if jax.process_count() > 1:
    raise InputError(
      f"{packed}: several processes need packed rows to start with: run "
      f"`instructrec pack {mixture}` and bind PACKED."
    )
  # Only a mixture needs TensorFlow.
  from instructrec_jax.seqio_bridge.pack import pack_mixture

  return pack_mixture(
    mixture=mixture,
    dataset=pathlib.Path(dataset),
    out=packed,
    input_length=macros["INPUT_LENGTH"],
    target_length=macros["TARGET_LENGTH"],
    seed=macros["SEED"],
  )


def _parse(
  files: list[str], bindings: list[str], search_paths: list[str]
) -> None:
  if not files:
    raise InputError(
      "no gin file: pass --gin_file gin/model/mini.gin --gin_file "
      "gin/run/train.gin, say."
    )
  gin.clear_config()
  folders = [str(pathlib.Path(file).parent) for file in files]
  for path in [*search_paths, *folders, str(ROOT)]:
    gin.add_config_file_search_path(path)
  # gin logs an error for each folder that a file is not in.
  logging.disable(logging.ERROR)
  try:
    gin.parse_config_files_and_bindings(files, None, finalize_config=False)
  except Exception as error:
    # Nearly every built-in exception, depending on what is wrong.
    raise InputError(f"gin: {_first_line(error)}") from None
  finally:
    logging.disable(logging.NOTSET)
  for binding in bindings:
    name = binding.partition("=")[0].strip()
    if name.isidentifier():
      _macro(name, required=False)
    try:
      gin.parse_config(binding)
    except Exception as error:
      reason = _first_line(error)
      if "malformed" in reason:
        reason = f"texts need quotes of their own: --gin.{name}='\"...\"'."
      raise InputError(f"--gin.{binding}: {reason}") from None
  _value(
    "config.T5Config.emb_dim",
    "there is no model: add --gin_file gin/model/mini.gin, say.",
  )


def _macro(name: str, *, required: bool = True) -> Any:
  value = _value(
    f"{name}/macro.value",
    f"the gin files given bind no macro {name}; gin/run/train.gin and "
    "gin/model/ have those that `instructrec train` knows.",
  )
  # gin keeps %gin.REQUIRED as a reference of its own.
  if required and type(value).__name__ == "ConfigurableReference":
    raise InputError(
      f"the gin macro {name} is required: pass --gin.{name}=VALUE (texts in "
      "quotes of their own: '\"...\"')."
    )
  return value


def _value(parameter: str, if_unbound: str) -> Any:
  try:
    return gin.query_parameter(parameter)
  except ValueError:
    raise InputError(if_unbound) from None


def _bindings(extra: list[str]) -> list[str]:
  """Returns what follows each --gin.; refuses any other option."""
  for argument in extra:
    if not argument.startswith("--gin.") or "=" not in argument:
      raise InputError(
        f"unknown option {argument!r}; bindings are given as --gin.NAME=VALUE."
      )
  return [argument.removeprefix("--gin.") for argument in extra]


def _first_line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return " ".join(lines[:3]) if lines else type(error).__name__
