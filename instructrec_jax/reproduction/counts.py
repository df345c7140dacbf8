"""Tables 2, 3 and 5: the data and its annotations."""

import pathlib
from typing import Any

from instructrec_jax import paper, storage
from instructrec_jax.data.folder import BUILT, INSTRUCTIONS_FILE
from instructrec_jax.evaluation.html_report import Section
from instructrec_jax.reproduction.settings import Settings
from instructrec_jax.tables import Row, Table
from instructrec_jax.teacher import review

_ANNOTATIONS = {
  "annotations": "fine-grained instructions",
  "preferences": "- preferences",
  "intentions": "- intentions",
  "annotation_words": "words each",
  "templates": "coarse-grained instructions (templates)",
  "A": "- of preferences",
  "B": "- of intentions",
  "C": "- combined",
  "template_words": "words each",
}
_STATISTICS = {
  "users": "#Users",
  "items": "#Items",
  "interactions": "#Inters",
  "sparsity": "#Sparsity",
  "average_length": "Avg. length",
}


def sections(settings: Settings) -> list[Section]:
  """Returns Tables 2, 3 and 5 of a reproduction that is done."""
  counted = storage.read_json(
    settings.out / "statistics.json",
    {"table_2": {str: float}, "table_5": {str: float}},
  )
  return [
    _annotations(counted["table_2"]),
    _quality(settings),
    _datasets(settings.dataset.name, counted["table_5"]),
  ]


def _annotations(found: dict[str, float]) -> Section:
  printed = paper.results()["annotations"]
  rows = [
    Row([name, _number(found.get(key, 0)), _number(printed[key])])
    for key, name in _ANNOTATIONS.items()
  ]
  lacking = []
  if not found["intentions"]:
    lacking = ["intentions: they are made of reviews, which the data lacks"]
  return Section(
    "Table 2",
    "annotated instructions",
    [Table(["", "here", "paper, Games"], rows)],
    lacking,
  )


def _quality(settings: Settings) -> Section:
  sheet = settings.out / "quality_sheet.csv"
  judge = settings.out / "quality_judge.json"
  found, lacking = review.read_sheet(sheet), []
  if not found and judge.exists():
    found = storage.read_json(judge, list)
  if not found:
    lacking = [
      f"people's verdicts: fill {sheet} with yes and no and run the same "
      "command again; or have a chat model judge: `instructrec annotate "
      f"--dataset {settings.dataset} --teacher openai --model NAME --judge "
      f"--json > {judge}`"
    ]
  by_question = {(row["kind"], row["question"]): row for row in found}
  rows = []
  for kind, questions in paper.results()["quality"].items():
    for question, printed in questions.items():
      row = by_question.get((kind, question))
      here = "-"
      if row:
        here = f"{row['share']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
      asked = review.QUESTIONS[question]
      of = f"{row['n']:,}" if row else "-"
      rows.append(Row([kind, asked, here, of, f"{printed:.0%}"]))
  return Section(
    "Table 3",
    "quality of the annotated instructions",
    [
      Table(
        ["of", "question", "yes", "n", "yes (paper, GPT-3.5)"],
        rows,
        "what people, or a judge, say of a sample",
      ),
      _checks(settings.dataset),
    ],
    lacking,
  )


def _checks(dataset: pathlib.Path) -> Table:
  """What rules say of every annotation: it needs no people."""
  quality = storage.read_json(dataset / INSTRUCTIONS_FILE, BUILT)["annotations"]
  rows = []
  for field, verdicts in quality["quality"].items():
    total = sum(verdicts.values())
    others = [f"{n:,} {v}" for v, n in verdicts.items() if v != "ok"]
    usable = verdicts.get("ok", 0)
    rows.append(
      Row(
        [field, f"{total:,}", f"{usable / total:.0%}", ", ".join(others) or "-"]
      )
    )
  teachers = ", ".join(f"{n:,} of {t}" for t, n in quality["teachers"].items())
  return Table(
    ["field", "answers", "usable", "set aside"],
    rows,
    "what rules check in all of them",
    [f"answers: {teachers}"] if teachers else [],
  )


def _datasets(name: str, found: dict[str, Any]) -> Section:
  names = paper.results()["names"]
  rows = [Row([name, *_statistics(found)])]
  for key, printed in paper.results()["datasets"].items():
    rows.append(Row([f"{names[key]} (paper)", *_statistics(printed)], "paper"))
  table = Table(["dataset", *_STATISTICS.values()], rows)
  return Section("Table 5", "the dataset after preprocessing", [table])


def _statistics(found: dict[str, Any]) -> list[str]:
  shown = {"sparsity": "{:.3%}", "average_length": "{:.2f}"}
  return [shown.get(key, "{:,}").format(found[key]) for key in _STATISTICS]


def _number(value: float) -> str:
  return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
