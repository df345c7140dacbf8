"""Quality of the annotations: the paper's four questions (its Table 3).

A random sample goes to a chat model as judge, or to people as a sheet (CSV)
that they fill with yes and no. Shares come with Wilson's 95% intervals: at the
paper's 100 samples they are up to 10 points wide on either side.
"""

import collections
import csv
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from instructrec_jax import paper as paper_lib
from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_file,
  check_seed,
)
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.quality import TitleWords, is_wish, names_title
from instructrec_jax.teacher.questions import Question, plan, strict_schema
from instructrec_jax.teacher.store import Subject

VERSION = "judge-1"
QUESTIONS = {
  "from_user": "Is it based on the information about this user?",
  "world_knowledge": "Does it add fitting knowledge of the world?",
  "reflects": "Does it tell the user's preference or intention?",
  "fits_target": "Does it have to do with the item bought next?",
}
# Of the paper's Table 3, by kind and in the order of `QUESTIONS`.
PAPER = {
  kind: tuple(shares[question] for question in QUESTIONS)
  for kind, shares in paper_lib.results()["quality"].items()
}
_COLUMNS = ("kind", "user", "position", "information", "text", "target")
_YES, _NO = ("yes", "y", "1", "true"), ("no", "n", "0", "false")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
  """An annotation with its source and the target item.

  Attributes:
    kind: "preference" or "intention".
    position: of the target.
    information: the history's titles or the review.
    text: the annotation.
    target: the target's title.
  """

  kind: str
  user: int
  position: int
  information: str
  text: str
  target: str


def draw_samples(
  folder: DatasetFolder, *, count: int = 100, seed: int = 0
) -> list[Sample]:
  """Draws `count` usable annotations of each kind, or all if there are fewer.

  Raises:
    InputError: the folder has no annotations.
  """
  check_counts(count=count)
  check_seed(seed)
  annotations = Annotations.load(folder)
  samples: dict[str, list[Sample]] = collections.defaultdict(list)

  def add(question: Question, information: str, texts: Iterable[str]) -> None:
    kind, user, position = question.kind, question.user, question.position
    target = folder.items[int(folder.sequences.user(user)[position])].title
    samples[kind] += [
      Sample(kind, user, position, information, text, target) for text in texts
    ]

  questions = plan(folder)
  added: set[tuple[int, int]] = set()
  for question in questions.preferences:
    user = question.user
    end, texts = annotations.preference(user, before=question.position)
    # An older store has one answer for all splits.
    if (user, end) not in added:
      added.add((user, end))
      add(question, "; ".join(question.titles), texts.values())
  for question in questions.intentions:
    views = annotations.intentions.get((question.user, question.position), {})
    add(question, question.review, views.values())
  if not any(samples.values()):
    raise InputError(
      f"{folder.path}: no annotations to review; run `instructrec annotate` "
      "first."
    )
  rng = np.random.default_rng(seed)
  return [
    of_kind[index]
    for of_kind in samples.values()
    for index in np.sort(rng.permutation(len(of_kind))[:count])
  ]


def judge_request(
  sample: Sample,
  *,
  model: str,
  parameters: Mapping[str, float | int | str],
) -> ChatRequest:
  """Returns the request that asks the four questions about one annotation."""
  asked = "\n".join(f"{name}: {words}" for name, words in QUESTIONS.items())
  return ChatRequest(
    model=model,
    system=(
      f"You review a sentence that describes the {sample.kind} of a customer "
      "of an online shop. You see the information that it was written from, "
      "the sentence, and the item that the customer bought next. Answer these "
      f"questions with true or false, strictly:\n{asked}"
    ),
    user=(
      f"Information: {sample.information}\nSentence: {sample.text}\n"
      f"Item bought next: {sample.target}"
    ),
    schema_name="verdict",
    schema=strict_schema(QUESTIONS, type="boolean"),
    parameters=parameters,
    prompt_version=VERSION,
  )


def judged(
  samples: Sequence[Sample], answers: Mapping[int, str]
) -> list[dict[str, Any]]:
  """Tabulates a judge's raw answers, by the index of the sample."""
  return tabulate(
    (samples[place].kind, json.loads(text)) for place, text in answers.items()
  )


def rejected(
  samples: Sequence[Sample],
  requests: Sequence[ChatRequest],
  answers: Mapping[int, str],
) -> list[Subject]:
  """Returns the samples that a judge denies to tell a preference or intention.

  Added to a store, they set these texts aside: `Quality.JUDGED_NO`.
  """
  return [
    Subject(
      "rejected",
      samples[place].user,
      samples[place].position,
      requests[place].key,
    )
    for place, text in answers.items()
    if not json.loads(text)["reflects"]
  ]


def format_samples(samples: Sequence[Sample], words: TitleWords) -> str:
  """Returns samples for people to read, and what can be counted of them.

  A text counts as naming a title if any two words of its target's title stand
  in it in a row, but for those of a category, or a brand does.
  """
  lines, counts = [], []
  for kind in dict.fromkeys(sample.kind for sample in samples):
    of_kind = [sample for sample in samples if sample.kind == kind]
    lines += [f"{kind}  {sample.text}" for sample in of_kind]
    named = sum(names_title(s.text, s.target, words=words) for s in of_kind)
    told = f"{len(of_kind)} {kind}s: {named} name a brand or title"
    if kind == "intention":
      told += f", {sum(is_wish(s.text) for s in of_kind)} ask for something"
    counts.append(told)
  return "\n".join([*lines, *counts])


def tabulate(
  verdicts: Iterable[tuple[str, Mapping[str, bool]]],
) -> list[dict[str, Any]]:
  """Returns Table 3: rows of kind, question, share, low, high, n, paper."""
  counts: dict[str, list[Mapping[str, bool]]] = collections.defaultdict(list)
  for kind, verdict in verdicts:
    counts[kind].append(verdict)
  rows = []
  for kind, paper in PAPER.items():
    given = counts.get(kind, [])
    for question, published in zip(QUESTIONS, paper, strict=True):
      answers = [v[question] for v in given if question in v]
      if not answers:
        continue
      test = scipy.stats.binomtest(sum(answers), len(answers))
      low, high = test.proportion_ci(method="wilson")
      rows.append(
        {
          "kind": kind,
          "question": question,
          "share": sum(answers) / len(answers),
          "low": float(low),
          "high": float(high),
          "n": len(answers),
          "paper": published,
        }
      )
  return rows


def write_sheet(
  samples: Sequence[Sample], path: pathlib.Path, *, force: bool = False
) -> None:
  """Writes a sheet for people: a row per sample, a column per question.

  Raises:
    InputError: `path` exists and `force` is not set.
  """
  with (
    storage.output_file(path, force=force, is_ours=_is_sheet),
    storage.staged_file(path) as partial,
    partial.open("w", encoding="utf-8", newline="") as file,
  ):
    sheet = csv.writer(file)
    sheet.writerow(
      [*_COLUMNS, *(f"{q}: {words}" for q, words in QUESTIONS.items())]
    )
    for sample in samples:
      sheet.writerow([*dataclasses.astuple(sample), *[""] * len(QUESTIONS)])


def _is_sheet(path: pathlib.Path) -> bool:
  """Whether a file is a sheet; raises InputError if people filled it."""
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      header, *rows = csv.reader(file)
  except (OSError, ValueError, csv.Error):
    return False
  if tuple(header[: len(_COLUMNS)]) != _COLUMNS:
    return False
  if any(any(row[len(_COLUMNS) :]) for row in rows):
    raise InputError(
      f"{path} has people's answers, which --force does not replace: name "
      "another file."
    )
  return True


def read_sheet(path: pathlib.Path) -> list[dict[str, Any]]:
  """Tabulates a sheet that people filled with yes and no, blanks left out.

  Raises:
    InputError: the file is missing, another one, or a cell is neither.
  """
  if path.exists():
    check_file(path)
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      rows = list(csv.reader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    why = getattr(error, "strerror", None) or error
    raise InputError(f"{path}: cannot be read as a sheet ({why}).") from None
  width = len(_COLUMNS) + len(QUESTIONS)
  if not rows or tuple(rows[0][: len(_COLUMNS)]) != _COLUMNS:
    raise InputError(
      f"{path}: not a sheet of `instructrec annotate --sheet`; its first line "
      f"must begin with {', '.join(_COLUMNS)}."
    )
  verdicts = []
  for number, row in enumerate(rows[1:], start=2):
    if len(row) != width or row[0] not in PAPER:
      raise InputError(f"{path}, line {number}: {width} columns are expected.")
    verdict = {}
    for question, cell in zip(QUESTIONS, row[len(_COLUMNS) :], strict=True):
      word = cell.strip().lower()
      if word and word not in (*_YES, *_NO):
        raise InputError(
          f"{path}, line {number}: {cell!r} is neither yes nor no."
        )
      if word:
        verdict[question] = word in _YES
    verdicts.append((row[0], verdict))
  return tabulate(verdicts)


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns Table 3 for people."""
  lines = [
    f"{'':<12}{'question':<18}{'share':>7}{'95%':>14}{'n':>6}{'paper':>7}"
  ]
  lines += [
    f"{r['kind']:<12}{r['question']:<18}{r['share']:>7.0%}"
    f"{r['low']:>8.0%}-{r['high']:<5.0%}{r['n']:>6}{r['paper']:>7.0%}"
    for r in rows
  ]
  return "\n".join(lines)
