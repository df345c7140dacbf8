"""A dataset folder -> its instruction rows and ranking requests.

Rows go to a function of the caller, `seqio_bridge.tfds_writer.write_tfds`, so
that nothing here needs TensorFlow.
"""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from instructrec_jax import locks, storage
from instructrec_jax.cards import (
  DATASET_CARD,
  dataset_card,
  refuse_changed,
)
from instructrec_jax.data.folder import (
  INSTRUCTIONS_FILE,
  MANIFEST_FILE,
  REQUESTS,
  TEMPLATES_FILE,
  VOCABULARY_FILE,
  DatasetFolder,
  requests_file,
)
from instructrec_jax.data.splits import SPLITS, Targets
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_numbers,
  check_seed,
)
from instructrec_jax.instructions import blocks, sequences
from instructrec_jax.instructions.material import COLD_ITEMS, Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.requests import ScenarioWriter
from instructrec_jax.instructions.rows import (
  WORDINGS_PER_ITEM,
  Cuts,
  Renderer,
  Row,
  group_families,
  instruction_rows,
  is_of_items,
  new_rows,
  usable_targets,
)
from instructrec_jax.instructions.scenarios import (
  CROWD,
  SCENARIOS,
  SEQUENCES,
  Scenario,
)
from instructrec_jax.instructions.templates import (
  Form,
  Template,
  dump_templates,
  load_templates,
)
from instructrec_jax.progress import progress
from instructrec_jax.requests import write_requests
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary, train_vocabulary

MATCHERS = ("tfidf", "bm25", "two_tower")
PIECES = ("words", "titles", "whole-titles")
# The most that a title counts among those that pieces of titles are learnt of:
# beyond it, one that everybody buys is a piece already.
_MOST_REPEATS = 60
_WORD = re.compile(r"\w+|[^\w\s]")
# Rows of each family that a vocabulary is trained on.
_CORPUS_ROWS = 2000
# Rows that the size of the dataset is estimated from.
_SIZE_SAMPLE = 300
# With fewer rows it takes longer to start a process than it saves.
_ROWS_OF_A_PROCESS = 50_000

WriteRows = Callable[..., dict[str, int]]
"""`seqio_bridge.tfds_writer.write_tfds`, or another with its arguments."""
MakeEngine = Callable[
  [Callable[[], blocks.Source], pathlib.Path], blocks.Engine
]
"""`seqio_bridge.beam.Engine` of a runner, or another with its arguments."""
WriteHardCandidates = Callable[..., None]
"""`hard_negatives.write_hard_candidates`, or another with its arguments."""


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of a build.

  Attributes:
    templates: files of templates, or the words that `load_templates` knows.
    families: only rows of these <P,I,T>, as in names of mixtures; all if empty.
    rows_per_target: of each family.
    paraphrases: whether to train on a crowd's wordings, too, and to write
      evaluation requests in wordings that are held out.
    crowd_wishes: with paraphrases, whether all vague wishes that are shown in
      training are a crowd's, and a teacher's are only written.
    unlisted: the share of training instructions (T3) whose candidates lack the
      target; see `rows.instruction_parts`.
    sequences: write rows and requests of `instructions.sequences` too.
    pieces: of a vocabulary that is trained, one of `PIECES`: within words; or
      across the words of a title, up to whole titles that many buy; or within
      words, and beyond the size each title that is bought in training.
    input_length: the encoder's maximum of tokens, EOS included.
    target_length: the decoder's, which answers are fitted to.
    cold_items: one of `material.COLD_ITEMS`.
    matcher: retrieves the hard negatives; one of `MATCHERS`.
    text_encoder: of the matcher "two_tower", a folder (see
      `baselines.text_reader.SentenceReader`); None learns word vectors.
  """

  templates: tuple[str, ...] = ("package",)
  families: tuple[str, ...] = ()
  rows_per_target: int = 1
  paraphrases: bool = False
  crowd_wishes: bool = False
  unlisted: float = 0.0
  sequences: bool = False
  pieces: str = PIECES[0]
  input_length: int = 512
  target_length: int = 64
  cold_items: str = "paper"
  matcher: str = MATCHERS[0]
  text_encoder: str | None = None
  seed: int = 0

  def check(self) -> None:
    """Raises InputError if a value is out of range, or no name is known."""
    check_counts(most=1000, rows_per_target=self.rows_per_target)
    check_counts(
      least=2, input_length=self.input_length, target_length=self.target_length
    )
    check_seed(self.seed)
    check_numbers(most=1, unlisted=self.unlisted)
    for name, value, allowed in (
      ("matcher is", self.matcher, MATCHERS),
      ("pieces are", self.pieces, PIECES),
      ("cold items are", self.cold_items, COLD_ITEMS),
    ):
      if value not in allowed:
        raise InputError(f"{name} {value!r}, not one of {', '.join(allowed)}.")
    if self.text_encoder is not None and self.matcher != "two_tower":
      raise InputError(
        "--text-encoder is of the matcher that reads titles with it: add "
        "--matcher two_tower."
      )
    _chosen_families(self.load_templates(), self.families)

  def load_templates(self) -> list[Template]:
    """Returns the templates, with a crowd's after them if asked for."""
    crowd = ("crowd",) if self.paraphrases else ()
    return load_templates(*dict.fromkeys((*self.templates, *crowd)))


def build(
  dataset: pathlib.Path,
  *,
  write_rows: WriteRows,
  write_hard_candidates: WriteHardCandidates,
  vocabulary: pathlib.Path | None = None,
  train_vocabulary_size: int | None = None,
  fold_case: bool = False,
  options: Options | None = None,
  workers: int = 1,
  engine: MakeEngine | None = None,
  force: bool = False,
) -> dict[str, Any]:
  """Writes a dataset folder's instruction rows and ranking requests.

  vocabulary.model     the SentencePiece model
  templates.yaml       the templates
  instructrec/         the rows; splits A01_train, A01_validation, ...
  requests/*.parquet   SCENARIO_{validation,test}
  candidates/hard_*    negatives that a matcher retrieves
  instructions.json    what is returned

  Args:
    dataset: a folder of `prepare`, annotated or not: rows that would need a
      missing preference or intention are not made.
    write_rows: stores the rows.
    write_hard_candidates: stores the hard negatives.
    vocabulary: the SentencePiece model to copy there.
    train_vocabulary_size: instead, train one of this many pieces on the
      dataset's own instructions.
    fold_case: of that one: whether it reads "Tent" and "tent" alike.
    options: what to write.
    workers: processes that render, at most; what is written is the same. A
      script that asks for more than one must guard what it runs with `if
      __name__ == "__main__"`, as Python's multiprocessing does.
    engine: makes what renders and writes in place of `workers` and
      `write_rows`, of what opens a `Source` anywhere and a folder for scratch.
    force: replace an earlier build.
  """
  options = options or Options()
  options.check()
  folder = DatasetFolder.open(dataset)
  with locks.writing_in(folder.path):
    return _build(
      folder,
      write_rows=write_rows,
      write_hard_candidates=write_hard_candidates,
      vocabulary=vocabulary,
      train_vocabulary_size=train_vocabulary_size,
      fold_case=fold_case,
      options=options,
      workers=workers,
      engine=engine,
      force=force,
    )


def _build(
  folder: DatasetFolder,
  *,
  write_rows: WriteRows,
  write_hard_candidates: WriteHardCandidates,
  vocabulary: pathlib.Path | None,
  train_vocabulary_size: int | None,
  fold_case: bool,
  options: Options,
  workers: int,
  engine: MakeEngine | None,
  force: bool,
) -> dict[str, Any]:
  if (folder.path / INSTRUCTIONS_FILE).exists() and not force:
    raise InputError(
      f"{folder.path} is built already ({INSTRUCTIONS_FILE}): pass --force to "
      "build it again."
    )
  own = {
    pathlib.Path(requests_file(scenario.name, split)).name
    for scenario in (*SCENARIOS, *CROWD)
    for split in ("validation", "test")
  }
  found = {path.name for path in (folder.path / REQUESTS).glob("*")}
  if foreign := sorted(found - own):
    raise InputError(
      f"{folder.path / REQUESTS} holds {foreign[0]}, which `instructrec build` "
      "did not write and would replace: move it away."
    )
  refuse_changed(folder.path / DATASET_CARD)
  if vocabulary is None and train_vocabulary_size is None:
    vocabulary = folder.vocabulary_path
    if not vocabulary.exists():
      raise InputError(
        f"{folder.path}: no vocabulary; pass --vocab with Flan-T5's "
        "spiece.model (it comes with google/flan-t5-xl on Hugging Face), or "
        "--train-vocab SIZE to train a small one on these instructions."
      )
  folder.check_candidates()
  templates = options.load_templates()
  families = _chosen_families(templates, options.families)
  annotations = Annotations.load(folder)
  material = Material(
    folder, annotations=annotations, cold_items=options.cold_items
  )
  # The smallest split first.
  if not any(
    usable_targets(material, split, forms).any()
    for split in reversed(SPLITS)
    for forms in families.values()
  ):
    advice = "for preferences and intentions run `instructrec annotate` first"
    if material.is_annotated:
      advice = "name other --families"
    raise InputError(
      f"{folder.path}: no target has what the families {', '.join(families)} "
      f"show; {advice}."
    )
  staging = folder.path / "build"
  # Workers on other machines may outlive a run that was killed: they find no
  # folder of this one's.
  token = uuid.uuid4().hex
  with (
    storage.staged_folder(staging, force=True) as staged,
    contextlib.ExitStack() as held,
  ):
    partial = staged / token
    partial.mkdir()
    (partial / TEMPLATES_FILE).write_text(
      dump_templates(templates), encoding="utf-8"
    )
    vocabulary_path = partial / VOCABULARY_FILE
    if train_vocabulary_size is not None:
      train_vocabulary(
        _corpus(material, families, _paraphrases(folder, options), options),
        vocabulary_path,
        size=train_vocabulary_size,
        across_words=options.pieces == "titles",
        fold_case=fold_case,
        whole=_bought_titles(material) if options.pieces == PIECES[2] else (),
        seed=options.seed,
      )
    else:
      assert vocabulary is not None
      Vocabulary.load(vocabulary)
      shutil.copyfile(vocabulary, vocabulary_path)
    write_hard_candidates(
      folder,
      matcher=options.matcher,
      text_encoder=options.text_encoder,
      seed=options.seed,
    )
    words = Vocabulary.load(vocabulary_path)
    renderer = _renderer(words, options)
    source = _source(folder, material, renderer, families, options)
    total = _most_rows(material, families, options)
    workers = max(1, min(workers, total // _ROWS_OF_A_PROCESS))
    make = functools.partial(
      _open_source, folder.path.absolute(), options, vocabulary=vocabulary_path
    )
    splits = [
      f"{name}_{split}"
      for name in (
        *(form.name for forms in families.values() for form in forms),
        *((SEQUENCES,) if options.sequences else ()),
      )
      for split in SPLITS
    ]
    if engine is None:
      processes = held.enter_context(
        blocks.Processes(source, make, workers=workers)
      )
      stream = _rows(folder, source, processes, total)
      counts = write_rows(stream, folder=partial, splits=splits)
    else:
      scratch = staged / f"{token}.scratch"
      scratch.mkdir()
      processes = engine(make, scratch)
      counts, cuts = processes.write_rows(
        source.blocks(), folder=partial, splits=splits
      )
      renderer.cuts.add(cuts)
    held_out = group_families(templates, held_out=True)
    manifest = {
      "options": dataclasses.asdict(options),
      "dataset_sha256": storage.sha256_of(folder.path / MANIFEST_FILE),
      "templates_sha256": storage.sha256_of(partial / TEMPLATES_FILE),
      "vocabulary_sha256": words.sha256,
      "families": {
        split: {
          name: sum(counts[f"{form.name}_{split}"] for form in forms)
          for name, forms in families.items()
        }
        | (
          {SEQUENCES: counts[f"{SEQUENCES}_{split}"]}
          if options.sequences
          else {}
        )
        for split in SPLITS
      },
      "rows": counts,
      "requests": _write_requests(
        processes,
        families | ({SEQUENCES: [sequences.FORM]} if options.sequences else {}),
        held_out,
        partial / REQUESTS,
        renderer.cuts,
      ),
      "cuts": dataclasses.asdict(renderer.cuts),
      "annotations": annotations.as_json(),
      "templates": {t.name: t.label for t in templates},
    }
    (partial / DATASET_CARD).write_text(
      dataset_card(
        folder.path.resolve().name,
        manifest=folder.manifest,
        statistics=folder.statistics,
        instructions=manifest,
      ),
      encoding="utf-8",
    )
  # While files are moved the folder must not count as built.
  (folder.path / INSTRUCTIONS_FILE).unlink(missing_ok=True)
  for path in (staging / token).iterdir():
    destination = folder.path / path.name
    if destination.is_dir():
      shutil.rmtree(destination)
    path.replace(destination)
  shutil.rmtree(staging)
  storage.write_json(folder.path / INSTRUCTIONS_FILE, manifest)
  return manifest


def _chosen_families(
  templates: Sequence[Template], names: Sequence[str]
) -> dict[str, list[Form]]:
  families = group_families(templates)
  for name in names:
    if name not in families:
      close = difflib.get_close_matches(name, families) or families
      raise InputError(
        f"no template is of the family {name!r}; there are "
        f"{', '.join(list(close)[:5])} and others: `instructrec templates` "
        "lists them."
      )
  return {n: f for n, f in families.items() if not names or n in names}


def _bought_titles(material: Material) -> list[str]:
  """Returns the titles of training purchases, those bought most first."""
  users, positions = material.purchases("train")
  items = Targets(users, positions).items(material.sequences)
  counts = np.bincount(items, minlength=len(material.titles))
  order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
  return [material.titles[item] for item in order.tolist()]


def _corpus(
  material: Material,
  families: dict[str, list[Form]],
  paraphrases: Paraphrases | None,
  options: Options,
) -> Iterator[str]:
  """Yields the texts that a vocabulary is trained on.

  For pieces of titles, a title comes as often as it is bought in training, and
  all other texts word by word, so that no piece spans a title and the words
  around it.
  """
  of_titles = options.pieces != PIECES[0]
  repeats = np.ones(len(material.titles), int)
  if of_titles:
    users, positions = material.purchases("train")
    items = Targets(users, positions).items(material.sequences)
    repeats += np.bincount(items, minlength=len(repeats)).clip(0, _MOST_REPEATS)
  for title, count in zip(material.titles, repeats.tolist(), strict=True):
    yield from itertools.repeat(title, count)
  parts = {name: is_of_items(forms) for name, forms in families.items()}
  for of_items in (False, True):
    part = {n: families[n] for n, is_so in parts.items() if is_so == of_items}
    rows = instruction_rows(
      material,
      Renderer(count_tokens=lambda text: 0, budget=1),
      facts=material.facts("train"),
      families=part,
      paraphrases=paraphrases,
      seed=options.seed,
    )
    for row in itertools.islice(rows, _CORPUS_ROWS * len(part)):
      for text in (row.inputs, row.targets):
        # Marks apart: "Grey;" would keep a list's titles from their pieces.
        yield from _WORD.findall(text) if of_titles else (text,)


def _source(
  folder: DatasetFolder,
  material: Material,
  renderer: Renderer,
  families: dict[str, list[Form]],
  options: Options,
) -> blocks.Source:
  return blocks.Source(
    folder=folder,
    material=material,
    renderer=renderer,
    families=families,
    rows_per_target=options.rows_per_target,
    paraphrases=_paraphrases(folder, options),
    unlisted=options.unlisted,
    with_sequences=options.sequences,
    seed=options.seed,
  )


def _paraphrases(folder: DatasetFolder, options: Options) -> Paraphrases | None:
  if not options.paraphrases:
    return None
  return Paraphrases(folder.items, shows_own_wishes=options.crowd_wishes)


def _open_source(
  dataset: pathlib.Path, options: Options, *, vocabulary: pathlib.Path
) -> blocks.Source:
  """Returns what another process makes rows of: the same as `_build` has."""
  folder = DatasetFolder.open(dataset)
  material = Material(
    folder,
    annotations=Annotations.load(folder),
    cold_items=options.cold_items,
  )
  renderer = _renderer(Vocabulary.load(vocabulary), options)
  families = _chosen_families(options.load_templates(), options.families)
  return _source(folder, material, renderer, families, options)


def _renderer(words: Vocabulary, options: Options) -> Renderer:
  return Renderer(
    count_tokens=words.count_tokens,
    budget=options.input_length,
    answer_budget=options.target_length,
  )


def _most_rows(
  material: Material, families: dict[str, list[Form]], options: Options
) -> int:
  """Returns the number of rows, if none is there twice."""
  total = sum(
    usable_targets(material, split, forms).sum()
    * options.rows_per_target
    * (WORDINGS_PER_ITEM if options.paraphrases and is_of_items(forms) else 1)
    for split in SPLITS
    for forms in families.values()
  )
  if options.sequences:
    total += sum(sequences.count_sequences(material, s) for s in SPLITS)
  return int(total)


def _rows(
  folder: DatasetFolder,
  source: blocks.Source,
  processes: blocks.Processes,
  total: int,
) -> Iterable[tuple[str, Row]]:
  """Returns rows with their splits, and says how many there may be."""

  def rows() -> Iterator[tuple[str, Row]]:
    # Not listed: then each split's candidates would be read twice.
    listed, asked = itertools.tee(source.blocks())
    rendered = processes.map(blocks.Source.rendered, asked)
    seen: set[int] = set()
    for block, found in zip(listed, rendered, strict=True):
      for row in new_rows(
        found,
        seen=seen if block.is_of_distinct else None,
        renderer=source.renderer,
      ):
        yield f"{row.form}_{block.split}", row

  stream = rows()
  sample = list(itertools.islice(stream, _SIZE_SAMPLE))
  size = np.mean([len(row.inputs) + len(row.targets) + 60 for _, row in sample])
  tqdm.tqdm.write(
    f"{folder.path}: at most {total:,} instructions, about "
    f"{total * size / 2**20:,.0f} MiB",
    file=sys.stderr,
  )
  return progress(
    itertools.chain(sample, stream),
    total=total,
    desc="instructions",
    unit="row",
  )


@dataclasses.dataclass(frozen=True)
class _RequestsFile:
  """A file of requests to write."""

  path: pathlib.Path
  scenario: Scenario
  split: str
  forms: Sequence[Form]

  @property
  def name(self) -> str:
    return f"{self.scenario.name}_{self.split}"

  @property
  def template(self) -> str:
    return ", ".join(form.name for form in self.forms)


def _write_file(
  source: blocks.Source, file: _RequestsFile
) -> tuple[int | str, Cuts]:
  """Returns the number of requests, or why there are none, and the cuts."""
  renderer = dataclasses.replace(source.renderer, cuts=Cuts())
  writer = ScenarioWriter(
    source.folder, source.material, renderer, paraphrases=source.paraphrases
  )
  try:
    _, requests = writer.requests(
      file.scenario, split=file.split, forms=file.forms
    )
  except InputError as error:
    # The manifest of a folder holds wherever that is.
    why = str(error).replace(f"{source.folder.path}/", "")
    return f"not written: {why}", renderer.cuts
  metadata = {"template": file.template, "scenario": file.scenario.name}
  # An engine may have two workers do the same. Nothing above is made, as the
  # run may have ended.
  file.path.parent.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory(dir=file.path.parent) as own:
    path = pathlib.Path(own, file.path.name)
    count = write_requests(path, requests, metadata=metadata)
    os.replace(path, file.path)
  return count, renderer.cuts


def _write_requests(
  processes: blocks.Processes | blocks.Engine,
  families: dict[str, list[Form]],
  held_out: dict[str, list[Form]],
  out: pathlib.Path,
  cuts: Cuts,
) -> dict[str, Any]:
  """Writes SCENARIO_SPLIT.parquet; returns their rows and templates.

  `cuts` gets what their instructions lost.
  """
  written: dict[str, Any] = {}
  files: list[_RequestsFile] = []
  for scenario in (*SCENARIOS, *CROWD):
    if scenario.crowd:
      forms = held_out.get(scenario.family, [])
      if not (forms and scenario.family in families):
        continue
    else:
      forms = families.get(scenario.family, [])[:1]
    if not forms:
      written[scenario.name] = f"not written: no template of {scenario.label}"
      continue
    for split in ("validation", "test"):
      path = out / f"{scenario.name}_{split}.parquet"
      files.append(_RequestsFile(path, scenario, split, forms))
      # In the order of the scenarios.
      written[files[-1].name] = None
  results = processes.map(_write_file, files)
  for file, (rows, lost) in zip(
    files,
    progress(results, total=len(files), desc="requests", unit="file"),
    strict=True,
  ):
    cuts.add(lost)
    written[file.name] = rows
    if isinstance(rows, int):
      written[file.name] = {"rows": rows, "template": file.template}
  return written
