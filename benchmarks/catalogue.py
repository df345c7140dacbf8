"""The exact top of a catalogue beside scoring all of it: a benchmark.

  .venv/bin/python benchmarks/catalogue.py --dataset data/games \\
    --model runs/games [--users 200] [--compared 20] \\
    [--scenario sequences_full --normalisation catalogue_prior]

For each user the 20 best of all titles but those bought before. `compared` of
the users are scored in full as well, and the order must be the same but where
scores differ by less than 1e-5: the model computes in float32, whatever it was
trained in. Work is counted in nodes of the trie of titles. With `--synthetic
1000000`, so many titles are made of halves of the dataset's.
"""

import argparse
import dataclasses
import pathlib
import resource
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch
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
  parser.add_argument("--synthetic", type=int, help="titles, of real halves")
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
  config, params = model_folder.load_params(args.model)
  model: dict[str, Any] = {
    "config": dataclasses.replace(config, dtype=jnp.float32),
    "params": params,
    "vocabulary": model_folder.load_vocabulary(args.model),
    "title_counts": model_folder.load_title_counts(args.model),
    "normalisation": args.normalisation,
  }
  if args.synthetic:
    items = DatasetFolder.open(args.dataset).items
    search_synthetic(args, model, list(dict.fromkeys(i.title for i in items)))
    return
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


def search_synthetic(
  args: argparse.Namespace, model: dict[str, Any], texts: list[str]
) -> None:
  """Prints what a search of many titles takes, made of halves of real ones.

  Memory is the process's peak, and what that was before the search was made.
  """
  rng = np.random.default_rng(args.seed)
  real = [title.split() for title in texts]
  names = dict.fromkeys(texts)
  while len(names) < args.synthetic:
    for one, other in rng.integers(0, len(real), (1 << 16, 2)).tolist():
      words = real[one][: len(real[one]) // 2 + 1], real[other]
      names[" ".join([*words[0], *words[1][len(words[1]) // 2 :]])] = None
  titles = list(names)[: args.synthetic]
  before = peak_bytes()
  started = time.perf_counter()
  search = CatalogueSearch(titles, **model)
  built = time.perf_counter() - started
  asked = [f"{text}." for text in texts[: args.users]]
  search.top(asked, args.k)
  started = time.perf_counter()
  found = search.top(asked, args.k)
  each = (time.perf_counter() - started) / len(asked)
  peak = peak_bytes()
  # No other title is better than the last of the top: of many, drawn.
  sample = rng.choice(len(titles), min(2000, len(titles)), replace=False)
  ranker = T5Ranker(**model)
  for instruction, one in zip(asked[: args.compared], found, strict=False):
    numbers = [*one.titles, *sample]
    request = RankingRequest("", instruction, tuple(titles[n] for n in numbers))
    (scores,) = ranker.score([request])
    top, others = scores[: len(one.titles)], scores[len(one.titles) :]
    np.testing.assert_allclose(top, one.scores, rtol=1e-4)
    assert others[~np.isin(sample, one.titles)].max() <= top.min() * 0.9999
  nodes = np.mean([one.nodes for one in found])
  print(
    f"{len(titles):,} titles, {len(search.trie.tokens):,} nodes: built in "
    f"{built:.1f} s; {len(asked)} instructions at a time, {each:.2f} s and "
    f"{nodes:,.0f} nodes each; at most {peak / 2**20:,.0f} MiB, "
    f"{before / 2**20:,.0f} of it before the search was built"
  )


def peak_bytes() -> int:
  """Returns the most memory that the process had so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
