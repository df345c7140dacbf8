"""How long `instructrec prepare` takes, and how much memory: a benchmark.

  .venv/bin/python benchmarks/prepare.py [--reviews 1000000] [--dir DIR]

The reviews are made up, in Amazon 2018's form, with some 100 words of text
each; every run is a process of its own. The goal: a million in 60 s and 4 GiB
on 2 cores.
"""

import argparse
import gzip
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import orjson
import tqdm

_REVIEWS_PER_USER = 10
_REVIEWS_PER_ITEM = 30
_SENTENCES = 20_000
_WORDS_PER_SENTENCE = 10
_SENTENCES_PER_REVIEW = 10
_CHUNK = 10_000


def main() -> None:
  """Makes the files, runs `prepare` on them and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--reviews", type=int, default=1_000_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--dir", type=pathlib.Path, help="where to work (default: a new folder)"
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.dir) as name:
    folder = pathlib.Path(name)
    write_shop(folder, reviews=args.reviews, seed=args.seed)
    print(f"{args.reviews:,} reviews, {os.cpu_count()} cores")
    print("| input | MB   | seconds | peak GiB |")
    print("| ----- | ---- | ------- | -------- |")
    for suffix, kind in (("json", "plain"), ("json.gz", "gzip")):
      path = folder / f"reviews.{suffix}"
      seconds, peak = run_prepare(
        path, folder / "items.json", out=folder / f"out_{kind}"
      )
      size = path.stat().st_size / 1e6
      print(
        f"| {kind:<5} | {size:>4.0f} | {seconds:>7.1f} | {peak:>8.2f} |",
        flush=True,
      )


def write_shop(folder: pathlib.Path, *, reviews: int, seed: int) -> None:
  """Writes reviews.json, reviews.json.gz and items.json into `folder`."""
  rng = np.random.default_rng(seed)
  letters = np.array(list("etaoinshrdlu"))
  words = ["".join(rng.choice(letters, n)) for n in rng.integers(2, 9, 5000)]
  sentences = [
    " ".join(words[w] for w in row)
    for row in rng.integers(0, len(words), (_SENTENCES, _WORDS_PER_SENTENCE))
  ]
  num_items = reviews // _REVIEWS_PER_ITEM
  with (
    open(folder / "reviews.json", "wb") as plain,
    gzip.open(folder / "reviews.json.gz", "wb", compresslevel=1) as zipped,
  ):
    for start in tqdm.trange(0, reviews, _CHUNK, desc="making", disable=None):
      lines = _reviews(
        rng,
        sentences,
        count=min(_CHUNK, reviews - start),
        num_users=reviews // _REVIEWS_PER_USER,
        num_items=num_items,
      )
      plain.write(lines)
      zipped.write(lines)
  with open(folder / "items.json", "wb") as file:
    for item in range(num_items):
      record = {
        "asin": f"B{item:09d}",
        "title": sentences[item % _SENTENCES][:60] + f" {item}",
        "category": ["Shop", words[item % 50]],
      }
      file.write(orjson.dumps(record) + b"\n")


def _reviews(
  rng: np.random.Generator,
  sentences: list[str],
  *,
  count: int,
  num_users: int,
  num_items: int,
) -> bytes:
  users = rng.integers(0, num_users, count)
  # Squared: some items are bought far more often than others.
  items = (num_items * rng.random(count) ** 2).astype(int)
  times = rng.integers(1_300_000_000, 1_540_000_000, count).tolist()
  texts = rng.integers(0, len(sentences), (count, _SENTENCES_PER_REVIEW))
  lines = [
    orjson.dumps(
      {
        "overall": 5.0,
        "verified": True,
        "reviewTime": "06 17, 2018",
        "reviewerID": f"A{user:013d}",
        "asin": f"B{item:09d}",
        "reviewerName": sentences[text[0]][:12],
        "reviewText": ". ".join(sentences[s] for s in text),
        "summary": sentences[text[0]],
        "unixReviewTime": timestamp,
      }
    )
    for user, item, timestamp, text in zip(
      users, items, times, texts, strict=True
    )
  ]
  return b"\n".join(lines) + b"\n"


def run_prepare(
  reviews: pathlib.Path, metadata: pathlib.Path, *, out: pathlib.Path
) -> tuple[float, float]:
  """Runs `prepare` in a process; returns its seconds and its peak in GiB."""
  command = ["-m", "instructrec_jax.cli.main", "prepare"]
  command += ["--format", "amazon2018", "--reviews", str(reviews)]
  command += ["--metadata", str(metadata), "--out", str(out), "--json"]
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, *command], stdout=subprocess.DEVNULL
  )
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit("prepare failed")
  # Linux counts in KiB.
  return time.perf_counter() - start, usage.ru_maxrss / (1 << 20)


if __name__ == "__main__":
  main()
