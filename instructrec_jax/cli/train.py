"""Tunes a T5 on packed instructions, configured with gin.

Give a model file and a run file, then bindings: --gin.NAME=VALUE. A run that
was killed goes on where its last checkpoint is when it is started again.
"""

import argparse
import functools
import json
import logging
import pathlib
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
  "SEED",
  "INITIAL_CHECKPOINT",
  "VALIDATION_REQUESTS",
  "VALIDATION_LIMIT",
)


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
  parser.add_argument("--json", action="store_true", help="print final metrics")


def run(args: argparse.Namespace) -> None:
  """Trains, and prints the last step's metrics."""
  metrics = train_with_gin(
    files=args.gin_file,
    bindings=_bindings(args.extra),
    search_paths=args.gin_search_paths,
  )
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
  from instructrec_jax.evaluation.validation import make_validator
  from instructrec_jax.seq2seq import model_folder
  from instructrec_jax.training import loop

  _parse(files, bindings, search_paths)
  macros = {name: _macro(name) for name in (*_SOURCE, *_OTHERS)}
  data = _packed_data(macros)
  # The model's embedding follows the data, unless it is said otherwise.
  if not any(binding.startswith("VOCAB_SIZE") for binding in bindings):
    gin.parse_config(f"VOCAB_SIZE = {data.manifest['model_vocab_size']}")
  config = gin.get_configurable("config.T5Config")()
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
  try:
    train = gin.get_configurable(loop.train)
    return train(data=data, config_text=gin.config_str(), **optional)
  except (TypeError, RuntimeError) as error:
    if "gin" in str(error).lower() or "binding" in str(error):
      raise InputError(f"gin: {_first_line(error)}") from None
    raise


def _packed_data(macros: dict[str, Any]):
  """Opens the packed rows, or packs the mixture on a run's first start."""
  from instructrec_jax.text.packed_dataset import PackedDataset

  if macros["PACKED"]:
    return PackedDataset.open(pathlib.Path(macros["PACKED"]))
  if not (macros["MIXTURE"] and macros["DATASET"]):
    raise InputError(
      "there is nothing to train on: bind PACKED (a folder of `instructrec "
      "pack`), or both MIXTURE and DATASET."
    )
  packed = pathlib.Path(macros["MODEL_DIR"]) / "packed"
  if packed.exists():
    return PackedDataset.open(packed)
  # Only a mixture needs TensorFlow.
  from instructrec_jax.seqio_bridge.pack import pack_mixture

  packed.parent.mkdir(parents=True, exist_ok=True)
  return pack_mixture(
    mixture=macros["MIXTURE"],
    dataset=pathlib.Path(macros["DATASET"]),
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
  for path in [*search_paths, str(ROOT)]:
    gin.add_config_file_search_path(path)
  # gin logs an error for each place where an included file is not.
  logging.disable(logging.ERROR)
  try:
    gin.parse_config_files_and_bindings(files, bindings, finalize_config=False)
  except Exception as error:
    # gin raises nearly every built-in exception for what is wrong in a file.
    raise InputError(f"gin: {_first_line(error)}") from None
  finally:
    logging.disable(logging.NOTSET)


def _macro(name: str) -> Any:
  try:
    value = gin.query_parameter(f"{name}/macro.value")
  except ValueError:
    raise InputError(
      f"the gin macro {name} is not bound; include gin/run/train.gin."
    ) from None
  if value is gin.REQUIRED or type(value).__name__ == "ConfigurableReference":
    raise InputError(
      f"the gin macro {name} is required: pass --gin.{name}=VALUE (texts in "
      "quotes of their own: '\"...\"')."
    )
  return value


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
  return f"{' '.join(lines[:3])}" if lines else type(error).__name__
