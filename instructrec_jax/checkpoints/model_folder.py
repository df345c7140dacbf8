"""MODEL_DIR: what `train` writes and everything else loads a model from.

model.json         the T5Config
vocabulary.model   the SentencePiece model
title_counts.json  the catalogue's titles, with their training purchases
checkpoints/STEP/  orbax: items `params` and `optimizer`, and their `metrics`
lora.json          where STEP/params are adapters: what they adapt (`lora_file`)
checksums.txt      of the files here, and one in each STEP (see `checksums`)

An export folder (of `instructrec export` or `convert --to ours`), which has
safetensors instead of checkpoints, loads alike.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from instructrec_jax import checksums, storage
from instructrec_jax.checkpoints import export_folder, lora_file
from instructrec_jax.checkpoints.lora_file import LoraSettings
from instructrec_jax.checkpoints.weights import (
  check_shapes,
  flat_shapes,
  flatten,
)
from instructrec_jax.errors import InputError, check_file
from instructrec_jax.seq2seq import lora
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.parameters import parameter_shapes
from instructrec_jax.text.vocabulary import Vocabulary

CONFIG_FILE = "model.json"
VOCABULARY_FILE = "vocabulary.model"
TITLE_COUNTS_FILE = "title_counts.json"
CHECKPOINTS = "checkpoints"
BEST_METRIC = "validation/hr@1"


def save_config(model_dir: pathlib.Path, config: T5Config) -> None:
  """Writes MODEL_DIR/model.json."""
  with storage.staged_file(model_dir / CONFIG_FILE) as partial:
    partial.write_text(config.to_json(), encoding="utf-8")


def load_config(model_dir: pathlib.Path) -> T5Config:
  """Reads MODEL_DIR/model.json.

  Raises:
    InputError: there is none, or it is broken.
  """
  path = pathlib.Path(model_dir) / CONFIG_FILE
  if not path.is_file():
    raise InputError(
      f"{model_dir}: not a model folder, it has no {CONFIG_FILE}; "
      "`instructrec train` makes one."
    )
  check_file(path, is_small=True)
  try:
    return T5Config.from_json(path.read_bytes())
  except InputError as error:
    raise InputError(f"{path}: {error}") from None


def load_params(
  model_dir: pathlib.Path,
  *,
  step: int | str | None = None,
  shardings: Any = None,
  dtype: Any = None,
) -> tuple[T5Config, Any]:
  """Loads a model's parameters, and nothing of its optimizer.

  Args:
    model_dir: a folder of `train`, `export` or `convert`.
    step: a number, "best" (by validation), or None for the latest.
    shardings: of `mesh.parameter_shardings`: each device reads its own part.
    dtype: of the parameters; as they are stored if None.

  Returns:
    The config, and the tree of parameters: numpy arrays unless shardings are
    given.

  Raises:
    InputError: no such model or step, a damaged checkpoint, or parameters of
      another size than model.json says.
  """
  model_dir = pathlib.Path(model_dir).absolute()
  config = load_config(model_dir)
  step = find_step(model_dir, step)
  if export_folder.is_export(model_dir):
    return config, export_folder.load_params(
      model_dir, config, shardings=shardings, dtype=dtype
    )
  if lora_file.is_lora(model_dir):
    adapters, settings = load_adapters(model_dir, step=step)
    _, params = load_params(
      pathlib.Path(settings.base),
      step=settings.base_step,
      shardings=shardings,
      dtype=dtype,
    )
    return config, lora.merge(params, adapters, scale=settings.scale)
  with verified(model_dir, step):
    return config, _load_orbax(
      model_dir / CHECKPOINTS / str(step) / "params",
      parameter_shapes(config),
      shardings,
      dtype,
    )


def load_adapters(
  model_dir: pathlib.Path, *, step: int | str | None = None
) -> tuple[Any, LoraSettings]:
  """Loads what a run of LoRA has trained.

  Returns:
    The tree of float32 numpy arrays, as `lora.split` gives it, and what they
    adapt.

  Raises:
    InputError: it is no such run, it is damaged, or the adapted model is not
      where it was, or another one.
  """
  model_dir = pathlib.Path(model_dir).absolute()
  if not lora_file.is_lora(model_dir):
    raise InputError(
      f"{model_dir}: not a run of LoRA, it has no {lora_file.FILE}: train with "
      "LORA_RANK to make one."
    )
  step = find_step(model_dir, step)
  with verified(model_dir, step):
    settings = lora_file.read(model_dir)
    _check_base(model_dir, settings)
    shapes = parameter_shapes(settings.to_config(load_config(model_dir)))
    adapters = _load_orbax(
      model_dir / CHECKPOINTS / str(step) / "params",
      lora.split(shapes)[0],
      None,
      np.float32,
    )
  return adapters, settings


def base_of(folder: pathlib.Path, config: T5Config) -> LoraSettings:
  """Returns what lora.json says of adapters of a model, by its latest step.

  Args:
    folder: of the model to be adapted.
    config: of the network with adapters.

  Raises:
    InputError: there is no model.
  """
  folder = pathlib.Path(folder).absolute()
  step = find_step(folder, None)
  return LoraSettings(
    rank=config.lora_rank,
    alpha=float(config.lora_alpha),
    base=str(folder),
    base_step=step,
    base_sha256=storage.sha256_of(identity_file(folder, step)),
  )


def _check_base(model_dir: pathlib.Path, settings: LoraSettings) -> None:
  base = pathlib.Path(settings.base)
  identity = identity_file(base, settings.base_step)
  if not identity.is_file():
    raise InputError(
      f"{model_dir} holds adapters of the model {base}, step "
      f"{settings.base_step}, which is not there: put it back."
    )
  if storage.sha256_of(identity) != settings.base_sha256:
    raise InputError(
      f"{model_dir} holds adapters of another model than the one that is in "
      f"{base} now: put the one back that they were trained on."
    )


@contextlib.contextmanager
def verified(model_dir: pathlib.Path, step: int) -> Iterator[None]:
  """Verifies what is read of a folder of `train` while the block reads it.

  Raises:
    InputError: a file is missing or damaged; see `checksums.verified`.
  """
  # One process for all, which read the same files.
  if jax.process_index():
    yield
    return
  verify_run(model_dir)
  with checksums.verified(
    model_dir / CHECKPOINTS / str(step),
    remedy="choose another step, or restore it from a copy",
    skip=("optimizer/",),
  ):
    yield


def verify_run(model_dir: pathlib.Path) -> None:
  """Verifies the small files of a folder of `train`.

  Raises:
    InputError: one is missing or damaged.
  """
  # Its checkpoints say it if there are no checksums.
  checksums.verify(model_dir, remedy="restore it from a copy", is_told=False)


def _load_orbax(path: Any, shapes: Any, shardings: Any, dtype: Any) -> Any:
  # Imported here: exports are served without orbax.
  import orbax.checkpoint as ocp

  if shardings is None:
    restore_args = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype), shapes
    )
  else:
    restore_args = jax.tree.map(
      lambda sharding: ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype),
      shardings,
    )
  # The handler, not a manager: the other items need not be there.
  handler = ocp.PyTreeCheckpointHandler()
  try:
    found = flatten(handler.metadata(path).tree)
    check_shapes(path.parent, found, flatten(shapes))
    return handler.restore(
      path, args=ocp.args.PyTreeRestore(restore_args=restore_args)
    )
  except (OSError, ValueError) as error:
    raise InputError(
      f"{path}: the checkpoint is incomplete or damaged, choose another step "
      f"({str(error).splitlines()[0]:.120})."
    ) from error


def load_initial_params(model_dir: pathlib.Path, config: T5Config) -> Any:
  """Loads the weights of an earlier run for a new one of the same size.

  They are cast to float32, also where a converted checkpoint has bfloat16, in
  which small updates would vanish; as they are where LoRA leaves them alone.

  Raises:
    InputError: there are none, or they are of another size or in int8.
  """
  if export_folder.is_export(model_dir):
    export_folder.refuse_int8(model_dir)
  _, params = load_params(
    model_dir, dtype=None if config.lora_rank else np.float32
  )
  config = dataclasses.replace(config, lora_rank=0)
  check_shapes(model_dir, flatten(params), flat_shapes(config))
  return params


def load_vocabulary(model_dir: pathlib.Path) -> Vocabulary:
  """Loads a model folder's vocabulary and checks that it fits.

  Raises:
    InputError: it is missing, or has more pieces than the model has rows.
  """
  vocabulary = Vocabulary.load(pathlib.Path(model_dir) / VOCABULARY_FILE)
  check_vocabulary(load_config(model_dir), vocabulary)
  return vocabulary


def load_title_counts(model_dir: pathlib.Path) -> dict[str, int]:
  """Loads how often each title of the model's catalogue is bought.

  There are none in folders of before, or of a model that knows no catalogue.

  Raises:
    InputError: the file is damaged.
  """
  path = pathlib.Path(model_dir) / TITLE_COUNTS_FILE
  return storage.read_json(path, {str: int}) if path.is_file() else {}


def check_vocabulary(config: T5Config, vocabulary: Vocabulary) -> None:
  """Checks that a model has an embedding for every id of a vocabulary.

  Raises:
    InputError: it has more pieces than the model's embedding has rows.
  """
  if vocabulary.model_vocab_size > config.vocab_size:
    raise InputError(
      f"{vocabulary.path}: {vocabulary.model_vocab_size} ids do not fit a "
      f"model of vocab_size {config.vocab_size}; use the vocabulary that the "
      "model was trained with."
    )


def find_step(model_dir: pathlib.Path, step: int | str | None) -> int:
  """Returns the number of a finished checkpoint.

  Raises:
    InputError: there is no such step, or none was validated.
  """
  if export_folder.is_export(model_dir):
    return export_folder.find_step(model_dir, step)
  folder = pathlib.Path(model_dir) / CHECKPOINTS
  finished = sorted(
    int(path.name)
    for path in (folder.iterdir() if folder.is_dir() else ())
    if path.name.isdigit()
  )
  if not finished:
    raise InputError(
      f"{model_dir}: no finished checkpoint in {CHECKPOINTS}/; train it first."
    )
  if step is None:
    return finished[-1]
  if step == "best":
    validated = [
      (value, number)
      for number in finished
      if (value := _validation(folder / str(number))) is not None
    ]
    if not validated:
      raise InputError(
        f"{model_dir}: no checkpoint was validated, so none is the best: name "
        f"a step ({', '.join(map(str, finished))}) or take the latest."
      )
    return max(validated)[1]
  if str(step) not in map(str, finished):
    raise InputError(
      f"{model_dir}: no checkpoint of step {step}; there are "
      f"{', '.join(map(str, finished))}."
    )
  return int(step)


def identity_file(model_dir: pathlib.Path, step: int) -> pathlib.Path:
  """Returns a small file whose content identifies a checkpoint."""
  if export_folder.is_export(model_dir):
    # Holds the hash of the weights.
    return pathlib.Path(model_dir) / export_folder.MANIFEST_FILE
  # Holds the time of saving, which tells runs of the same steps apart.
  folder = pathlib.Path(model_dir) / CHECKPOINTS / str(step)
  return folder / "_CHECKPOINT_METADATA"


def _validation(checkpoint: pathlib.Path) -> float | None:
  """Returns the metric that orbax saved with a checkpoint, if it did."""
  path = checkpoint / "metrics" / "metrics"
  checksums.verify(
    checkpoint,
    remedy="choose a step by its number, or restore it from a copy",
    skip=("params/", "optimizer/"),
    is_told=False,
  )
  metrics = storage.read_json(path, {str: float}) if path.exists() else {}
  return metrics.get(BEST_METRIC)
