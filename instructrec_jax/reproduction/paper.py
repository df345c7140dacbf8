"""The paper's numbers, to print beside ours."""

import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml

from instructrec_jax.evaluation.consistency import impossible

# GPT-3.5 was asked 500 requests; everything else was ranked on all.
CHAT_REQUESTS = 500
# Of the printed figures: four decimals.
ROUNDING = 5e-5


@functools.cache
def results() -> dict[str, Any]:
  """Returns what `paper_results.yaml` holds."""
  folder = importlib.resources.files("instructrec_jax.reproduction")
  file = folder / "paper_results.yaml"
  return yaml.safe_load(file.read_text(encoding="utf-8"))


def ranking(table: str, scenario: str) -> dict[str, dict[str, float]]:
  """Returns a table's figures as ranker -> metric -> value; {} if it has none.

  Args:
    table: such as "Table 6".
    scenario: the block of the table, as `evaluation.scenarios` names it.
  """
  metrics = results()["metrics"]
  for block in results()["rankings"]:
    if block["table"] == table and block["scenario"] == scenario:
      return {
        ranker: dict(zip(metrics, values, strict=True))
        for ranker, values in block["rows"].items()
      }
  return {}


def dataset_of(table: str) -> str:
  """Returns which dataset a table's numbers are of: "games" or "cds"."""
  of_table = {b["table"]: b["dataset"] for b in results()["rankings"]}
  return of_table.get(table, "games")


def same_dataset(statistics: Mapping[str, Any]) -> str | None:
  """Returns which of the paper's datasets these counts are of, if any."""
  for name, published in results()["datasets"].items():
    keys = ("users", "items", "interactions")
    if all(statistics[key] == published[key] for key in keys):
      return name
  return None


def contradictions() -> list[str]:
  """Returns what is impossible in the paper's own figures."""
  rows = [
    {
      "scenario": f"{block['table']}, {block['scenario']}",
      "ranker": ranker,
      "metric": metric,
      "value": value,
      "n": CHAT_REQUESTS if ranker == "chat" else None,
    }
    for block in results()["rankings"]
    for ranker, values in block["rows"].items()
    for metric, value in zip(results()["metrics"], values, strict=True)
  ]
  counts = {
    row["scenario"]: 100 if "tournament" in row["scenario"] else 10
    for row in rows
  }
  return impossible(rows, rounding=ROUNDING, candidates=counts, whole=True)
