"""The exact top of a catalogue beside scoring all of it: a benchmark.

  .venv/bin/python benchmarks/catalogue.py --dataset data/games \\
    --model runs/games [--users 200] [--compared 20] \\
    [--scenario sequences_full --normalisation catalogue_prior]

For each user the 20 best of all titles but those bought before. `compared` of
the users are scored in full as well, and the order must be the same but where
scores differ by less than 1e-5: the model computes in float32, whatever it was
trained in. Work is counted in nodes of the trie of titles.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.scoring.catalogue_ranker import CatalogueRanker
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.scoring.reranker import T5Ranker


def main() -> None:
  """Searches, compares, and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--scenario", default="sequential_full")
  parser.add_argument("--normalisation", default=str(Normalisation.SUM))
  for name, default, what in (
    ("--users", 200, "that are searched for"),
    ("--compared", 20, "that are scored in full as well"),
    ("--k", 20, "titles for each"),
    ("--seed", 0, "of the sample of users"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  (scenario,) = find_scenarios([args.scenario])
  source = find_requests(
    scenario,
    folder=DatasetFolder.open(args.dataset),
    split="test",
    need_text=True,
    limit=args.users,
    seed=args.seed,
  )
  requests = list(source.read())
  config, params = model_folder.load_params(args.model)
  model: dict[str, Any] = {
    "config": dataclasses.replace(config, dtype=jnp.float32),
    "params": params,
    "vocabulary": model_folder.load_vocabulary(args.model),
    "title_counts": model_folder.load_title_counts(args.model),
    "normalisation": args.normalisation,
  }
  search = CatalogueRanker(k=args.k, **model)
  # Compiles, and builds the trie.
  search.score(requests[:1])
  search.nodes.clear()
  started = time.perf_counter()
  found = search.score(requests)
  each = (time.perf_counter() - started) / len(requests)
  compared = requests[: args.compared]
  ranker = T5Ranker(**model)
  ranker.score(compared[:1])
  started = time.perf_counter()
  # One at a time: a request of the whole catalogue is large.
  whole = [ranker.score([request])[0] for request in compared]
  in_full = (time.perf_counter() - started) / max(len(compared), 1)
  for top, scores in zip(found, whole, strict=False):
    check_top(top, scores)
  total = search.num_nodes
  share = np.array(search.nodes) / total
  print(
    f"\n{len(requests)} users, {len(requests[0].candidates):,} titles or fewer "
    f"each, {total:,} nodes; the top {args.k} of {len(compared)} users are "
    "those of scoring everything\n"
  )
  print("|                 | s a user | nodes read, mean | median | most |")
  print("| --------------- | -------: | ---------------: | -----: | ---: |")
  print(
    f"| search          | {each:>8.3f} | {share.mean():>16.2%} "
    f"| {np.median(share):>6.2%} | {share.max():>4.1%} |"
  )
  print(f"| everything      | {in_full:>8.3f} | {1:>16.0%} | 100% | 100% |")


def check_top(top: np.ndarray, scores: np.ndarray) -> None:
  """Raises AssertionError where the top is not that of all scores."""
  places = np.flatnonzero(np.isfinite(top))
  best = np.sort(scores)[::-1][: len(places)]
  order = places[np.argsort(-top[places], kind="stable")]
  np.testing.assert_allclose(scores[order], best, rtol=1e-5)
  # Two ways of summing in float32, of tries of very different sizes.
  np.testing.assert_allclose(top[order], best, rtol=1e-4)


if __name__ == "__main__":
  main()
