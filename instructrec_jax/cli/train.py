"""Tunes a T5 on packed instructions, configured with gin.

Give a model file and a run file, then bindings: --gin.NAME=VALUE. A run that
was killed goes on where its last checkpoint is when it is started again.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_file,
  check_numbers,
)

EXAMPLE = (
  "instructrec train --gin_file gin/model/mini.gin --gin_file "
  "gin/run/train.gin --gin.MODEL_DIR='\"runs/games\"' "
  "--gin.PACKED='\"packed/games\"' --gin.TRAIN_STEPS=5000"
)
# Macros that this module reads itself; gin/run/train.gin explains them.
_MACROS = (
  *("PACKED", "MIXTURE", "DATASET", "INPUT_LENGTH", "TARGET_LENGTH"),
  *("SPELL", "MODEL_DIR", "TRAIN_STEPS", "SEED", "INITIAL_CHECKPOINT"),
  *("INITIAL_SVD", "VALIDATION_REQUESTS", "VALIDATION_LIMIT"),
  "VALIDATION_NORMALISATION",
)
_COUNTS = ("TRAIN_STEPS", "BATCH_SIZE", "MICROBATCHES")
_COUNTS += ("CHECKPOINT_PERIOD", "LOG_PERIOD")
_TEXTS = ("PACKED", "MIXTURE", "DATASET", "MODEL_DIR")
_TEXTS += ("INITIAL_CHECKPOINT", "INITIAL_SVD", "VALIDATION_REQUESTS")


@dataclass(frozen=True, kw_only=True)
class Options:
  gin_file: opt.GinFiles = ()
  """may be given several times; later files win"""
  bindings: Annotated[
    opt.GinFiles, opt.Arg(flag="--gin.", metavar="NAME=VALUE")
  ] = ()
  """bind a macro or parameter, after the files; texts in quotes of their own:
  '"..."'"""
  gin_search_paths: Annotated[
    opt.GinFiles, opt.Arg(flag="--gin_search_paths", metavar="DIR")
  ] = ()
  """where files and their includes are looked for, besides here and where the
  package's own are"""
  multi_process: opt.MultiProcess = False
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if a gin file is not there."""
    opt.check_gin_files(self.gin_file, self.gin_search_paths)


def run(options: Options) -> tuple[Any, str] | None:
  """Calls `training.loop.train` with what gin binds; returns its metrics."""
  import gin

  from instructrec_jax import processes
  from instructrec_jax.cli import gin_config

  if options.multi_process:
    processes.join()
  gin_config.parse(options.gin_file, options.bindings, options.gin_search_paths)
  macros = {name: gin_config.macro(name) for name in _MACROS}

  from instructrec_jax.checkpoints import model_folder
  from instructrec_jax.evaluation.validation import make_validator
  from instructrec_jax.training import loop

  _check(macros)
  data = _packed_data(macros)
  # The embedding has the data's vocabulary size, unless another is bound.
  if not any(each.startswith("VOCAB_SIZE") for each in options.bindings):
    gin.parse_config(f"VOCAB_SIZE = {data.manifest['model_vocab_size']}")
  config = gin_config.call(gin.get_configurable("config.T5Config"))
  optional: dict[str, Any] = {}
  if macros["INITIAL_CHECKPOINT"]:
    initial = Path(macros["INITIAL_CHECKPOINT"])
    optional["initial_params"] = model_folder.load_initial_params(
      initial, config
    )
    if config.lora_rank:
      optional["base"] = model_folder.base_of(initial, config)
  if macros["INITIAL_SVD"]:
    optional["make_params"] = _svd_start(
      Path(macros["INITIAL_SVD"]), data, config, macros["SEED"]
    )
  if macros["VALIDATION_REQUESTS"]:
    validate = make_validator(
      Path(macros["VALIDATION_REQUESTS"]),
      limit=macros["VALIDATION_LIMIT"],
      vocabulary=data.vocabulary,
      normalisation=macros["VALIDATION_NORMALISATION"],
      title_counts=data.title_counts,
      seed=macros["SEED"],
    )
    optional["validate"] = functools.partial(
      validate,
      config.replace(lora_rank=0),  # it is given merged weights
    )
  metrics = gin_config.call(
    gin.get_configurable(loop.train),
    data=data,
    config_text=gin.config_str(),
    **optional,
  )
  if not processes.is_first():
    return None
  lines = (f"{name:<24}{value:>12.4f}" for name, value in metrics.items())
  return metrics, "\n".join(lines)


def check_recipe(recipe: Path, *, dataset: Path, steps: int | None) -> None:
  """Refuses what `train` would, but for what only the devices tell.

  Args:
    recipe: a gin file.
    dataset: a folder whose mixtures it would be trained on.
    steps: of the run; the recipe's if None.

  Raises:
    InputError: what it binds cannot be, or is not all that is needed.
  """
  import json

  from instructrec_jax.cli import gin_config

  bound = {"MODEL_DIR": "model", "MIXTURE": "all", "DATASET": str(dataset)}
  bound |= {"TRAIN_STEPS": steps} if steps else {}
  bindings = [f"{name}={json.dumps(value)}" for name, value in bound.items()]
  gin_config.parse([str(recipe)], bindings)
  _check_macros({name: gin_config.macro(name) for name in _MACROS})
  for name in _COUNTS:
    check_counts(**{name: gin_config.macro(name)})
  gin_config.made("SCHEDULE")


def _check_macros(macros: dict[str, Any]) -> None:
  """Raises InputError if a text, path or length that gin binds cannot be."""
  from instructrec_jax.checkpoints import model_folder
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.scoring.normalisation import Normalisation

  for name in _TEXTS:
    text = macros[name]
    if text is not None and not (isinstance(text, str) and text.strip()):
      raise InputError(
        f"{name} is {text!r:.60}: a text is needed, in quotes of its own: "
        f"--gin.{name}='\"...\"'."
      )
  lengths = {n: macros[n] for n in ("INPUT_LENGTH", "TARGET_LENGTH")}
  check_counts(least=2, **lengths)
  check_numbers(most=1, SPELL=macros["SPELL"])
  check_counts(VALIDATION_LIMIT=macros["VALIDATION_LIMIT"])
  Normalisation.parse(macros["VALIDATION_NORMALISATION"])
  if requests := macros["VALIDATION_REQUESTS"]:
    check_file(Path(requests))
  if initial := macros["INITIAL_CHECKPOINT"]:
    model_folder.load_config(Path(initial))
  if svd := macros["INITIAL_SVD"]:
    if initial:
      raise InputError(
        "bind INITIAL_CHECKPOINT or INITIAL_SVD, not both: a run starts from "
        "an earlier run's weights or from a dataset's purchases."
      )
    DatasetFolder.open(Path(svd))
  mixture, dataset = macros["MIXTURE"], macros["DATASET"]
  if bool(macros["PACKED"]) == bool(mixture) or bool(mixture) != bool(dataset):
    raise InputError(
      "bind either PACKED (a folder of `instructrec pack`), or both MIXTURE "
      "and DATASET, to say what to train on."
    )


def _check(macros: dict[str, Any]) -> None:
  """Refuses what training would refuse, before anything is packed.

  Raises:
    InputError: a number, a text or a path that gin binds cannot be.
  """
  import gin

  from instructrec_jax.cli import gin_config
  from instructrec_jax.training import loop, svd_start
  from instructrec_jax.training.step import check_batch

  _check_macros(macros)
  # Makes the schedule, the optimizer and the mesh, which check their own.
  bound = gin_config.call(lambda: gin.get_bindings(loop.train))
  loop.check_arguments(
    **{name: bound[name] for name in loop.ARGUMENTS if name in bound}
  )
  bound["config"].validate()
  if macros["INITIAL_SVD"]:
    svd_start.check_config(bound["config"])
  if mesh := bound.get("mesh"):
    check_batch(bound["batch_size"], mesh, bound.get("microbatches", 1))


def _svd_start(
  path: Path, data: Any, config: Any, seed: int
) -> Callable[[], Any]:
  """Returns what makes weights that know what is bought together, and words.

  Only training purchases of the dataset folder count. Its files are read now:
  one that is damaged is refused before there is a model folder.
  """
  from instructrec_jax.baselines import piece_vectors, svd
  from instructrec_jax.data.folder import TEMPLATES_FILE, DatasetFolder
  from instructrec_jax.instructions.templates import load_templates
  from instructrec_jax.training.svd_start import svd_start

  file = path / TEMPLATES_FILE
  templates = load_templates(file if file.exists() else "package")
  folder = DatasetFolder.open(path)
  _ = folder.items, folder.sequences, folder.splits

  def make_params() -> Any:
    width = min(svd.WIDTH, config.emb_dim // 2)
    vectors = piece_vectors.piece_vectors(
      folder,
      data.vocabulary,
      rows=config.vocab_size,
      width=width,
      words=min(piece_vectors.WORDS, config.emb_dim - 1 - width),
      templates=[template.text for template in templates],
    )
    return svd_start(
      config,
      vectors.parts_PxD,
      vectors.means_PxD,
      vectors.counts_P,
      seed=seed,
    )

  return make_params


def _packed_data(macros: dict[str, Any]) -> Any:
  """Opens the packed rows, or packs the mixture on a run's first start."""
  import jax

  from instructrec_jax.text.packed_dataset import PackedDataset

  mixture, dataset = macros["MIXTURE"], macros["DATASET"]
  if macros["PACKED"]:
    return PackedDataset.open(Path(macros["PACKED"]))
  packed = Path(macros["MODEL_DIR"]) / "packed"
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
    dataset=Path(dataset),
    out=packed,
    input_length=macros["INPUT_LENGTH"],
    target_length=macros["TARGET_LENGTH"],
    spell=macros["SPELL"],
    seed=macros["SEED"],
  )
