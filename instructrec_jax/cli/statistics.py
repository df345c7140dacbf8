"""Prints a dataset folder's numbers as the paper's Table 5 and Table 2."""

import argparse
import json
import pathlib

EXAMPLE = "instructrec statistics --dataset data/instruments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
  """Counts and prints."""
  from instructrec_jax.data import statistics as data_statistics
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.instructions import statistics
  from instructrec_jax.instructions.templates import load_templates
  from instructrec_jax.teacher.annotate import summarise
  from instructrec_jax.teacher.questions import plan

  folder = DatasetFolder.open(args.dataset)
  built = folder.path / "templates.yaml"
  found = statistics.instruction_statistics(
    load_templates(built if built.exists() else "package"),
    summarise(folder, plan(folder)),
  )
  if args.json:
    print(json.dumps({"table_5": folder.statistics, "table_2": found}))
  else:
    print(data_statistics.table(folder.path.name, folder.statistics))
    print(f"\n{statistics.table(found)}")
