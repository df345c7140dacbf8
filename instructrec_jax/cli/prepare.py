"""Makes a dataset folder from raw reviews and item metadata.

Titles are cleaned, repeats and rare users and items removed, sequences put in
time order and split leave-one-out or by global time, and negatives drawn once
for all rankers.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

EXAMPLE = (
  "instructrec prepare --format amazon2018 --reviews Video_Games_5.json.gz "
  "--metadata meta_Video_Games.json.gz --out data/games"
)

_COLUMNS = {
  "user": "user_id",
  "item": "item_id",
  "time": "timestamp",
  "rating": "rating",
  "title": "title",
  "categories": "categories",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of `instructrec prepare`."""
  parser.add_argument(
    "--format",
    required=True,
    metavar="FORMAT",
    help="amazon2014, amazon2018, amazon2023, csv, parquet or synthetic",
  )
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="the folder to make"
  )
  for name, what in (
    ("reviews", "Amazon's reviews, plain or gzip"),
    ("metadata", "Amazon's items, plain or gzip"),
    ("interactions", "interactions of csv (plain or gzip) or parquet"),
    ("items", "items of csv or parquet; csv joins categories by |"),
  ):
    parser.add_argument(f"--{name}", type=pathlib.Path, help=what)
  for column, default in _COLUMNS.items():
    parser.add_argument(
      f"--{column}-column",
      default=default,
      metavar="NAME",
      help="of csv or parquet (default: %(default)s)",
    )
  parser.add_argument(
    "--users", type=int, default=3000, help="shoppers of the synthetic shop"
  )
  parser.add_argument(
    "--min-count",
    type=int,
    default=5,
    help="interactions that every user and item must have; 0 for any",
  )
  parser.add_argument(
    "--max-items",
    type=int,
    default=20,
    help="last items of each user that are kept; 0 for all",
  )
  parser.add_argument(
    "--split",
    default="leave-one-out",
    choices=("leave-one-out", "global-time"),
    help="what is held out: each user's last two items, or what happened "
    "after two moments (default: %(default)s)",
  )
  parser.add_argument(
    "--expect",
    choices=("games", "cds"),
    help="fail unless the counts are those of the paper's Table 5",
  )
  parser.add_argument("--seed", type=int, default=0, help="of the negatives")
  parser.add_argument(
    "--strict", action="store_true", help="stop at the first broken line"
  )
  parser.add_argument(
    "--force",
    action="store_true",
    help="replace --out, if it is a dataset folder without annotations",
  )
  parser.add_argument(
    "--json", action="store_true", help="print JSON, not a table"
  )


def run(args: argparse.Namespace) -> None:
  """Runs `data.prepare.prepare` and prints the paper's Table 5."""
  from instructrec_jax.data import statistics, tables
  from instructrec_jax.data.prepare import prepare

  folder = prepare(
    out=args.out,
    format=args.format,
    reviews=args.reviews,
    metadata=args.metadata,
    interactions=args.interactions,
    items=args.items,
    columns=tables.Columns(
      **{name: getattr(args, f"{name}_column") for name in _COLUMNS}
    ),
    users=args.users,
    min_count=args.min_count,
    max_items=args.max_items,
    split=args.split,
    seed=args.seed,
    strict=args.strict,
    force=args.force,
  )
  for line in _warnings(folder.manifest):
    print(line, file=sys.stderr)
  if args.json:
    print(
      json.dumps({**folder.statistics, "counts": folder.manifest["counts"]})
    )
  else:
    print(_steps(folder.manifest["counts"]))
    print(statistics.table(args.out.name, folder.statistics))
    print(f"written: {args.out}")
  if args.expect:
    statistics.check_published(folder.statistics, args.expect)


def _warnings(manifest: dict[str, Any]) -> list[str]:
  """Returns what went wrong without stopping the run."""
  told = []
  for path, broken in manifest["broken_lines"].items():
    told.append(f"{path}: {broken['count']:,} broken lines skipped, such as")
    told += [f"  {where}" for where in broken["first"]]
  return told + manifest["notes"]


def _steps(counts: dict[str, Any]) -> str:
  """Returns what each step left out, a line each."""
  items, rounds = counts["items"], counts["k_core_rounds"]
  dropped = {
    "items read": items["read"],
    "  without a title": items["without_title"],
    "  repeated": items["repeated"],
    "interactions read": counts["reviews"],
    "  of items without a title": counts["of_items_without_title"],
    "  repeats of a user and item": counts["repeats"],
    f"  below k-core ({len(rounds)} rounds)": counts["below_k_core"],
    "  before a user's last items": counts["before_last_items"],
  }
  return "\n".join(f"{name:<30}{n:>12,}" for name, n in dropped.items())
