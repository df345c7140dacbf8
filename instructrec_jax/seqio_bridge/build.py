"""A dataset folder -> its instructions, as TFDS, and its ranking requests."""

import dataclasses
import itertools
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import Targets, leave_one_out
from instructrec_jax.errors import InputError
from instructrec_jax.instructions import rows as rows_lib
from instructrec_jax.instructions.aspects import (
  Intention,
  Preference,
  TaskForm,
)
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.instructions.templates import (
  DEFAULT_FILE,
  Template,
  load_templates,
)
from instructrec_jax.requests import write_requests
from instructrec_jax.seqio_bridge.location import (
  MANIFEST_FILE,
  TEMPLATES_FILE,
  tfds_folder,
)
from instructrec_jax.seqio_bridge.tfds_writer import write_tfds
from instructrec_jax.text.vocabulary import Vocabulary, train_vocabulary

# Name of a scenario's requests, negatives, and the form of their template: a
# hundred titles do not fit the encoder, so those are matched, not reranked.
SCENARIOS = (
  ("sequential", 9, TaskForm.RERANKING),
  ("sequential_99", 99, TaskForm.MATCHING),
)
_SAMPLED_ROWS = 2000


def build(
  dataset: pathlib.Path,
  *,
  vocabulary: pathlib.Path | None = None,
  train_vocabulary_size: int | None = None,
  templates_file: pathlib.Path | None = None,
  rows_per_target: int = 1,
  input_length: int = 512,
  seed: int = 0,
  force: bool = False,
) -> dict[str, Any]:
  """Writes a dataset folder's instructions, as TFDS, and ranking requests.

  vocabulary.model     the SentencePiece model
  templates.yaml       the templates
  instructrec/         the TFDS dataset; splits A07_train, A07_validation, ...
  requests/*.parquet   SCENARIO_{validation,test}
  instructions.json    what is returned

  Args:
    dataset: a folder of `prepare`.
    vocabulary: the SentencePiece model to copy there.
    train_vocabulary_size: train one of so many pieces on the dataset's own
      instructions instead.
    templates_file: YAML; the package's templates if None.
    rows_per_target: rows of each target and family of templates.
    input_length: tokens that the encoder takes, its end counted in.
    seed: of templates, negatives and their order.
    force: replace what an earlier build made.

  Returns:
    instructions.json: rows of each split, what was cut, hashes, arguments.

  Raises:
    InputError: there is no vocabulary, or an earlier build, or a template
      wants to be told what no dataset folder knows.
  """
  if rows_per_target < 1:
    raise InputError(f"{rows_per_target} rows of each target: at least 1.")
  folder = DatasetFolder.open(dataset)
  if (folder.path / MANIFEST_FILE).exists() and not force:
    raise InputError(
      f"{folder.path} is built already ({MANIFEST_FILE}): pass --force to "
      "build it again."
    )
  if vocabulary is None and train_vocabulary_size is None:
    if not folder.vocabulary_path.exists():
      raise InputError(
        f"{folder.path}: no vocabulary; pass --vocab with Flan-T5's "
        "spiece.model (it comes with google/flan-t5-xl on Hugging Face), or "
        "--train-vocab SIZE to train a small one on these instructions."
      )
    vocabulary = folder.vocabulary_path
  templates_file = DEFAULT_FILE if templates_file is None else templates_file
  templates = load_templates(templates_file)
  _check_needs(templates, templates_file)
  staging = folder.path / "build"
  with storage.staged_folder(staging, force=True) as partial:
    shutil.copyfile(templates_file, partial / TEMPLATES_FILE)
    if train_vocabulary_size is None:
      assert vocabulary is not None
      Vocabulary.load(vocabulary)
      shutil.copyfile(vocabulary, partial / "vocabulary.model")
    else:
      train_vocabulary(
        _corpus(folder, templates, seed),
        partial / "vocabulary.model",
        size=train_vocabulary_size,
        seed=seed,
      )
    manifest = _write(
      folder,
      templates,
      partial,
      rows_per_target=rows_per_target,
      input_length=input_length,
      seed=seed,
    )
  _install(staging, folder.path)
  storage.write_json(folder.path / MANIFEST_FILE, manifest)
  return manifest


def _install(staging: pathlib.Path, folder: pathlib.Path) -> None:
  """Moves all of `staging` into a folder that does not count as built yet."""
  (folder / MANIFEST_FILE).unlink(missing_ok=True)
  for path in staging.iterdir():
    place = folder / path.name
    if place.is_dir():
      shutil.rmtree(place)
    path.replace(place)
  staging.rmdir()


def _check_needs(templates: list[Template], path: pathlib.Path) -> None:
  """Refuses templates that need a preference or an intention in words."""
  for template in templates:
    aspects = template.aspects
    if (
      Preference.EXPLICIT in aspects.preferences
      or aspects.intention != Intention.NONE
    ):
      raise InputError(
        f"{path}: template {template.name} needs a preference or an intention "
        f"in words ({aspects.label}), which dataset folders do not have; leave "
        "it out, or make its P2 optional."
      )


def _write(
  folder: DatasetFolder,
  templates: list[Template],
  out: pathlib.Path,
  *,
  rows_per_target: int,
  input_length: int,
  seed: int,
) -> dict[str, Any]:
  vocabulary = Vocabulary.load(out / "vocabulary.model")
  renderer = _renderer(folder, vocabulary, input_length)
  split = leave_one_out(renderer.sequences)
  targets = {
    "train": split.training,
    "validation": split.validation,
    "test": split.test,
  }
  total = sum(
    rows_lib.count_rows(t, templates, rows_per_target=rows_per_target)
    for t in targets.values()
  )
  sample = list(
    itertools.islice(
      _rows(folder, renderer, templates, targets, rows_per_target, seed), 300
    )
  )
  size = np.mean([len(row.inputs) + len(row.targets) + 60 for _, row in sample])
  tqdm.tqdm.write(
    f"{folder.path}: {total:,} instructions, about "
    f"{total * size / 2**20:,.0f} MiB",
    file=sys.stderr,
  )
  renderer.cuts = rows_lib.Cuts()
  names = [f"{t.name}_{name}" for t in templates for name in rows_lib.SPLITS]
  counts = write_tfds(
    tqdm.tqdm(
      _rows(folder, renderer, templates, targets, rows_per_target, seed),
      total=total,
      desc="instructions",
      unit="row",
      disable=None,
    ),
    folder=tfds_folder(out),
    splits=names,
  )
  requests = _write_requests(folder, renderer, templates, targets, out)
  return {
    "options": {
      "rows_per_target": rows_per_target,
      "input_length": input_length,
      "seed": seed,
    },
    "dataset_sha256": storage.sha256_of(folder.path / "manifest.json"),
    "templates_sha256": storage.sha256_of(out / TEMPLATES_FILE),
    "vocabulary_sha256": vocabulary.sha256,
    "templates": {t.name: t.aspects.label for t in templates},
    "rows": counts,
    "requests": requests,
    "cuts": dataclasses.asdict(renderer.cuts),
  }


def _rows(
  folder: DatasetFolder,
  renderer: rows_lib.Renderer,
  templates: list[Template],
  targets: dict[str, Targets],
  rows_per_target: int,
  seed: int,
) -> Iterator[tuple[str, rows_lib.Row]]:
  for name, of_split in targets.items():
    stored = None
    if name != "train":
      stored = folder.candidates(name, rows_lib.NEGATIVES)
    for row in rows_lib.instruction_rows(
      renderer,
      targets=of_split,
      split=name,
      templates=templates,
      rows_per_target=rows_per_target,
      candidates=stored,
      seed=seed,
    ):
      yield f"{row.template}_{name}", row


def _write_requests(
  folder: DatasetFolder,
  renderer: rows_lib.Renderer,
  templates: list[Template],
  targets: dict[str, Targets],
  out: pathlib.Path,
) -> dict[str, Any]:
  """Writes requests/SCENARIO_SPLIT.parquet; returns rows and template."""
  written: dict[str, Any] = {}
  for scenario, negatives, form in SCENARIOS:
    template = next((t for t in templates if t.aspects.task_form == form), None)
    if template is None:
      written[scenario] = f"not written: no template of {form}"
      continue
    for split in ("validation", "test"):
      name = f"{scenario}_{split}"
      try:
        candidates = folder.candidates(split, negatives)
      except InputError as error:
        written[name] = f"not written: {error}"
        continue
      rows = write_requests(
        out / "requests" / f"{name}.parquet",
        tqdm.tqdm(
          rows_lib.ranking_requests(
            renderer,
            template=template,
            targets=targets[split],
            candidates=candidates,
            name=name,
          ),
          total=len(candidates.users),
          desc=name,
          unit="request",
          disable=None,
        ),
        metadata={"template": template.name, "scenario": scenario},
      )
      written[name] = {"rows": rows, "template": template.name}
  return written


def _renderer(
  folder: DatasetFolder, vocabulary: Vocabulary | None, input_length: int
) -> rows_lib.Renderer:
  return rows_lib.Renderer(
    titles=display_titles(folder.items),
    sequences=folder.sequences,
    owned=folder.owned,
    count_tokens=vocabulary.count_tokens if vocabulary else lambda text: 0,
    budget=input_length,
  )


def _corpus(
  folder: DatasetFolder, templates: list[Template], seed: int
) -> Iterator[str]:
  """Yields texts that a vocabulary of the dataset's own is trained on."""
  renderer = _renderer(folder, None, 1)
  training = leave_one_out(renderer.sequences).training
  rng = np.random.default_rng(seed)
  count = min(_SAMPLED_ROWS, len(training.users))
  chosen = np.sort(rng.choice(len(training.users), count, replace=False))
  rows = rows_lib.instruction_rows(
    renderer,
    targets=Targets(training.users[chosen], training.positions[chosen]),
    split="train",
    templates=templates,
    seed=seed,
  )
  yield from renderer.titles
  for row in rows:
    yield row.inputs
    yield row.targets
