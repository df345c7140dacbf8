"""HR@1 of each ranker by how popular the item is that was bought.

The requests are those of Table 6, with the same candidates.

  python -m instructrec_jax.reproduction.deciles --dataset data/games \\
    --results results/games/results/table_6 --out deciles.json
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import polars as pl

from instructrec_jax import parquet, storage
from instructrec_jax.baselines.popularity import training_counts
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.diagnostics import by_popularity
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.evaluation.scores import FOLDER
from instructrec_jax.reproduction.experiments import SEQUENTIAL

_COLUMNS = {"request_id": str, "ranker": str, "above": int, "tied": int}


def deciles(
  dataset: pathlib.Path, *, results: pathlib.Path, seed: int
) -> list[dict[str, Any]]:
  """Reads what `evaluate` has kept of each request.

  Args:
    dataset: the folder that was evaluated.
    results: what `evaluate --out` wrote.
    seed: of the bootstrap.

  Returns:
    An entry a ranker, with its means "by_decile" of the catalogue, 0 the least
    popular.
  """
  folder = DatasetFolder.open(dataset)
  source = find_requests(
    SEQUENTIAL, folder=folder, split="test", need_text=True
  )
  bought = {
    request.request_id: request.candidate_items[request.target or 0]
    for request in source.read()
  }
  labels = storage.read_json(results / "results.json", {"labels": dict})
  scores = parquet.read(
    results / FOLDER / f"{SEQUENTIAL.name}.parquet",
    _COLUMNS,
    remedy="evaluate again",
  )
  # Equal scores count as their expected value over random orders.
  hit = pl.when(pl.col("above") == 0).then(1 / pl.col("tied")).otherwise(0.0)
  scores = scores.with_columns(
    hit=hit, item=pl.col("request_id").replace_strict(bought)
  )
  counts = training_counts(folder)
  entries = []
  for (name,), own in scores.group_by("ranker", maintain_order=True):
    means = by_popularity(
      own["hit"].to_numpy(), own["item"].to_numpy(), counts, seed=seed
    )
    entries.append(
      {
        "scenario": SEQUENTIAL.name,
        "ranker": name,
        "label": labels["labels"].get(name, name),
        "by_decile": [dataclasses.asdict(mean) for mean in means],
      }
    )
  return entries


def main(argv: Sequence[str] | None = None) -> int:
  """Writes a JSON file; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--results", type=pathlib.Path, required=True)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  options = vars(parser.parse_args(argv))
  out = options.pop("out")
  try:
    storage.write_json(out, deciles(**options))
  except InputError as error:
    print(error, file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
