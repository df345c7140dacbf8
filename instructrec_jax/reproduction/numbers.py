"""Every number of a reproduction as one row, and whether they can be."""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.reproduction import experiments, paper
from instructrec_jax.reproduction.sections import read_results
from instructrec_jax.reproduction.settings import Settings

COLUMNS = (
  "table",
  "scenario",
  "ranker",
  "metric",
  "value",
  "low",
  "high",
  "n",
  "paper",
  "paper_dataset",
  "candidates_sha256",
  "step",
)


def collect(settings: Settings) -> list[dict[str, Any]]:
  """Returns the numbers; `step` names the record in manifest.json."""
  return [
    {column: row.get(column, "") for column in COLUMNS}
    for row in (*_counts(settings), *_rankings(settings))
  ]


def write_csv(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Writes the rows of `collect`."""
  with (
    storage.staged_file(path) as partial,
    partial.open("w", encoding="utf-8", newline="") as file,
  ):
    sheet = csv.writer(file)
    sheet.writerow(COLUMNS)
    sheet.writerows([row[column] for column in COLUMNS] for row in rows)


def _counts(settings: Settings) -> Iterator[dict[str, Any]]:
  counted = storage.read_json(settings.out / "statistics.json")
  printed = {
    "table_2": paper.results()["annotations"],
    "table_5": paper.results()["datasets"]["games"],
  }
  for table, of_paper in printed.items():
    for metric, value in counted[table].items():
      row = {"table": table.replace("_", " ").capitalize(), "metric": metric}
      row |= {"value": value, "step": "statistics"}
      if metric in of_paper:
        row |= {"paper": of_paper[metric], "paper_dataset": "games"}
      yield row


def _rankings(settings: Settings) -> Iterator[dict[str, Any]]:
  for step, table in ranking_steps(settings):
    results = read_results(settings.out, step)
    hashes = {
      scenario["name"]: scenario["candidates_sha256"]
      for scenario in results["scenarios"]
    }
    for row in results["rows"]:
      of_paper = paper.ranking(table, row["scenario"])
      printed = of_paper.get(row["ranker"], {}).get(row["metric"])
      extra = {}
      if printed is not None:
        extra = {"paper": printed, "paper_dataset": paper.dataset_of(table)}
      yield {
        **row,
        **extra,
        "table": table,
        "candidates_sha256": hashes[row["scenario"]],
        "step": step,
      }
    for row in results["end_to_end"]:
      yield {
        **row,
        "metric": f"end_to_end_{row['metric']}",
        "table": table,
        "candidates_sha256": hashes[row["scenario"]],
        "step": step,
      }


def candidates(settings: Settings) -> dict[str, int]:
  """Returns how many candidates a request has at most, by scenario."""
  return {
    scenario["name"]: scenario["candidate_count"]
    for step, _ in ranking_steps(settings)
    for scenario in read_results(settings.out, step)["scenarios"]
  }


def ranking_steps(settings: Settings) -> list[tuple[str, str]]:
  """Returns the steps that wrote a results.json, each with its table."""
  steps = [
    (experiment.name, experiment.title)
    for experiment in settings.experiments
    if experiment.scenarios
  ]
  if settings.unseen and not experiments.unranked(
    experiments.scenario(experiments.UNSEEN), settings.all_names
  ):
    steps.append(("table_11", "Table 11"))
  if not experiments.lack(
    settings.dataset, experiments.scenario(experiments.HELD_OUT)
  ):
    steps += [
      (f"ladder_{rung}", f"Figure 3, rung {rung}")
      for rung in range(1, len(experiments.LADDER) + 1)
    ]
  return steps
