"""Baselines side by side, with what they took to train: a benchmark.

  .venv/bin/python benchmarks/baselines.py --dataset DIR \\
      [--rankers popularity cooccurrence sasrec bert4rec] [--negatives 99] \\
      [--catalogue] [--loss full] [--split test] [--limit N] [--seed 0] \\
      [--published]

DIR is a folder of `instructrec prepare`. Every ranker gets the same stored
candidates, whose hash is printed; --catalogue adds a table of all items but
the user's own. What is trained is kept in DIR and not trained again. Brackets
hold 95% intervals, bootstrapped over users. --published sets beside them what
S3-Rec (Zhou et al., 2020) and its authors' log say of toys_2014 with 99
negatives, and ends with status 1 where ours is worse by more than the interval
of both.
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np

COLUMNS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr")
# S3-Rec's figures of Toys: 99 uniform negatives, each user's last item. The log
# is of its authors' repository, a run without pretraining.
PUBLISHED = {
  ("sasrec", "paper"): {
    "hr@1": 0.1878,
    "hr@10": 0.4663,
    "ndcg@10": 0.3136,
    "mrr": 0.2842,
  },
  ("sasrec", "log"): {
    "hr@1": 0.1775,
    "hr@10": 0.4659,
    "ndcg@10": 0.3081,
    "mrr": 0.2770,
  },
  ("bert4rec", "paper"): {"hr@10": 0.4493},
}
# As long lists of candidates are, few users are held at once.
_CANDIDATES_AT_ONCE = 2_000_000


def main() -> None:
  """Fits, ranks and prints a table or two."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument(
    "--rankers",
    nargs="+",
    choices=["popularity", "cooccurrence", "sasrec", "bert4rec"],
    default=["popularity", "cooccurrence", "sasrec", "bert4rec"],
  )
  parser.add_argument("--negatives", type=int, default=99)
  parser.add_argument("--catalogue", action="store_true")
  parser.add_argument(
    "--loss",
    choices=["full", "sampled", "bce"],
    default="full",
    help="of what is trained; another one than before trains again",
  )
  parser.add_argument("--split", choices=["validation", "test"], default="test")
  parser.add_argument("--limit", type=int, help="a random sample of users")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--published", action="store_true")
  args = parser.parse_args()
  os.environ.setdefault("JAX_PLATFORMS", "cpu")

  from instructrec_jax.data.folder import DatasetFolder

  folder = DatasetFolder.open(args.dataset)
  rankers, seconds = {}, {}
  for name in args.rankers:
    start = time.perf_counter()
    ranker = _fit(name, folder, loss=args.loss, seed=args.seed)
    # What was kept says how long it took.
    report = getattr(ranker, "report", {})
    rankers[name] = ranker
    seconds[name] = report.get("seconds", time.perf_counter() - start)
    print(f"{name}: fitted in {seconds[name]:.0f} s {report or ''}", flush=True)
  tables = {
    negatives: _print_table(args, folder, rankers, seconds, negatives)
    for negatives in (args.negatives, *([None] if args.catalogue else []))
  }
  if args.published and not _compare(tables[args.negatives]):
    sys.exit(1)


def _compare(intervals: dict[str, np.ndarray]) -> bool:
  """Prints published figures beside ours; returns whether none is worse."""
  is_good = True
  print("\n| ranker | of S3-Rec's | metric | S3-Rec | ours | ours is |")
  print("| --- " * 6 + "|")
  for (ranker, source), figures in PUBLISHED.items():
    for metric, theirs in figures.items():
      if ranker not in intervals:
        continue
      mean, low, high = intervals[ranker][:, COLUMNS.index(metric)]
      # Theirs has an interval as wide.
      wide = np.sqrt(2) * (high - low) / 2
      verdict = "within the interval of both"
      if abs(mean - theirs) > wide:
        verdict = "better" if mean > theirs else "worse"
        is_good &= mean > theirs
      print(
        f"| {ranker} | {source} | {metric} | {theirs:.4f} | "
        f"{mean:.4f} ±{wide:.4f} | {verdict} |"
      )
  return bool(is_good)


def _fit(name: str, folder, *, loss, seed: int):
  from instructrec_jax.baselines.cooccurrence import CooccurrenceRanker
  from instructrec_jax.baselines.popularity import PopularityRanker
  from instructrec_jax.baselines.sequential import BERT4RecRanker, SASRecRanker

  trained = {"sasrec": SASRecRanker, "bert4rec": BERT4RecRanker}
  if name in trained:
    options = trained[name].options_class()
    training = dataclasses.replace(options.training, loss=loss, seed=seed)
    options = dataclasses.replace(options, training=training)
    return trained[name].fit(folder, options)
  counted = {"popularity": PopularityRanker, "cooccurrence": CooccurrenceRanker}
  return counted[name].fit(
    folder.sequences, num_items=len(folder.items), splits=folder.splits
  )


def _print_table(
  args, folder, rankers, seconds, negatives: int | None
) -> dict[str, np.ndarray]:
  """Returns means, lows and highs of `COLUMNS`, by ranker."""
  from instructrec_jax.data.held_out import candidate_bytes
  from instructrec_jax.evaluation.metrics import (
    bootstrap_means,
    percentile_interval,
    ranking_metrics,
  )

  digest = hashlib.sha256()
  values = {name: [] for name in rankers}
  for requests in _batches(args, folder, negatives):
    digest.update(candidate_bytes(requests))
    targets = [request.target or 0 for request in requests]
    for name, ranker in rankers.items():
      metrics = ranking_metrics(ranker.score(requests), targets, ks=(1, 5, 10))
      values[name].append(np.stack([metrics[c] for c in COLUMNS], axis=1))
  what = "all other items" if negatives is None else f"{negatives} negatives"
  users = sum(map(len, next(iter(values.values()))))
  print(
    f"\n{args.dataset.name}, {args.split}, {what}, {users:,} users, "
    f"candidates {digest.hexdigest()[:16]}\n"
  )
  print(f"| ranker | {' | '.join(c.upper() for c in COLUMNS)} | training s |")
  print("| --- " * (len(COLUMNS) + 2) + "|")
  intervals = {}
  for name, blocks in values.items():
    values_UxM = np.concatenate(blocks)
    low, high = percentile_interval(bootstrap_means(values_UxM, seed=args.seed))
    cells = [
      f"{mean:.4f} [{a:.4f}, {b:.4f}]"
      for mean, a, b in zip(values_UxM.mean(0), low, high, strict=True)
    ]
    print(f"| {name} | {' | '.join(cells)} | {seconds[name]:.0f} |", flush=True)
    intervals[name] = np.stack([values_UxM.mean(0), low, high])
  return intervals


def _batches(args, folder, negatives: int | None) -> Iterator[list]:
  from instructrec_jax.data import held_out
  from instructrec_jax.instructions.render import display_titles

  kept = folder.candidates(args.split, negatives or args.negatives)
  users = len(kept.keys)
  rows = np.random.default_rng(args.seed).permutation(users)[: args.limit]
  rows.sort()
  width = len(folder.items) if negatives is None else negatives + 1
  size = max(1, _CANDIDATES_AT_ONCE // width)
  for start in range(0, len(rows), size):
    requests = held_out.without_text(
      folder,
      kept,
      name="sequential",
      split=args.split,
      rows=rows[start : start + size],
    )
    if negatives is None:
      requests = held_out.with_catalogue(
        requests, folder, display_titles(folder.items), split=args.split
      )
    yield list(requests)


if __name__ == "__main__":
  main()
