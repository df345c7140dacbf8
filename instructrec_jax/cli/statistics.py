"""Prints a dataset folder's numbers as the paper's Table 5 and Table 2."""

from dataclasses import dataclass
from typing import Any

from instructrec_jax.cli import options as opt

EXAMPLE = "instructrec statistics --dataset data/instruments"


@dataclass(frozen=True, kw_only=True)
class Options:
  dataset: opt.Dataset
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Counts."""
  from instructrec_jax.data import statistics as data_statistics
  from instructrec_jax.data.folder import TEMPLATES_FILE, DatasetFolder
  from instructrec_jax.instructions import statistics
  from instructrec_jax.instructions.templates import load_templates
  from instructrec_jax.teacher.annotate import summarise
  from instructrec_jax.teacher.questions import plan

  folder = DatasetFolder.open(options.dataset)
  built = folder.path / TEMPLATES_FILE
  found = statistics.instruction_statistics(
    load_templates(built if built.exists() else "package"),
    summarise(folder, plan(folder)),
  )
  table_5 = data_statistics.table(folder.path.name, folder.statistics)
  return (
    {"table_5": folder.statistics, "table_2": found},
    f"{table_5}\n\n{statistics.table(found)}",
  )
