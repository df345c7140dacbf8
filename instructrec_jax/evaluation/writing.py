"""Turned-around tasks: how good is what a model writes?

A model that was taught to write preferences, queries and histories (the paper's
section 2.2.2) writes them for held-out targets, greedily. A query is judged by
what it finds, and all of them beside the teacher's own texts:

- rouge_l, bleu: overlap with the teacher's, ROUGE-L's F1 (Lin, 2004) and
  corpus BLEU (Papineni et al., 2002), as shares; one taste can be told in many
  words, so neither is 1 where nothing is wrong;
- bm25_hr@10, model_hr@10: whether the target is among the best ten of the
  catalogue when BM25, or the model itself, searches with the query;
- valid, bought: the share of a history's titles that exist, and of those that
  the user has;
- copied: the share of word trigrams that the instruction has, too;
- distinct_1, distinct_2: different words, and different pairs, for each that is
  written in all texts (Li et al., 2016).
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from instructrec_jax import storage
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.data.folder import (
  BUILT,
  INSTRUCTIONS_FILE,
  TEMPLATES_FILE,
  DatasetFolder,
)
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  bootstrap_means,
  percentile_interval,
  ranking_metrics,
)
from instructrec_jax.instructions.aspects import Response, TaskForm
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.render import (
  SEPARATOR,
  Slots,
  plain_words,
  render,
)
from instructrec_jax.instructions.requests import sample
from instructrec_jax.instructions.rows import (
  Renderer,
  group_families,
  is_of_items,
  make_slots,
)
from instructrec_jax.instructions.scenarios import Writing
from instructrec_jax.instructions.templates import Form, load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.tables import Cell, Row, Table
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary

TEACHER = "teacher"
# Requests of each task, unless it is said otherwise.
SAMPLE = 200
FOUND = 10
# Texts that are kept beside the figures, to be read.
_KEPT = 20
_OF_QUERIES = ("bm25_hr@10", "model_hr@10")
_OF_HISTORIES = ("valid", "bought")
_OF_ALL = ("copied", "distinct_1", "distinct_2")
METRICS = ("rouge_l", "bleu", *_OF_QUERIES, *_OF_HISTORIES, *_OF_ALL)
# sacrebleu's own.
_BLEU_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
  """One to write.

  Attributes:
    instruction: that the model answers.
    text: the teacher's answer.
    item: the target's number.
    history: numbers of the user's items.
  """

  instruction: str
  text: str
  item: int
  history: tuple[int, ...]


class Writer(Protocol):
  """A model that writes, and searches; see `writer.ModelWriter`."""

  def write(self, instructions: Sequence[str], max_tokens: int) -> list[str]:
    """Returns an answer to each instruction."""
    ...

  def finds(
    self, instructions: Sequence[str], titles: Sequence[str], items: list[int]
  ) -> np.ndarray:
    """Returns for each whether its item's title is among the best ten."""
    ...


class Tasks:
  """Asks for texts that a teacher has written for a folder's targets."""

  def __init__(self, folder: DatasetFolder, *, split: str, seed: int = 0):
    """Reads how the folder was built, its templates and annotations.

    Raises:
      InputError: it was not built.
    """
    manifest = folder.path / INSTRUCTIONS_FILE
    if not manifest.exists():
      raise InputError(
        f"{manifest}: no such file; what a model is to write is worded by the "
        f"templates of `instructrec build --dataset {folder.path}`."
      )
    built = storage.read_json(manifest, BUILT)
    self._options = {"target_length": 64, **built["options"]}
    self.folder = folder
    self._trained = built.get("families", {}).get("train", {})
    vocabulary = Vocabulary.load(folder.vocabulary_path)
    self._families = group_families(
      load_templates(folder.path / TEMPLATES_FILE)
    )
    self._material = Material(
      folder,
      annotations=Annotations.load(folder),
      cold_items=self._options["cold_items"],
    )
    self._count_tokens = vocabulary.count_tokens
    self._split, self._seed = split, seed
    self.titles = self._material.titles

  @property
  def max_tokens(self) -> int:
    """The most tokens of an answer: those that it was taught with."""
    return min(max(self._options["target_length"], 32), 1024)

  def find(
    self, tasks: Sequence[Writing], *, limit: int | None
  ) -> dict[Writing, list[Asked]]:
    """Returns what there is to write, of tasks that there are texts of.

    Raises:
      InputError: there are none.
    """
    found = {task: self.asked(task, limit=limit) for task in tasks}
    if not any(found.values()):
      raise InputError(
        f"{self.folder.path}: it has no text of "
        f"{', '.join(task.name for task in tasks)} to compare with: run "
        "`instructrec annotate`, and build again with templates that ask for "
        "one."
      )
    return {task: asked for task, asked in found.items() if asked}

  def trained(self, task: Writing) -> int:
    """Returns how many training rows the folder has of a task's family."""
    return self._trained.get(task.family, 0)

  def asked(self, task: Writing, *, limit: int | None) -> list[Asked]:
    """Returns a random sample of what there is to write, maybe none."""
    forms = [
      form
      for form in self._families.get(task.family, [])
      if form.template.response == task.response
    ]
    if not forms:
      return []
    material, form = self._material, forms[0]
    facts = material.facts(self._split)
    if is_of_items(forms):
      items = material.searchable_items(self._split)
      facts = material.item_facts(items, split=self._split)
    rows = np.flatnonzero(facts.usable(form))
    rows = rows[sample(len(rows), limit=limit or SAMPLE, seed=self._seed)]
    renderer = Renderer(
      count_tokens=self._count_tokens,
      budget=self._options["input_length"],
      answer_budget=self._options["target_length"],
    )
    found = []
    for row in rows.tolist():
      user, position = int(facts.users[row]), int(facts.positions[row])
      slots = make_slots(
        material,
        facts,
        form,
        target=row,
        history=material.history(user, position, split=self._split),
        choice=max(user, 0),
      )
      item = int(facts.items[row])
      text = renderer.answer(form, slots, target=self.titles[item])
      if text:
        history = material.history_items(user, position, split=self._split)
        instruction = renderer.text(form, slots)
        found.append(Asked(instruction, text, item, tuple(history)))
    return found

  def searches(self, task: Writing, queries: Sequence[str]) -> list[str] | None:
    """Returns instructions to search with queries; None if none fits."""
    if task.response != Response.QUERY:
      return None
    (kind,) = re.findall(r"i\d", task.family)
    forms: list[Form] = [
      form
      for form in self._families.get(f"p0_{kind}_t2", [])
      if form.template.task_form == TaskForm.MATCHING
    ]
    if not forms:
      return None
    return [
      render(
        forms[0],
        Slots(query=query),
        count_tokens=self._count_tokens,
        budget=self._options["input_length"],
      ).text
      for query in queries
    ]


def evaluate_writing(
  asked: Mapping[Writing, Sequence[Asked]],
  writers: Mapping[str, Writer],
  source: Tasks,
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Has models write, and measures it beside the teacher's texts.

  Args:
    asked: what is written, as `Tasks.find` returns it.
    writers: by name.
    source: that found it.
    resamples: of the bootstrap.
    seed: of the bootstrap.

  Returns:
    A row for each task, writer and metric: "scenario", "writer", "metric",
    "value", "low", "high" (the 95% interval, None where there is none), "n",
    and "trained", the training rows of its kind; and texts to read, each with
    "scenario", "instruction" and "texts" by writer.
  """
  bm25 = LexicalRanker.fit(source.folder.items, kind="bm25")
  rows, kept = [], []
  for task, of_task in asked.items():
    instructions = [each.instruction for each in of_task]
    texts = {TEACHER: [each.text for each in of_task]}
    for name, writer in writers.items():
      texts[name] = writer.write(instructions, source.max_tokens)
    for name, written in texts.items():
      # With a teacher's words the model searches: the reference of its own.
      searcher = writers.get(name, next(iter(writers.values())))
      for metric, value in _measures(
        task,
        of_task,
        written,
        source,
        bm25,
        searcher,
        is_teacher=name == TEACHER,
      ):
        rows.append(
          {
            "scenario": task.name,
            "writer": name,
            "metric": metric,
            **_summary(value, resamples=resamples, seed=seed),
            "n": len(of_task),
            "trained": source.trained(task),
          }
        )
    kept += [
      {
        "scenario": task.name,
        "instruction": instruction,
        "texts": {name: written[number] for name, written in texts.items()},
      }
      for number, instruction in enumerate(instructions[:_KEPT])
    ]
  return rows, kept


def to_tables(
  rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> dict[str, Table]:
  """Returns the rows of `evaluate_writing` for people, a table a task."""
  tables = {}
  for task in dict.fromkeys(row["scenario"] for row in rows):
    own = [row for row in rows if row["scenario"] == task]
    by = {(row["writer"], row["metric"]): row for row in own}
    metrics = [m for m in METRICS if any(row["metric"] == m for row in own)]
    writers = list(dict.fromkeys(row["writer"] for row in own))
    notes = [
      "found, by BM25 and by the model: the share of queries with their target "
      "among the catalogue's best ten"
      if any(m in _OF_QUERIES for m in metrics)
      else "",
      "valid, bought: the share of titles that exist, and that the user has"
      if any(m in _OF_HISTORIES for m in metrics)
      else "",
      "ROUGE-L and BLEU are of the teacher's text; copied: trigrams of words "
      "that the instruction has, too; distinct: different words, and pairs "
      "of words, for each that is written in all texts",
      ""
      if own[0]["trained"]
      else "the dataset folder has no training row of this kind",
    ]
    tables[f"{task}: {own[0]['n']:,} texts"] = Table(
      ["writer", *map(_head, metrics)],
      [
        Row(
          [
            labels.get(writer, writer),
            *(_cell(by.get((writer, metric))) for metric in metrics),
          ],
          "model" if writer == "model" else "",
        )
        for writer in writers
      ],
      notes=[note for note in notes if note],
    )
  return tables


def _head(metric: str) -> str:
  heads = {
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "bm25_hr@10": "found by BM25",
    "model_hr@10": "found by the model",
  }
  return heads.get(metric, metric.replace("_", "-"))


def _cell(row: Mapping[str, Any] | None) -> Cell | str:
  if row is None:
    return "-"
  value = f"{row['value']:.3f}".removeprefix("0")
  if row["low"] is None:
    return value
  ends = [f"{row[end]:.3f}".removeprefix("0") for end in ("low", "high")]
  return Cell(value, f"[{', '.join(ends)}]")


def _measures(
  task: Writing,
  asked: Sequence[Asked],
  written: Sequence[str],
  source: Tasks,
  bm25: LexicalRanker,
  searcher: Writer,
  *,
  is_teacher: bool,
) -> Iterator[tuple[str, Any]]:
  """Yields metrics: a figure a text, or one and its interval of all."""
  if not is_teacher:
    teachers = [each.text for each in asked]
    yield "rouge_l", rouge_l(teachers, written)
    yield "bleu", bleu(teachers, written)
  items = [each.item for each in asked]
  if task.response == Response.QUERY:
    everything = tuple(range(len(source.titles)))
    requests = [
      RankingRequest("", "", (), candidate_items=everything, query=query)
      for query in written
    ]
    yield (
      "bm25_hr@10",
      ranking_metrics(bm25.score(requests), items, ks=(FOUND,))["hr@10"],
    )
    # What says nothing finds nothing.
    said = [number for number, text in enumerate(written) if plain_words(text)]
    searches = source.searches(task, [written[number] for number in said])
    if searches is not None:
      found = np.zeros(len(written))
      found[said] = searcher.finds(
        searches, source.titles, [items[number] for number in said]
      )
      yield "model_hr@10", found
  if task.response == Response.HISTORY:
    known = {*map(_folded, source.titles)}
    valid, bought = [], []
    for each, text in zip(asked, written, strict=True):
      parts = map(_folded, text.split(SEPARATOR.strip()))
      titles = [title for title in parts if title]
      had = {_folded(source.titles[item]) for item in each.history}
      valid.append(_share(titles, known.__contains__))
      bought.append(_share(titles, had.__contains__))
    yield "valid", np.array(valid)
    yield "bought", np.array(bought)
  yield (
    "copied",
    np.array(
      [
        copied(text, each.instruction)
        for text, each in zip(written, asked, strict=True)
      ]
    ),
  )
  for length in (1, 2):
    yield f"distinct_{length}", (distinct(written, length), None, None)


class _Words:
  """Words of any script: rouge-score's own tokens are of Latin letters."""

  def tokenize(self, text: str) -> list[str]:
    return words_of(text)


def rouge_l(teachers: Sequence[str], written: Sequence[str]) -> np.ndarray:
  """Returns ROUGE-L's F1 of each text, of words without their case."""
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Words())
  return np.array(
    [
      scorer.score(teacher, text)["rougeL"].fmeasure
      for teacher, text in zip(teachers, written, strict=True)
    ]
  )


def bleu(
  teachers: Sequence[str], written: Sequence[str]
) -> tuple[float, float, float]:
  """Returns corpus BLEU from 0 to 1, and the ends of its 95% interval."""
  import sacrebleu

  score = sacrebleu.BLEU(lowercase=True)
  found: Any = score.corpus_score(
    [*written], [[*teachers]], n_bootstrap=_BLEU_RESAMPLES
  )
  low, high = found._mean - found._ci, found._mean + found._ci
  return found.score / 100, max(low, 0) / 100, min(high, 100) / 100


def copied(text: str, instruction: str) -> float:
  """Returns the share of a text's trigrams that an instruction has.

  A shorter text is one n-gram of all its words; 0 for none.
  """
  words = words_of(text)
  length = min(3, len(words))
  if not length:
    return 0.0
  known = {*_grams(words_of(instruction), length)}
  return _share([*_grams(words, length)], known.__contains__)


def distinct(texts: Sequence[str], length: int) -> float:
  """Returns the number of different n-grams for each of all texts."""
  counts = collections.Counter(
    gram for text in texts for gram in _grams(words_of(text), length)
  )
  return len(counts) / max(counts.total(), 1)


def words_of(text: str) -> list[str]:
  """Returns the words of a text, without their case."""
  return re.findall(r"\w+", text.casefold())


def _folded(title: str) -> str:
  # A vocabulary may fold case.
  return " ".join(title.casefold().split())


def _grams(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
  for first in range(len(words) - length + 1):
    yield tuple(words[first : first + length])


def _share(values: Sequence[Any], is_one: Callable[[Any], bool]) -> float:
  return sum(map(is_one, values)) / len(values) if values else 0.0


def _summary(value: Any, *, resamples: int, seed: int) -> dict[str, Any]:
  """Returns the mean of figures, or what is known of one."""
  if isinstance(value, tuple):
    mean, low, high = value
    return {"value": mean, "low": low, "high": high}
  draws = bootstrap_means(value[:, None], seed=seed, resamples=resamples)
  low, high = percentile_interval(draws)
  return {
    "value": float(value.mean()),
    "low": float(low[0]),
    "high": float(high[0]),
  }
