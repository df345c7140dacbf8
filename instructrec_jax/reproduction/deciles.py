"""HR@1 of each ranker by how popular the item is that was bought.

The requests are those of Table 6, with the same candidates.

  python -m instructrec_jax.reproduction.deciles --dataset data/games \\
    --model runs/games --out deciles.json
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrec_jax import storage
from instructrec_jax.baselines.popularity import training_counts
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.diagnostics import by_popularity
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.rankers import (
  applies,
  find_rankers,
  load_ranker,
)
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.reproduction.experiments import SEQUENTIAL


def deciles(
  dataset: pathlib.Path,
  *,
  model: pathlib.Path,
  rankers: Sequence[str],
  limit: int | None,
  seed: int,
) -> list[dict[str, Any]]:
  """Ranks the requests; the arguments are those of `evaluate`.

  Returns:
    An entry a ranker, with its means "by_decile" of the catalogue, 0 the least
    popular.
  """
  folder = DatasetFolder.open(dataset)
  source = find_requests(
    SEQUENTIAL,
    folder=folder,
    split="test",
    need_text=True,
    limit=limit,
    seed=seed,
  )
  requests = list(source.read())
  targets = [request.target or 0 for request in requests]
  items = np.array(
    [r.candidate_items[t] for r, t in zip(requests, targets, strict=True)]
  )
  counts = training_counts(folder)
  entries = []
  for name in find_rankers(rankers, folder=folder, model=model):
    if not applies(name, SEQUENTIAL):
      continue
    ranker = load_ranker(name, folder=folder, model=model)
    hits = ranking_metrics(ranker.score(requests), targets)["hr@1"]
    means = by_popularity(hits, items, counts, seed=seed)
    entries.append(
      {
        "scenario": SEQUENTIAL.name,
        "ranker": name,
        "label": ranker.name,
        "by_decile": [dataclasses.asdict(mean) for mean in means],
      }
    )
  return entries


def main(argv: Sequence[str] | None = None) -> int:
  """Writes a JSON file; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--rankers", type=lambda s: s.split(","), default=["all"])
  parser.add_argument("--limit", type=int)
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
