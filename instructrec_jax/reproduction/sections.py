"""What the report says, section by section, before it is Markdown or HTML."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.evaluation import plots, report
from instructrec_jax.reproduction import experiments, paper
from instructrec_jax.reproduction.settings import Settings

Results = Mapping[str, Any]

METHODS = {
  "bert4rec": "BERT4Rec",
  "sasrec": "SASRec",
  "tem": "TEM",
  "dssm": "DSSM",
  "chat": "GPT-3.5",
  "zero_shot": "Flan-T5-XL",
  "model": "InstructRec",
}
_OPTIONS = {
  "chat": " (--chat-model asks one in its place)",
  "zero_shot": " (--zero-shot names a model that was not tuned)",
}
DATASETS = {"games": "Games", "cds": "CDs"}


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of a table; `kind` is "paper" for what the paper printed."""

  cells: Sequence[str]
  kind: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table with its own heading, remarks below, and figures."""

  heading: str
  columns: Sequence[str]
  rows: Sequence[Row]
  remarks: Sequence[str] = ()
  figures: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
  """A table or figure of the paper.

  Attributes:
    title: as the paper numbers it.
    caption: what it shows.
    grids: its tables; none if it is lacking altogether.
    lacking: what is not there, and why.
  """

  title: str
  caption: str
  grids: Sequence[Grid] = ()
  lacking: Sequence[str] = ()


CAPTIONS = {
  "Table 6": "sequential recommendation",
  "Table 7": "personalised search",
  "Table 8": "product search, by items that training has not seen",
  "Table 9": "hard negatives, retrieved by a matcher",
  "Table 10": "a hundred candidates, in a tournament",
  "Table 11": "a domain that the model has not seen",
  "further scenarios": "beyond the paper's tables",
  "whole catalogue": "every item of the shop is a candidate",
}


def of_experiment(
  experiment: experiments.Experiment, settings: Settings, *, dataset: str | None
) -> Section:
  """Returns a table that ranks.

  Args:
    experiment: its scenarios.
    settings: of the reproduction, which is done.
    dataset: which of the paper's this is, if any.
  """
  grids = []
  if experiment.scenarios:
    results = read_results(settings.out, experiment.name)
    for scenario in results["scenarios"]:
      grids.append(
        grid(results, scenario, table=experiment.title, dataset=dataset)
      )
      if scenario["matcher"]:
        grids.append(end_to_end(results, scenario))
  return Section(
    experiment.title,
    CAPTIONS.get(experiment.title, ""),
    grids,
    [f"{name}: {reason}" for name, reason in experiment.lacking.items()],
  )


def unseen(settings: Settings, *, dataset: str | None) -> Section:
  """Returns Table 11."""
  title, caption = "Table 11", CAPTIONS["Table 11"]
  if not settings.unseen:
    reason = "another domain is needed: name its dataset folder with --unseen"
    return Section(title, caption, lacking=[reason])
  reason = experiments.unranked(
    experiments.scenario(experiments.UNSEEN), settings.all_names
  )
  if reason:
    return Section(title, caption, lacking=[f"{experiments.UNSEEN}: {reason}"])
  results = read_results(settings.out, "table_11")
  (scenario,) = results["scenarios"]
  caption += (
    f": tuned on {settings.dataset.name}, asked about {settings.unseen.name}, "
    "where the other rankers were trained"
  )
  return Section(
    title, caption, [grid(results, scenario, table=title, dataset=dataset)]
  )


def ladder(settings: Settings) -> Section:
  """Returns Figure 3."""
  title = "Figure 3"
  caption = (
    "more kinds of instructions, tested on one that is held out: "
    f"{experiments.HELD_OUT}; models of {settings.ladder_steps:,} steps each"
  )
  reason = experiments.lack(
    settings.dataset, experiments.scenario(experiments.HELD_OUT)
  )
  if reason:
    return Section(
      title, caption, lacking=[f"{experiments.HELD_OUT}: {reason}"]
    )
  rungs = [
    read_results(settings.out, f"ladder_{rung}")
    for rung in range(1, len(experiments.LADDER) + 1)
  ]
  scenario = rungs[0]["scenarios"][0]
  figures: dict[str, dict[str, Any]] = {
    added: report.by_ranker(results, scenario=experiments.HELD_OUT)["model"]
    for added, results in zip(experiments.LADDER, rungs, strict=True)
  }
  chart = plots.group_plot(
    {
      metric.upper(): [
        (number, row[metric]["value"], row[metric]["low"], row[metric]["high"])
        for number, row in enumerate(figures.values(), start=1)
      ]
      for metric in ("ndcg@5", "hr@1")
    },
    label=f"held out: {experiments.HELD_OUT}",
    groups="rung",
  )
  return Section(
    title,
    caption,
    [
      Grid(
        _heading(scenario, rungs[0]),
        ["rung", *map(report.column_head, scenario["metrics"])],
        [
          Row([f"{number}. {added}", *_cells(row, scenario["metrics"])])
          for number, (added, row) in enumerate(figures.items(), start=1)
        ],
        [
          "the paper prints Figure 3 without numbers",
          f"candidates sha256 {scenario['candidates_sha256'][:16]}",
        ],
        [chart],
      )
    ],
  )


def grid(
  results: Results,
  scenario: Mapping[str, Any],
  *,
  table: str,
  dataset: str | None,
) -> Grid:
  """Returns a scenario's table, the paper's row below each of ours."""
  labels, metrics = results["labels"], scenario["metrics"]
  of_ours = report.by_ranker(results, scenario=scenario["name"])
  printed = paper.ranking(table, scenario["name"])
  where = (
    "paper"
    if dataset == paper.dataset_of(table)
    else (f"paper, {DATASETS[paper.dataset_of(table)]}")
  )
  rows = []
  for name, figures in of_ours.items():
    kind = "model" if name == "model" else ""
    rows.append(Row([labels[name], *_cells(figures, metrics)], kind))
    if name in printed:
      rows.append(_printed(name, printed[name], metrics, where))
  missing = [name for name in printed if name not in of_ours]
  rows += [_printed(name, printed[name], metrics, where) for name in missing]
  remarks = report.remarks(results, scenario)
  if missing:
    names = ", ".join(
      METHODS[name] + _OPTIONS.get(name, "") for name in missing
    )
    remarks.append(f"in the paper, not ranked here: {names}")
  remarks.append(f"candidates sha256 {scenario['candidates_sha256'][:16]}")
  return Grid(
    _heading(scenario, results),
    ["ranker", *map(report.column_head, metrics)],
    rows,
    remarks,
    [_intervals(of_ours, labels, metrics[0])],
  )


def end_to_end(results: Results, scenario: Mapping[str, Any]) -> Grid:
  """Returns what the rankers are worth behind the matcher, nothing forced."""
  return Grid(
    f"{_heading(scenario, results)}: end to end",
    ["ranker", *map(report.column_head, scenario["metrics"])],
    [
      Row(line, "model" if line[0] == results["labels"].get("model") else "")
      for line in report.end_to_end(results, scenario)
    ],
    ["a target that the matcher did not retrieve is not found"],
  )


def read_results(out: pathlib.Path, step: str) -> Results:
  """Reads what `evaluate` wrote in a step."""
  return storage.read_json(out / "results" / step / "results.json")


def _heading(scenario: Mapping[str, Any], results: Results) -> str:
  # The section says already which table it is, and it may be another one.
  return report.heading({**scenario, "table": ""}, split=results["split"])


def _cells(
  figures: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]
) -> list[str]:
  return [report.cell(figures.get(metric)) for metric in metrics]


def _printed(
  name: str,
  figures: Mapping[str, float],
  metrics: Sequence[str],
  where: str,
) -> Row:
  cells = [
    # As many decimals as are printed there.
    f"{figures[metric]:.4f}".removeprefix("0") if metric in figures else "-"
    for metric in metrics
  ]
  return Row([f"{METHODS[name]} ({where})", *cells], "paper")


def _intervals(
  figures: Mapping[str, Mapping[str, Any]],
  labels: Mapping[str, str],
  metric: str,
) -> str:
  return plots.interval_plot(
    {
      labels[name]: (
        row[metric]["value"],
        row[metric]["low"],
        row[metric]["high"],
      )
      for name, row in figures.items()
      if metric in row
    },
    label=report.column_head(metric),
    highlight=[labels[name] for name in figures if name == "model"],
  )
