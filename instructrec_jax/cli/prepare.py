"""Makes a dataset folder from raw reviews and item metadata.

Titles are cleaned, repeats and rare users and items removed, sequences put in
time order and split leave-one-out or by global time, and negatives drawn once
for all rankers.
"""

import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = (
  "instructrec prepare --format amazon2018 --reviews Video_Games_5.json.gz "
  "--metadata meta_Video_Games.json.gz --out data/games"
)

_Column = Annotated[str, opt.Arg("name of this column")]


@dataclass(frozen=True, kw_only=True)
class Columns:
  """Columns of csv or parquet."""

  user_column: _Column = "user_id"
  item_column: _Column = "item_id"
  time_column: _Column = "timestamp"
  rating_column: _Column = "rating"
  title_column: _Column = "title"
  categories_column: _Column = "categories"
  image_column: _Column = "image_url"
  """name of the column with the address of an item's picture"""
  delimiter: Annotated[
    str | None, opt.Arg(metavar="CHARACTER", may_be_blank=True)
  ] = None
  """between the columns of csv, or the word tab (default: the one of comma,
  tab, semicolon and bar that the header shows)"""
  category_separator: Annotated[
    str, opt.Arg(metavar="TEXT", may_be_blank=True)
  ] = "|"
  """between an item's categories, in a column of text"""


@dataclass(frozen=True, kw_only=True)
class Options:
  format: Literal[
    "amazon2014", "amazon2018", "amazon2023", "csv", "parquet", "synthetic"
  ]
  """of the files; synthetic makes up a shop"""
  out: opt.Out
  reviews: opt.InputFile | None = None
  """Amazon's reviews, plain or gzip"""
  metadata: opt.InputFile | None = None
  """Amazon's items, plain or gzip"""
  interactions: opt.InputFile | None = None
  """interactions of csv (plain or gzip) or parquet"""
  items: opt.InputFile | None = None
  """items of csv or parquet"""
  columns: Columns
  users: Annotated[opt.Count, opt.Arg(most=1_000_000)] = 3000
  """shoppers of the synthetic shop"""
  min_count: opt.CountOrZero = 5
  """interactions that every user and item must have; 0 for any"""
  max_items: opt.CountOrZero = 20
  """last items of each user that are kept; 0 for all"""
  split: Literal["leave-one-out", "global-time", "official"] = "leave-one-out"
  """what is held out: each user's last two items, what happened after two
  moments, or what Amazon 2023's own files hold out"""
  validation_from: Annotated[str | None, opt.Arg(metavar="DATE")] = None
  """the first moment of global-time, such as 2021-08-11 (UTC); by default a
  tenth of the interactions is between the two, a tenth after them"""
  test_from: Annotated[str | None, opt.Arg(metavar="DATE")] = None
  """the second moment of global-time"""
  official: opt.InputFile | None = None
  """CATEGORY.train.csv of Amazon 2023's benchmark/5core, valid and test beside
  it; --reviews then only adds texts"""
  expect: Literal["games", "cds"] | None = None
  """fail unless the counts are those of the paper's Table 5"""
  seed: opt.Seed = 0
  """seed of the negatives and of the order of equal times"""
  strict: bool = False
  """stop at the first broken line"""
  force: opt.Force = False
  """replace --out, if it is a dataset folder without annotations"""
  json: opt.Json = False


def run(options: Options) -> None:
  """Runs `data.prepare.prepare` and prints the paper's Table 5."""
  _refuse_others(options)
  from instructrec_jax.data import statistics, tables
  from instructrec_jax.data.prepare import prepare

  names = opt.arguments(options.columns).items()
  folder = prepare(
    **opt.arguments(options, "columns", "expect", "json"),
    columns=tables.Columns(
      **{option.removesuffix("_column"): name for option, name in names}
    ),
  )
  manifest = folder.manifest
  for path, broken in manifest["broken_lines"].items():
    lines = [f"{path}: {broken['count']:,} broken lines skipped, such as"]
    lines += [f"  {where}" for where in broken["first"]]
    print("\n".join(lines), file=sys.stderr)
  for note in manifest["notes"]:
    print(note, file=sys.stderr)
  if options.json:
    counted = {name: manifest[name] for name in ("counts", "ties")}
    print(json.dumps({**folder.statistics, **counted}))
  else:
    print(_steps(manifest["counts"]))
    print(_ties(manifest["ties"]))
    print(statistics.table(options.out.name, folder.statistics))
    print(f"written: {options.out}")
  # Last: the folder is written, and its counts shown, even if they differ.
  if options.expect:
    statistics.check_published(folder.statistics, options.expect)


def _refuse_others(options: Options) -> None:
  """Raises InputError for an option that only another format has."""
  if options.split == "official" and options.min_count != Options.min_count:
    raise InputError(
      "--min-count is not of --split official: its files are filtered."
    )
  if options.format != "synthetic" and options.users != Options.users:
    raise InputError(f"--users is of synthetic, not of {options.format}.")
  if options.format not in ("csv", "parquet"):
    for name, value in opt.arguments(options.columns).items():
      if value != getattr(Columns, name):
        raise InputError(
          f"--{name.replace('_', '-')} is of csv and parquet, not of "
          f"{options.format}."
        )


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
  if later := counts["of_new_users_or_items"]:
    dropped["  later, of new users or items"] = later
  return "\n".join(f"{name:<30}{n:>12,}" for name, n in dropped.items())


def _ties(ties: dict[str, Any]) -> str:
  """Returns how many targets have the time of another item of the user."""
  shares = {f"  of {name}": ties[name] for name in ("validation", "test")}
  lines = [f"{name:<30}{share:>12.1%}" for name, share in shares.items()]
  return "\n".join([f"targets at tied times, ordered {ties['order']}", *lines])
