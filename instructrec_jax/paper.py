"""The paper's printed numbers: the only place that reads `paper.yaml`."""

import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml


@functools.cache
def results() -> dict[str, Any]:
  """Returns what `paper.yaml` holds."""
  file = importlib.resources.files("instructrec_jax") / "paper.yaml"
  return yaml.safe_load(file.read_text(encoding="utf-8"))


def ranking(table: str, scenario: str) -> dict[str, dict[str, float]]:
  """Returns a table's figures as ranker -> metric -> value; {} if it has none.

  Args:
    table: such as "Table 6".
    scenario: the block of the table, as `instructions.scenarios` names it.
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
  """Returns the dataset of a table's numbers: "games" or "cds"."""
  by_table = {b["table"]: b["dataset"] for b in results()["rankings"]}
  return by_table.get(table, "games")


def same_dataset(statistics: Mapping[str, Any]) -> str | None:
  """Returns the paper's dataset that has these counts, if there is one."""
  for name, published in results()["datasets"].items():
    keys = ("users", "items", "interactions")
    if all(statistics[key] == published[key] for key in keys):
      return name
  return None
