"""A dataset folder -> its instructions, as TFDS, and its ranking requests."""

import dataclasses
import itertools
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from instructrec_jax import storage
from instructrec_jax.baselines.hard_negatives import (
  MATCHERS,
  write_hard_candidates,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.scenario_requests import ScenarioWriter
from instructrec_jax.evaluation.scenarios import SCENARIOS
from instructrec_jax.instructions import rows as rows_lib
from instructrec_jax.instructions.aspects import TaskForm
from instructrec_jax.instructions.material import (
  COLD_ITEMS,
  Facts,
  Material,
)
from instructrec_jax.instructions.templates import (
  Form,
  Template,
  dump_templates,
  load_templates,
)
from instructrec_jax.requests import write_requests
from instructrec_jax.seqio_bridge.location import (
  MANIFEST_FILE,
  TEMPLATES_FILE,
  tfds_folder,
)
from instructrec_jax.seqio_bridge.tfds_writer import write_tfds
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary, train_vocabulary

_SAMPLED_ROWS = 2000


@dataclasses.dataclass(frozen=True)
class Options:
  """What a build is asked for.

  Attributes:
    templates: files of templates, or the words that `load_templates` knows.
    families: only rows of these <P,I,T>, as in names of mixtures; all if empty.
    rows_per_target: rows of each target and family.
    input_length: tokens that the encoder takes, its end counted in.
    cold_items: one of `material.COLD_ITEMS`.
    matcher: whose best items are the hard negatives; one of
      `hard_negatives.MATCHERS`.
    seed: of forms, negatives and their order.
  """

  templates: tuple[str, ...] = ("package",)
  families: tuple[str, ...] = ()
  rows_per_target: int = 1
  input_length: int = 512
  cold_items: str = "paper"
  matcher: str = MATCHERS[0]
  seed: int = 0

  def check(self) -> None:
    """Raises InputError if a value is out of range."""
    if self.rows_per_target < 1:
      raise InputError(f"{self.rows_per_target} rows a target: at least 1.")
    if self.matcher not in MATCHERS:
      raise InputError(
        f"matcher is {self.matcher!r}, not one of {', '.join(MATCHERS)}."
      )
    if self.cold_items not in COLD_ITEMS:
      raise InputError(
        f"cold items are {self.cold_items!r}, not one of "
        f"{', '.join(COLD_ITEMS)}."
      )


def build(
  dataset: pathlib.Path,
  *,
  vocabulary: pathlib.Path | None = None,
  train_vocabulary_size: int | None = None,
  options: Options | None = None,
  force: bool = False,
) -> dict[str, Any]:
  """Writes a dataset folder's instructions, as TFDS, and ranking requests.

  vocabulary.model     the SentencePiece model
  templates.yaml       the templates
  instructrec/         the TFDS dataset; splits A01_train, A01_validation, ...
  requests/*.parquet   SCENARIO_{validation,test}
  candidates/hard_*    negatives that a lexical matcher retrieves
  instructions.json    what is returned

  Args:
    dataset: a folder of `prepare`, annotated or not: rows that would need a
      missing preference or intention are not made.
    vocabulary: the SentencePiece model to copy there.
    train_vocabulary_size: train one of so many pieces on the dataset's own
      instructions instead.
    options: what to write.
    force: replace what an earlier build made.

  Returns:
    instructions.json: rows of each split, what was cut, annotations by verdict,
    hashes, options.

  Raises:
    InputError: there is no vocabulary, or an earlier build, or an option or
      template is wrong.
  """
  options = options or Options()
  options.check()
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
  templates = load_templates(*options.templates)
  families = _chosen_families(templates, options.families)
  annotations = Annotations.load(folder)
  material = Material(
    folder, annotations=annotations, cold_items=options.cold_items
  )
  _refuse_nothing(folder, material, families)
  staging = folder.path / "build"
  with storage.staged_folder(staging, force=True) as partial:
    (partial / TEMPLATES_FILE).write_text(
      dump_templates(templates), encoding="utf-8"
    )
    if train_vocabulary_size is None:
      assert vocabulary is not None
      Vocabulary.load(vocabulary)
      shutil.copyfile(vocabulary, partial / "vocabulary.model")
    else:
      train_vocabulary(
        _corpus(material, families, options.seed),
        partial / "vocabulary.model",
        size=train_vocabulary_size,
        seed=options.seed,
      )
    write_hard_candidates(folder, matcher=options.matcher, seed=options.seed)
    manifest = _write(folder, material, families, partial, options)
    manifest["annotations"] = annotations.as_json()
    manifest["templates"] = {t.name: t.label for t in templates}
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


def _chosen_families(
  templates: Sequence[Template], names: Sequence[str]
) -> dict[str, list[Form]]:
  families = rows_lib.group_families(templates)
  for name in names:
    if name not in families:
      raise InputError(
        f"no template is of the family {name!r}; there are "
        f"{', '.join(families)}."
      )
  return {n: f for n, f in families.items() if not names or n in names}


def _refuse_nothing(
  folder: DatasetFolder, material: Material, families: dict[str, list[Form]]
) -> None:
  """Raises InputError if no target has what any family shows."""
  # The smallest split first.
  for split in reversed(SPLITS):
    counts = rows_lib.count_rows(material.facts(split), families)
    if any(counts.values()):
      return
  raise InputError(
    f"{folder.path}: no target has what the families {', '.join(families)} "
    "show; for preferences and intentions run `instructrec annotate` first."
  )


def _write(
  folder: DatasetFolder,
  material: Material,
  families: dict[str, list[Form]],
  out: pathlib.Path,
  options: Options,
) -> dict[str, Any]:
  vocabulary = Vocabulary.load(out / "vocabulary.model")
  renderer = rows_lib.Renderer(
    count_tokens=vocabulary.count_tokens, budget=options.input_length
  )
  writer = ScenarioWriter(folder, material, renderer)
  training = material.facts("train")
  all_facts = [training, writer.facts("validation"), writer.facts("test")]
  planned = {
    facts.split: rows_lib.count_rows(
      facts, families, rows_per_target=options.rows_per_target
    )
    for facts in all_facts
  }
  total = sum(sum(of_split.values()) for of_split in planned.values())

  def rows() -> Iterator[tuple[str, rows_lib.Row]]:
    for facts in all_facts:
      yield from _rows(folder, material, renderer, facts, families, options)

  sample = list(itertools.islice(rows(), 300))
  size = np.mean([len(row.inputs) + len(row.targets) + 60 for _, row in sample])
  tqdm.tqdm.write(
    f"{folder.path}: {total:,} instructions, about "
    f"{total * size / 2**20:,.0f} MiB",
    file=sys.stderr,
  )
  renderer.cuts = rows_lib.Cuts()
  counts = write_tfds(
    tqdm.tqdm(
      rows(), total=total, desc="instructions", unit="row", disable=None
    ),
    folder=tfds_folder(out),
    splits=[
      f"{form.name}_{split}"
      for forms in families.values()
      for form in forms
      for split in SPLITS
    ],
  )
  return {
    "options": dataclasses.asdict(options),
    "dataset_sha256": storage.sha256_of(folder.path / "manifest.json"),
    "templates_sha256": storage.sha256_of(out / TEMPLATES_FILE),
    "vocabulary_sha256": vocabulary.sha256,
    "families": planned,
    "rows": counts,
    "requests": _write_requests(writer, families, out),
    "cuts": dataclasses.asdict(renderer.cuts),
  }


def _rows(
  folder: DatasetFolder,
  material: Material,
  renderer: rows_lib.Renderer,
  facts: Facts,
  families: dict[str, list[Form]],
  options: Options,
) -> Iterator[tuple[str, rows_lib.Row]]:
  stored = None
  if facts.split != "train":
    stored = folder.candidates(
      facts.split, rows_lib.NEGATIVES[TaskForm.RERANKING]
    )
  for row in rows_lib.instruction_rows(
    material,
    renderer,
    facts=facts,
    families=families,
    rows_per_target=options.rows_per_target,
    candidates=stored,
    seed=options.seed,
  ):
    yield f"{row.form}_{facts.split}", row


def _write_requests(
  writer: ScenarioWriter, families: dict[str, list[Form]], out: pathlib.Path
) -> dict[str, Any]:
  """Writes requests/SCENARIO_SPLIT.parquet; returns rows and template."""
  written: dict[str, Any] = {}
  for scenario in SCENARIOS:
    forms = families.get(scenario.family)
    if not forms:
      written[scenario.name] = f"not written: no template of {scenario.label}"
      continue
    for split in ("validation", "test"):
      name = f"{scenario.name}_{split}"
      try:
        count, requests = writer.requests(scenario, split=split, form=forms[0])
      except InputError as error:
        written[name] = f"not written: {error}"
        continue
      progress = tqdm.tqdm(
        requests, total=count, desc=name, unit="request", disable=None
      )
      rows = write_requests(
        out / "requests" / f"{name}.parquet",
        progress,
        metadata={"template": forms[0].name, "scenario": scenario.name},
      )
      written[name] = {"rows": rows, "template": forms[0].name}
  return written


def _corpus(
  material: Material, families: dict[str, list[Form]], seed: int
) -> Iterator[str]:
  """Yields texts that a vocabulary of the dataset's own is trained on."""
  rows = rows_lib.instruction_rows(
    material,
    rows_lib.Renderer(count_tokens=lambda text: 0, budget=1),
    facts=material.facts("train"),
    families=families,
    seed=seed,
  )
  yield from material.titles
  for row in itertools.islice(rows, _SAMPLED_ROWS * len(families)):
    yield row.inputs
    yield row.targets
