"""Streams of requests, long, mixed and of many candidates: a benchmark.

  .venv/bin/python benchmarks/streams.py --dataset data/games \\
    --model runs/games [--counts 1000 10000 100000]

Growth: `instructrec score` on files of the dataset's sequential requests, over
and over; CPU seconds beyond those of a file of one request, and peak memory.

Mixture: requests of 10 candidates, of 100, and searches, each kind alone and
all in random order; every time a fresh ranker, which is shown the stream twice.
The mixture should take what the kinds took together.

Candidates: more and more titles of the catalogue after one instruction. Titles
begin alike the more often the more there are.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests, write_requests
from instructrec_jax.scoring.reranker import T5Ranker

_KINDS = ("sequential", "sequential_99", "product_search_i2")


def main() -> None:
  """Prints three tables."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument(
    "--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000]
  )
  for name, default, what in (
    ("--limit", 512, "requests of each kind in the mixture"),
    ("--seed", 0, "of the mixture's order and of the titles"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  print_mixture(args)
  print_candidates(args)
  print_growth(args)


def requests_of(
  dataset: pathlib.Path, kind: str, *, limit: int | None = None
) -> list[RankingRequest]:
  """Reads the first test requests of a scenario."""
  path = dataset / "requests" / f"{kind}_test.parquet"
  return list(read_requests(path, limit=limit))


def print_growth(args: argparse.Namespace) -> None:
  """Scores longer and longer files, each in a process of its own."""
  print("\n| requests | CPU ms a request | peak MiB |")
  print("| -------: | ---------------: | -------: |")
  with tempfile.TemporaryDirectory() as folder:
    requests = requests_of(args.dataset, "sequential")
    start = None
    for count in (1, *args.counts):
      path = pathlib.Path(folder) / f"{count}.parquet"
      write_requests(path, itertools.islice(itertools.cycle(requests), count))
      seconds, memory = score_file(path, args.model)
      if start is None:
        start = seconds
        continue
      each = 1e3 * (seconds - start) / count
      print(f"| {count:>8,} | {each:>16.2f} | {memory / 2**20:>8,.0f} |")


def score_file(path: pathlib.Path, model: pathlib.Path) -> tuple[float, int]:
  """Runs `instructrec score`; returns CPU seconds and peak bytes."""
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "instructrec_jax.cli.main", "score"),
      *("--requests", path, "--model", model),
      *("--out", path.with_suffix(".jsonl")),
    ],
    stdout=subprocess.DEVNULL,
  )
  status = pathlib.Path(f"/proc/{process.pid}/status")
  peak = 0
  while True:
    # Its `ru_maxrss` would be that of this process, if that is more.
    ended, code, usage = os.wait4(process.pid, os.WNOHANG)
    if ended:
      break
    line = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
    peak = max(peak, int(line[1]) * 1024) if line else peak
    time.sleep(0.1)
  if code:
    raise SystemExit(f"scoring {path} ended with status {code}.")
  return usage.ru_utime + usage.ru_stime, peak


def print_mixture(args: argparse.Namespace) -> None:
  """Times each kind alone, then all of them mixed."""
  streams = {
    kind: requests_of(args.dataset, kind, limit=args.limit) for kind in _KINDS
  }
  mixed = sum(streams.values(), [])
  order = np.random.default_rng(args.seed).permutation(len(mixed))
  together = 0.0
  print("\n| stream | requests | shapes | CPU s | apart |")
  print("| ------ | -------: | -----: | ----: | ----: |")
  for name, requests in (
    *streams.items(),
    ("mixture", [mixed[number] for number in order]),
  ):
    ranker = T5Ranker.load(args.model)
    ranker.score(requests)
    seconds = min(cpu_seconds(ranker, requests) for _ in range(3))
    ratio = f"{seconds / together:.2f}x" if name == "mixture" else ""
    together += seconds
    print(
      f"| {name} | {len(requests):,} | {ranker.compiled_shapes} "
      f"| {seconds:.2f} | {ratio} |"
    )


def print_candidates(args: argparse.Namespace) -> None:
  """Times more and more candidates of one instruction."""
  titles = np.array(display_titles(DatasetFolder.open(args.dataset).items))
  shuffled = np.random.default_rng(args.seed).permutation(titles)
  request = requests_of(args.dataset, "sequential_99", limit=1)[0]
  print("\n| candidates | CPU ms | ms a candidate | nodes a candidate |")
  print("| ---------: | -----: | -------------: | ----------------: |")
  for count in (10, 100, 1_000, 10_000):
    candidates = tuple(shuffled[:count].tolist())
    asked = dataclasses.replace(
      request, candidates=candidates, candidate_items=(), target=None
    )
    ranker = T5Ranker.load(args.model)
    ranker.score([asked])
    each = 1e3 * min(cpu_seconds(ranker, [asked]) for _ in range(3))
    nodes = ranker._tokenize([asked]).own_sizes[:, 3].sum()
    print(
      f"| {len(candidates):>10,} | {each:>6.0f} | {each / count:>14.2f} "
      f"| {nodes / count:>17.2f} |"
    )


def cpu_seconds(ranker: T5Ranker, requests: Sequence[RankingRequest]) -> float:
  """Returns what scoring takes of all cores."""
  started = time.process_time()
  ranker.score(requests)
  return time.process_time() - started


if __name__ == "__main__":
  main()
