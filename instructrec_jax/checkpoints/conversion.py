"""A checkpoint of one format -> one of another, an array at a time."""

import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import tqdm

from instructrec_jax import storage
from instructrec_jax.checkpoints import (
  export_folder,
  hugging_face,
  lora_file,
  model_folder,
  peft,
  t5x_checkpoint,
  zarr_tree,
)
from instructrec_jax.checkpoints.weights import (
  Leaf,
  Weights,
  check_shapes,
  flat_shapes,
  leaves_of,
  merged,
)
from instructrec_jax.errors import InputError, check_tree
from instructrec_jax.progress import progress
from instructrec_jax.seq2seq.config import DTYPES, T5Config
from instructrec_jax.text.vocabulary import Vocabulary

FORMATS = ("ours", "hf", "t5x", "peft")


def convert(
  source: pathlib.Path,
  dest: pathlib.Path,
  *,
  to: str,
  dtype: str = "float32",
  activation_dtype: str | None = None,
  vocabulary: pathlib.Path | None = None,
  size: T5Config | None = None,
  step: int | str | None = None,
  base: pathlib.Path | None = None,
  force: bool = False,
) -> Weights:
  """Converts a checkpoint; holds one array in memory at a time.

  Args:
    source: a MODEL_DIR or export of ours, a T5X checkpoint_STEP or the folder
      above it, a Hugging Face folder, or adapters of PEFT; the format is
      detected. Adapters, of PEFT or of a run of LoRA (T5X's, too), are merged.
    dest: the folder to write.
    to: "ours" (an export folder), "hf" or "t5x"; or "peft", of a run of LoRA:
      its adapters alone.
    dtype: that the arrays are stored in, "float32" or "bfloat16".
    activation_dtype: that our model.json will say; None leaves what the source
      says, float32 for other formats.
    vocabulary: the SentencePiece model; needed for ours where the source
      folder has none.
    size: refuses a source of other sizes.
    step: of the source, where it has several; "best" for ours.
    base: the model that adapters of PEFT adapt, of any other format.
    force: replaces `dest`.

  Returns:
    What was written, its config and step.

  Raises:
    InputError: the source is broken, not a T5 1.1, or does not fit the size
      or the vocabulary; nothing is written then.
  """
  source, dest = pathlib.Path(source), pathlib.Path(dest)
  _check_choice("to", to, FORMATS)
  _check_choice("dtype", dtype, DTYPES)
  if to == "peft":
    given = {
      "base": base is not None,
      "dtype": dtype != "float32",
      "activations": activation_dtype is not None,
      "vocabulary": vocabulary is not None,
    }
    for name, is_given in given.items():
      if is_given:
        raise InputError(
          f"--to peft writes adapters alone, in float32: leave out --{name}."
        )
    return _convert_to_peft(source, dest, step=step, size=size, force=force)
  if (base is not None) != peft.is_peft(source):
    raise InputError(
      f"{source}: adapters of PEFT are merged into the model that --base names."
      if base is None
      else f"{source}: --base is of adapters of PEFT, which this is not."
    )
  if base is not None:
    weights = _open_peft(source, base, step=step)
  else:
    weights = open_weights(source, step=step)
  config = weights.config
  if activation_dtype is not None:
    _check_choice("activation_dtype", activation_dtype, DTYPES)
    config = dataclasses.replace(config, dtype=activation_dtype)
  weights = dataclasses.replace(
    weights,
    config=config,
    vocabulary=_vocabulary(weights, vocabulary, needed=to == "ours"),
  )
  if size is not None:
    _check_size(weights, size)
  with (
    storage.staged_folder(
      dest, force=force, made_by="convert", inputs=(source, vocabulary)
    ) as partial,
    progress(total=len(weights.leaves), desc="convert", unit="array") as bar,
  ):
    counted = dataclasses.replace(
      weights,
      leaves={
        name: _counted(leaf, bar, f"{source}: {name}")
        for name, leaf in weights.leaves.items()
      },
    )
    if to == "t5x":
      t5x_checkpoint.write_t5x(partial, counted, dtype=dtype)
    elif to == "hf":
      hugging_face.write_hugging_face(partial, counted, dtype=dtype)
      if weights.vocabulary is not None:
        shutil.copyfile(
          weights.vocabulary, partial / hugging_face.VOCABULARY_FILE
        )
    else:
      assert weights.vocabulary is not None
      model_folder.save_config(partial, config)
      if counts := model_folder.load_title_counts(source):
        storage.write_json(partial / model_folder.TITLE_COUNTS_FILE, counts)
      shutil.copyfile(
        weights.vocabulary, partial / model_folder.VOCABULARY_FILE
      )
      export_folder.write_weights(partial, counted.leaves, dtype=dtype)
      export_folder.write_manifest(partial, name=dest.name, step=weights.step)
  return weights


def _convert_to_peft(
  source: pathlib.Path,
  dest: pathlib.Path,
  *,
  step: int | str | None,
  size: T5Config | None,
  force: bool,
) -> Weights:
  """Writes the adapters of a run of LoRA; returns them as weights."""
  config = model_folder.load_config(source)
  adapters, settings = model_folder.load_adapters(source, step=step)
  weights = Weights(
    where=source,
    config=config,
    leaves=leaves_of(adapters),
    step=model_folder.find_step(source, step),
  )
  if size is not None:
    _check_size(weights, size)
  with storage.staged_folder(
    dest, force=force, made_by="convert", inputs=(source,)
  ) as partial:
    peft.write_peft(
      partial,
      adapters,
      rank=settings.rank,
      alpha=settings.alpha,
      base=settings.base,
    )
  return weights


def _open_peft(
  source: pathlib.Path, base: pathlib.Path, *, step: int | str | None
) -> Weights:
  weights = open_weights(base, step=step)
  adapters, scale = peft.read_peft(source, weights.config)
  return _merged(weights, adapters, scale)


def _merged(weights: Weights, adapters: Any, scale: float) -> Weights:
  leaves = merged(weights.leaves, leaves_of(adapters), scale)
  return dataclasses.replace(weights, leaves=leaves)


def open_weights(
  source: pathlib.Path, *, step: int | str | None = None
) -> Weights:
  """Opens a checkpoint of any format and checks every name and shape.

  Raises:
    InputError: it is of no format that is known, or broken.
  """
  if not source.is_dir():
    raise InputError(
      f"{source}: no such folder; a checkpoint in a bucket is copied first, "
      "say with `gcloud storage cp -r`."
    )
  if (source / model_folder.CONFIG_FILE).is_file():
    return _open_ours(source, step)
  check_tree(source)
  if t5x_checkpoint.is_t5x(source):
    if step is not None and not str(step).isdigit():
      raise InputError(f"step is {step!r}: T5X's steps are numbers.")
    return t5x_checkpoint.open_t5x(
      source, step=None if step is None else int(step)
    )
  if (source / hugging_face.CONFIG_FILE).is_file():
    if step is not None:
      raise InputError(f"{source}: a Hugging Face folder has no steps.")
    return hugging_face.open_hugging_face(source)
  raise InputError(
    f"{source}: no checkpoint: there is neither {model_folder.CONFIG_FILE} "
    f"(ours), nor a complete checkpoint_STEP (T5X), nor "
    f"{hugging_face.CONFIG_FILE} (Hugging Face)."
  )


def _open_ours(source: pathlib.Path, step: int | str | None) -> Weights:
  config = model_folder.load_config(source)
  if config.logits_via_embedding or tuple(config.mlp_activations) != (
    "gelu",
    "linear",
  ):
    raise InputError(
      f"{source / model_folder.CONFIG_FILE}: only T5 1.1 is converted: an "
      "untied output layer, and mlp_activations gelu and linear."
    )
  step = model_folder.find_step(source, step)
  if lora_file.is_lora(source):
    adapters, settings = model_folder.load_adapters(source, step=step)
    base = open_weights(pathlib.Path(settings.base), step=settings.base_step)
    vocabulary = source / model_folder.VOCABULARY_FILE
    return dataclasses.replace(
      _merged(base, adapters, settings.scale),
      where=source,
      config=config,
      step=step,
      vocabulary=vocabulary if vocabulary.is_file() else None,
    )
  if export_folder.is_export(source):
    folder, leaves = source, export_folder.open_leaves(source)
  else:
    folder = source / model_folder.CHECKPOINTS / str(step)
    with model_folder.verified(source, step):
      leaves = zarr_tree.open_orbax(folder / "params")
  check_shapes(folder, leaves, flat_shapes(config))
  vocabulary = source / model_folder.VOCABULARY_FILE
  return Weights(
    where=source,
    config=config,
    leaves=leaves,
    step=step,
    vocabulary=vocabulary if vocabulary.is_file() else None,
  )


def _vocabulary(
  weights: Weights, named: pathlib.Path | None, *, needed: bool
) -> pathlib.Path | None:
  """Returns the vocabulary to put beside the weights; checks that it fits."""
  path = named or weights.vocabulary
  if path is None:
    if needed:
      raise InputError(
        f"{weights.where}: there is no SentencePiece model beside the weights: "
        "name the one that they were trained with (--vocabulary FILE)."
      )
    return None
  vocabulary = Vocabulary.load(path)
  rows = weights.config.vocab_size
  model_folder.check_vocabulary(weights.config, vocabulary)
  # The vocabulary stored with the weights may be smaller: gin can bind a
  # larger VOCAB_SIZE than is needed.
  if named is not None and vocabulary.model_vocab_size != rows:
    raise InputError(
      f"{path}: its {vocabulary.num_pieces + vocabulary.extra_ids:,} ids ask "
      f"for an embedding of {vocabulary.model_vocab_size:,} rows, but the "
      f"model has {rows:,}: it was trained with another vocabulary."
    )
  return path


def _check_size(weights: Weights, size: T5Config) -> None:
  differences = [
    f"{name} is {getattr(weights.config, name)}, not {getattr(size, name)}"
    for name in hugging_face.SIZES
    if getattr(weights.config, name) != getattr(size, name)
  ]
  if differences:
    raise InputError(
      f"{weights.where}: a model of another size: {'; '.join(differences)}."
    )


def _counted(leaf: Leaf, bar: tqdm.tqdm, where: str) -> Leaf:
  def read():
    array = leaf.read()
    # Every score of such a model would be NaN, too.
    if not np.isfinite(array).all():
      raise InputError(
        f"{where} holds NaN or infinity: its training went astray, or the "
        "file is damaged; convert an earlier step, or fetch it again."
      )
    bar.update()
    return array

  return dataclasses.replace(leaf, read=read)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise InputError(
      f"{name} is {value!r}: one of {', '.join(choices)} is needed."
    )
