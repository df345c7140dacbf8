"""Exports a trained model to a self-contained folder.

export.json         model name, training step, the SHA-256 of every file
model.json          the T5Config
model.safetensors   the parameters, in the dtype of training or in int8
vocabulary.model    the SentencePiece model
title_counts.json   its catalogue's training purchases, if it knows them
templates.yaml      the templates to choose from
MODEL_CARD.md       what it is, how it was trained, and its limits, for people
items.jsonl         the catalogue, a JSON object a line: `title`, as
                    instructions show it, `item_ids`, of all items with it, and
                    `image`, its address, if the dataset has one

`Recommender.load` opens it with jax, flax and sentencepiece, without orbax or
any package that prepares data (`requirements/serve.txt`).
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax

from instructrec_jax import storage
from instructrec_jax.cards import MODEL_CARD, model_card, refuse_changed
from instructrec_jax.checkpoints import export_folder, model_folder
from instructrec_jax.errors import InputError, check_numbers
from instructrec_jax.instructions.compose import shown_titles
from instructrec_jax.instructions.templates import (
  dump_templates,
  load_templates,
)
from instructrec_jax.seq2seq import int8 as int8_weights
from instructrec_jax.seq2seq.parameters import parameter_shapes

TEMPLATES_FILE = "templates.yaml"
ITEMS_FILE = "items.jsonl"
EPSILON = 0.002
"""By how much weights in int8 may move HR@1 of validation requests."""
_VALIDATION_FILE = "requests/sequential_validation.parquet"


def export(
  model: pathlib.Path,
  out: pathlib.Path,
  *,
  dataset: pathlib.Path | None = None,
  templates: Sequence[str | pathlib.Path] = ("package",),
  step: int | str | None = None,
  int8: bool = False,
  requests: pathlib.Path | None = None,
  epsilon: float = EPSILON,
  force: bool = False,
) -> dict[str, Any]:
  """Writes an export folder.

  Args:
    model: a folder of `train` or `convert`.
    out: the folder to write.
    dataset: the dataset folder whose items are the catalogue; without one,
      the export can only rank candidates that it is given.
    templates: names or files, see `load_templates`.
    step: a number, "best" (by validation), or None for the latest.
    int8: has the weights in int8, .28 of float32's bytes, if HR@1 keeps.
    requests: validation requests that decide it, with targets; those of the
      dataset's sequential recommendation if None.
    epsilon: by how much int8 may move HR@1 of them, up or down.
    force: replaces `out`.

  Returns:
    The content of export.json.

  Raises:
    InputError: there is no such model or dataset folder, the model is already
      an export, `out` exists and `force` is not set, or int8 moves HR@1 by
      more than `epsilon`.
  """
  check_numbers(most=1, epsilon=epsilon)
  model, out = pathlib.Path(model), pathlib.Path(out)
  if int8 and requests is None:
    if dataset is None:
      raise InputError(
        "--int8 is measured on validation requests: name a file of them "
        "(--requests), or the dataset folder (--dataset)."
      )
    requests = pathlib.Path(dataset) / _VALIDATION_FILE
  if requests is not None and not int8:
    raise InputError("--requests are what --int8 is measured on: add it.")
  if export_folder.is_export(model) and (model / TEMPLATES_FILE).is_file():
    raise InputError(f"{model}: an export already; copy the folder.")
  with storage.staged_folder(
    out,
    force=force,
    made_by="export",
    may_go=lambda path: refuse_changed(path / MODEL_CARD),
    inputs=(model, dataset, requests),
  ) as partial:
    config, params = model_folder.load_params(model, step=step)
    vocabulary = model_folder.load_vocabulary(model)
    items = catalogue(dataset) if dataset else {}
    images = catalogue_images(dataset) if dataset else {}
    measured = None
    if requests is not None:
      # Imported late: scipy is not needed to serve.
      from instructrec_jax.evaluation import int8_gate

      weights = int8_weights.from_floats(params)
      measured = int8_gate.measure(
        requests,
        config=config,
        params=params,
        int8_params=weights,
        vocabulary=vocabulary,
        epsilon=epsilon,
      )
      params = weights
    model_folder.save_config(partial, config)
    export_folder.write_params(partial, params)
    shutil.copyfile(vocabulary.path, partial / model_folder.VOCABULARY_FILE)
    if counts := model_folder.load_title_counts(model):
      storage.write_json(partial / model_folder.TITLE_COUNTS_FILE, counts)
    (partial / TEMPLATES_FILE).write_text(
      dump_templates(load_templates(*templates)), encoding="utf-8"
    )
    with open(partial / ITEMS_FILE, "w", encoding="utf-8") as file:
      for title, item_ids in items.items():
        line: dict[str, Any] = {"title": title, "item_ids": item_ids}
        if title in images:
          line["image"] = images[title]
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    found_step = model_folder.find_step(model, step)
    (partial / MODEL_CARD).write_text(
      model_card(
        model.resolve().name,
        step=found_step,
        config=storage.read_json(partial / model_folder.CONFIG_FILE, dict),
        parameters=sum(
          leaf.size for leaf in jax.tree.leaves(parameter_shapes(config))
        ),
        vocabulary=vocabulary.sha256,
        titles=len(items),
        templates=[each.name for each in load_templates(*templates)],
        run=_run(model),
        metrics=_metrics(model, found_step),
        int8=measured,
      ),
      encoding="utf-8",
    )
    return export_folder.write_manifest(
      partial,
      name=model.resolve().name,
      step=found_step,
      items=len(items),
      int8=measured,
    )


def _run(model: pathlib.Path) -> dict[str, Any]:
  """Returns what `train` was started with, as far as the folder tells."""
  path = model / "run.json"
  return storage.read_json(path, dict) if path.is_file() else {}


def _metrics(model: pathlib.Path, step: int) -> dict[str, float]:
  """Returns the last validation up to a step, as far as the folder tells."""
  path = model / "metrics.jsonl"
  if not path.is_file():
    return {}
  found: dict[str, float] = {}
  for line in path.read_text(encoding="utf-8").splitlines():
    with contextlib.suppress(ValueError, TypeError, AttributeError):
      record = json.loads(line)
      if record.get("step", 0) <= step:
        found |= {
          key.removeprefix("validation/"): float(value)
          for key, value in record.items()
          if key.startswith("validation/")
        }
  return found


def catalogue(dataset: pathlib.Path) -> dict[str, list[str]]:
  """Returns the catalogue: each title as instructions show it -> item ids.

  Raises:
    InputError: it is not a dataset folder.
  """
  # Imported late: polars is not in a slim install.
  from instructrec_jax.data.folder import DatasetFolder

  items = DatasetFolder.open(dataset).items
  shown = shown_titles([item.title for item in items], name="catalogue")
  by_title: dict[str, list[str]] = {}
  for title, item in zip(shown, items, strict=True):
    by_title.setdefault(title, []).append(item.item_id)
  return by_title


def catalogue_images(folder: pathlib.Path) -> dict[str, str]:
  """Returns titles with the address of an image, the first that each has.

  Args:
    folder: of a dataset, or an export.

  Raises:
    InputError: it is neither, or its files are broken.
  """
  folder = pathlib.Path(folder)
  if (folder / ITEMS_FILE).is_file():
    lines = _exported_lines(folder)
    images = {each["title"]: each.get("image") for each in lines}
    return {title: str(image) for title, image in images.items() if image}
  from instructrec_jax.data.folder import DatasetFolder

  dataset = DatasetFolder.open(folder)
  items, by_title = dataset.items, {}
  for number, image in dataset.images.items():
    if 0 <= number < len(items):
      (title,) = shown_titles([items[number].title], name="catalogue")
      by_title.setdefault(title, image)
  return by_title


def catalogue_titles(folder: pathlib.Path) -> list[str]:
  """Returns the titles of a dataset folder, or of an export's catalogue.

  Raises:
    InputError: it is neither, or has no title.
  """
  folder = pathlib.Path(folder)
  is_exported = (folder / ITEMS_FILE).is_file()
  titles = [*(exported_items if is_exported else catalogue)(folder)]
  if not titles:
    raise InputError(f"{folder}: there is no title in its catalogue.")
  return titles


def exported_items(folder: pathlib.Path) -> dict[str, list[str]]:
  """Returns an export's catalogue: title -> item ids.

  Raises:
    InputError: the file is missing or broken.
  """
  return {
    each["title"]: list(each["item_ids"]) for each in _exported_lines(folder)
  }


def _exported_lines(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of an export's catalogue; raises InputError."""
  path = pathlib.Path(folder) / ITEMS_FILE
  try:
    with open(path, encoding="utf-8") as file:
      items = list(map(json.loads, file))
    for item in items:
      _ = item["title"], list(item["item_ids"]), item.get("image")
    return items
  except (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
  ) as error:
    raise InputError(
      f"{path}: not a catalogue ({error}): copy the export again."
    ) from None
