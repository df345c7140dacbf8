"""How long `instructrec prepare` takes, and how much memory: a benchmark.

  .venv/bin/python benchmarks/prepare.py [--reviews 1000000 4000000]
    [--rows 30000000] [--gzip] [--recount] [--against CHECKOUT] [--dir DIR]

The reviews are made up, in Amazon 2018's form, with some 100 words of text
each; `--rows` are csv of user, item and time alone. Every run is a process of
its own, and with `--against` each is followed by the same run of the code in
another checkout. The goal: 16 million reviews in 10 minutes and 4 GiB, and 30
million rows in 6 GiB, on 2 cores. `--recount` counts repeats and the k-core of
rows once more, with polars and from the file, and compares. CPU seconds are
printed beside those on the clock, as other work on the machine only lengthens
the latter.
"""

import argparse
import contextlib
import gzip
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import orjson
import polars as pl
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
  parser.add_argument("--reviews", type=int, nargs="*", default=[1_000_000])
  parser.add_argument("--rows", type=int, nargs="*", default=[])
  parser.add_argument("--gzip", action="store_true", help="and gzipped")
  parser.add_argument(
    "--recount", action="store_true", help="check what prepare counts of rows"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--against", type=pathlib.Path, help="a checkout to compare with"
  )
  parser.add_argument(
    "--dir", type=pathlib.Path, help="where to work (default: a new folder)"
  )
  args = parser.parse_args()
  own = pathlib.Path(__file__).resolve().parents[1]
  codes = {"": own} | ({"before": args.against} if args.against else {})
  print(f"{os.cpu_count()} cores")
  print("| input             | code   | MB    | s     | CPU s | peak GiB |")
  print("| ----------------- | ------ | ----: | ----: | ----: | -------: |")
  inputs = [(count, "text") for count in args.reviews]
  for count, kind in inputs + [(count, "rows") for count in args.rows]:
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
      folder = pathlib.Path(name)
      if kind == "text":
        write_shop(folder, reviews=count, seed=args.seed, zipped=args.gzip)
        files = ["reviews.json", *(["reviews.json.gz"] if args.gzip else [])]
      else:
        write_rows(folder, rows=count, seed=args.seed)
        files = ["interactions.csv"]
      for file, (code, checkout) in itertools.product(files, codes.items()):
        seconds, cpu, peak = run_prepare(
          folder / file, out=folder / "out", checkout=checkout
        )
        if args.recount and kind == "rows":
          check_counts(folder / file, folder / "out")
        shutil.rmtree(folder / "out")
        size = (folder / file).stat().st_size / 1e6
        what = f"{count:,} {'gzip' if file.endswith('gz') else kind}"
        print(
          f"| {what:<17} | {code:<6} | {size:>5.0f} | {seconds:>5.0f} "
          f"| {cpu:>5.0f} | {peak:>8.2f} |",
          flush=True,
        )


def write_shop(
  folder: pathlib.Path, *, reviews: int, seed: int, zipped: bool = False
) -> None:
  """Writes items.json and reviews.json, maybe zipped too, into `folder`."""
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
    gzip.open(folder / "reviews.json.gz", "wb", compresslevel=1)
    if zipped
    else contextlib.nullcontext() as packed,
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
      if packed is not None:
        packed.write(lines)
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


def write_rows(folder: pathlib.Path, *, rows: int, seed: int) -> None:
  """Writes interactions.csv and items.csv into `folder`."""
  rng = np.random.default_rng(seed)
  num_items = rows // _REVIEWS_PER_ITEM
  with open(folder / "interactions.csv", "wb") as file:
    file.write(b"user_id,item_id,timestamp\n")
    for start in tqdm.trange(0, rows, 1_000_000, desc="making", disable=None):
      count = min(1_000_000, rows - start)
      items = (num_items * rng.random(count) ** 2).astype(int)
      frame = pl.DataFrame(
        {
          "user": rng.integers(0, rows // _REVIEWS_PER_USER, count),
          "item": items,
          "time": rng.integers(1_300_000_000, 1_540_000_000, count),
        }
      )
      frame.select(
        user="A" + pl.col("user").cast(pl.String).str.zfill(13),
        item="B" + pl.col("item").cast(pl.String).str.zfill(9),
        time="time",
      ).write_csv(file, include_header=False)
  pl.DataFrame(
    {
      "item_id": [f"B{item:09d}" for item in range(num_items)],
      "title": [f"Title {item}" for item in range(num_items)],
    }
  ).write_csv(folder / "items.csv")


def check_counts(path: pathlib.Path, out: pathlib.Path) -> None:
  """Counts repeats and the 5-core of a csv file; ends if `out` has others."""
  rows = pl.read_csv(path, columns=["user_id", "item_id"])
  pairs = rows.unique()
  repeats = rows.height - pairs.height
  rounds = []
  while True:
    enough = pl.all_horizontal(
      pl.len().over(name) >= 5 for name in rows.columns
    )
    core = pairs.filter(enough)
    if core.height == pairs.height:
      break
    rounds.append(core.height)
    pairs = core
  items = core.n_unique("item_id")
  a_user = core.group_by("user_id").len()
  counted = {
    "reviews": rows.height,
    "repeats": repeats,
    "k_core_rounds": rounds,
    "below_k_core": rows.height - repeats - core.height,
    "before_last_items": (a_user["len"].cast(pl.Int64) - 20).clip(0).sum(),
    "users": a_user.height,
    "items": items,
  }
  found = orjson.loads((out / "manifest.json").read_bytes())["counts"]
  users = pl.scan_parquet(out / "interactions.parquet").select("user").max()
  found["users"] = users.collect().item() + 1
  found["items"] = pl.read_parquet(out / "items.parquet").height
  if wrong := {k: found[k] for k, n in counted.items() if found[k] != n}:
    raise SystemExit(f"prepare counts {wrong}, not {counted}")
  print(f"prepare and polars count the same: {counted}", file=sys.stderr)


def run_prepare(
  path: pathlib.Path, *, out: pathlib.Path, checkout: pathlib.Path
) -> tuple[float, float, float]:
  """Returns seconds, CPU seconds and the peak in GiB of a process."""
  command = ["-m", "instructrec_jax.cli.main", "prepare", "--out", str(out)]
  items = str(
    path.parent / f"items{path.with_suffix('').suffix or path.suffix}"
  )
  if path.suffix == ".csv":
    command += ["--format", "csv", "--interactions", str(path)]
    command += ["--items", items]
  else:
    command += ["--format", "amazon2018", "--reviews", str(path)]
    command += ["--metadata", items]
  start = time.perf_counter()
  process = subprocess.Popen(
    [sys.executable, *command],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
    cwd=path.parent,
  )
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit("prepare failed")
  # Linux counts memory in KiB.
  return (
    time.perf_counter() - start,
    usage.ru_utime + usage.ru_stime,
    usage.ru_maxrss / (1 << 20),
  )


if __name__ == "__main__":
  main()
