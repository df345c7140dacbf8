"""Raw files -> a dataset folder: the data half's pipeline, in order.

Memory holds numbers, some 50 bytes of each interaction, and never the texts,
which wait on disk (see `review_store`).

Items without a title go, of repeated (user, item) pairs the first in time
stays (equal times are ordered by a seeded hash), the joint k-core follows, and
each user keeps their last items. Users and items are counted before that last
cut. Then come splits and candidates. A split by global time comes first: the
k-core and the last items are those of training (see `splits`).
"""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet
from jaxtyping import Bool

from instructrec_jax import locks, storage, workers
from instructrec_jax.cards import DATASET_CARD, refuse_changed
from instructrec_jax.data import (
  amazon,
  folder,
  held_out,
  lines,
  selection,
  synthetic,
  tables,
)
from instructrec_jax.data import splits as splits_lib
from instructrec_jax.data.cleaning import title_notes
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.review_store import ReviewStore
from instructrec_jax.data.statistics import dataset_statistics
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_file,
  check_seed,
)
from instructrec_jax.progress import progress
from instructrec_jax.records import Item

FORMATS = (*amazon.FORMATS, *tables.FORMATS, "synthetic")
SPLIT_BY = ("leave-one-out", "global-time", "official")
# A chat model's answers, which cost money.
_PAID = (
  folder.ANNOTATIONS_FILE,
  folder.BATCHES_FILE,
  folder.CHAT_RANKINGS_FILE,
)


def prepare(
  *,
  out: pathlib.Path,
  format: str,
  reviews: pathlib.Path | None = None,
  metadata: pathlib.Path | None = None,
  interactions: pathlib.Path | None = None,
  items: pathlib.Path | None = None,
  columns: tables.Columns | None = None,
  users: int = 3000,
  min_count: int = 5,
  max_items: int = 20,
  split: str = "leave-one-out",
  validation_from: str | None = None,
  test_from: str | None = None,
  official: pathlib.Path | None = None,
  seed: int = 0,
  strict: bool = False,
  force: bool = False,
) -> DatasetFolder:
  """Makes a dataset folder, whole or not at all.

  Args:
    out: the folder to make.
    format: one of `FORMATS`.
    reviews, metadata: of Amazon's formats, plain or gzip.
    interactions, items, columns: of csv or Parquet.
    users: shoppers of a synthetic shop.
    min_count: the k of k-core; 0 keeps everybody, as an official split does.
    max_items: how many last items of each user stay; 0 keeps all. What a split
      other than leave-one-out holds out is not counted, and stays.
    split: one of `SPLIT_BY`; see `splits`.
    validation_from, test_from: the moments of global time, in ISO 8601 (UTC
      without a zone); if None, a tenth of the interactions is between them,
      another after them.
    official: the train.csv of a split of Amazon 2023's benchmark, which takes
      the place of `reviews`; those, if given too, add the texts.
    seed: of the negatives, the items' split and the order of equal times, and
      of a synthetic shop.
    strict: stop at the first broken line instead of counting it.
    force: replace `out`, a dataset folder without annotations.

  Returns:
    The folder, opened. Its manifest has `counts` of every step,
    `broken_lines` by file, `ties` (how many targets have them, and what
    orders them), and `notes` for people.

  Raises:
    InputError: an input is missing, unreadable or of another format; nothing
      is left after filtering; there are no times to split by; `out` exists
      and `force` is not set, or may not be replaced.
  """
  columns = columns or tables.Columns()
  check_counts(most=1_000_000, users=users)
  _check_options(min_count, max_items, split, seed)
  cuts = _check_cuts(split, validation_from, test_from)
  if columns.delimiter and format != "csv":
    raise InputError(f"--delimiter is of --format csv, not of {format}.")
  broken = lines.BrokenLines(strict=strict)
  inputs = _check_files(
    format,
    {
      "reviews": reviews,
      "metadata": metadata,
      "interactions": interactions,
      "items": items,
    },
    split,
    official,
  )
  counts: dict[str, Any] = {}
  with (
    storage.staged_folder(
      out, force=force, may_go=_refuse_loss, inputs=tuple(inputs.values())
    ) as partial,
    ReviewStore(partial / ".reviews") as store,
  ):
    planted = None
    if format == "synthetic":
      shop = synthetic.synthetic_shop(users=users, seed=seed)
      planted = shop.planted
      review_frames, item_frames = ([f] for f in _shop_frames(shop))
    else:
      review_frames, item_frames = _open(
        format, inputs, columns=columns, broken=broken, counts=counts
      )
    item_frame = selection.read_items(item_frames, counts)
    reviews_read = selection.read_reviews(
      review_frames, item_frame, store, counts
    )
    ordered = selection.in_time_order(
      reviews_read, item_frame, seed=seed, counts=counts
    )
    times = reviews_read.times
    phases = np.zeros(len(ordered.rows), np.int8)
    own_times = ordered.sequences, times[ordered.rows]
    numbered = splits_lib.are_positions(*own_times)
    if split == "global-time":
      splits_lib.refuse_positions(*own_times)
      cuts = cuts or splits_lib.time_cuts(times[ordered.rows])
      phases = np.searchsorted(cuts, times[ordered.rows], side="right")
    elif split == "official":
      assert reviews_read.phases is not None
      phases = reviews_read.phases[ordered.rows]
      min_count = 0
    if len(phases) and phases.min() > 0:
      first = splits_lib.iso(int(times[ordered.rows].min()))
      raise InputError(
        f"none of the {len(phases):,} interactions trains: the first is of "
        f"{first}; name later moments, another official split, or --split "
        "leave-one-out."
      )
    chosen = selection.select(
      ordered,
      min_count=min_count,
      phases=phases,
      keep_new=split == "official",
      counts=counts,
    )
    catalogue = _write_items(partial, item_frame, chosen)
    last = chosen.from_end < (max_items or len(chosen.rows))
    counts["before_last_items"] = int((~last).sum())
    _write_interactions(partial, reviews_read, store, chosen, last)
    times = times[chosen.rows]
    del reviews_read
    sequences, owned = chosen.sequences(last), chosen.sequences()
    (partial / folder.ITEM_SPLIT_FILE).parent.mkdir()
    if split == "leave-one-out":
      splits = splits_lib.leave_one_out(sequences)
    else:
      splits = _write_phases(partial, chosen, last)
    titles = [item.title for item in catalogue]
    groups = splits_lib.title_groups(titles)
    item_split = splits_lib.split_items(groups, seed=seed)
    pl.DataFrame(
      {
        "item": np.arange(len(item_split), dtype=np.int32),
        "split": [splits_lib.SPLITS[number] for number in item_split],
      }
    ).write_parquet(partial / folder.ITEM_SPLIT_FILE)
    notes = _unmatched(counts) + title_notes(titles)
    if split != "leave-one-out":
      notes += _not_targets(chosen, splits)
    notes += held_out.write_candidates(
      partial,
      splits=splits,
      item_split=item_split,
      sequences=sequences,
      owned=owned,
      items=catalogue,
      title_groups=groups,
      seed=seed,
    )
    statistics = dataset_statistics(
      sequences=sequences,
      splits=splits,
      items=catalogue,
      interactions_before_cut=len(chosen.rows),
    )
    storage.write_json(partial / folder.STATISTICS_FILE, statistics)
    if planted is not None:
      storage.write_json(partial / folder.PLANTED_FILE, planted)
    manifest = {
      "version": folder.VERSION,
      "inputs": {
        name: {"path": str(path), "sha256": storage.sha256_of(path)}
        for name, path in inputs.items()
      },
      "options": {
        "format": format,
        "columns": dataclasses.asdict(columns),
        "users": users if format == "synthetic" else None,
        "min_count": min_count,
        "max_items": max_items,
        "split": split,
        "validation_from": cuts and splits_lib.iso(cuts[0]),
        "test_from": cuts and splits_lib.iso(cuts[1]),
      },
      "seed": seed,
      "counts": counts,
      "ties": {
        "order": selection.POSITIONS if numbered else selection.TIES,
        **{
          name: splits_lib.tied_share(
            getattr(splits, name), sequences, times[last]
          )
          for name in ("validation", "test")
        },
      },
      "broken_lines": broken.as_json(),
      "notes": notes,
      "candidates": {
        path.stem: storage.sha256_of(path)
        for path in sorted((partial / folder.CANDIDATES).glob("*"))
      },
      "versions": {
        "python": platform.python_version(),
        "instructrec_jax": importlib.metadata.version("instructrec-jax"),
        "numpy": np.__version__,
        "polars": pl.__version__,
      },
    }
    storage.write_json(partial / folder.MANIFEST_FILE, manifest)
  return DatasetFolder.open(out)


def _check_files(
  format: str,
  files: dict[str, pathlib.Path | None],
  split: str,
  official: pathlib.Path | None,
) -> dict[str, pathlib.Path]:
  """Returns the two files that a format needs; a synthetic shop needs none.

  An official split has its own three in the place of the reviews, or with them.
  """
  if format not in FORMATS:
    raise InputError(
      f"there is no format {format!r}: name one of {', '.join(FORMATS)}."
    )
  names = ("reviews", "metadata") if format in amazon.FORMATS else ()
  if format in tables.FORMATS:
    names = ("interactions", "items")
  given = {name: pathlib.Path(path) for name, path in files.items() if path}
  if (official is not None) != (split == "official"):
    raise InputError(
      "--split official and --official FILE, the CATEGORY.train.csv of Amazon "
      "2023's benchmark, need each other."
    )
  if official is not None:
    if format != "amazon2023":
      raise InputError(
        f"--official is of --format amazon2023, not of {format}."
      )
    if not given.keys() <= set(names) or "metadata" not in given:
      raise InputError(
        "--split official needs --metadata, and --reviews if texts are wanted, "
        "and nothing else."
      )
    own = amazon.official_files(pathlib.Path(official))
    given = {**{f"official {name}": p for name, p in own.items()}, **given}
    names = tuple(given)
  if set(given) != set(names):
    wanted = " and ".join(f"--{name}" for name in names) or "no files"
    raise InputError(f"--format {format} needs {wanted}, and nothing else.")
  for path in given.values():
    check_file(path)
  if "reviews" in given and given["reviews"].samefile(given["metadata"]):
    raise InputError(
      f"{given['reviews']} is given as --reviews and as --metadata, but they "
      "are two files."
    )
  return {name: given[name] for name in names}


def _open(
  format: str,
  inputs: dict[str, pathlib.Path],
  *,
  columns: tables.Columns,
  broken: lines.BrokenLines,
  counts: dict[str, Any],
) -> tuple[Iterable[pl.DataFrame], Iterable[pl.DataFrame]]:
  """Returns the frames of interactions and those of items, not yet read."""
  options: dict[str, Any] = {"format": format, "broken": broken}
  if format in tables.FORMATS:
    options["columns"] = columns
    return (
      tables.read_reviews(inputs["interactions"], **options),
      tables.read_items(inputs["items"], **options),
    )
  items = amazon.read_items(inputs["metadata"], **options)
  reviews: Iterable[pl.DataFrame] = ()
  if "reviews" in inputs:
    reviews = amazon.read_reviews(inputs["reviews"], **options)
  own = [path for name, path in inputs.items() if name.startswith("official ")]
  if not own:
    return reviews, items
  official = amazon.read_official(own, broken=broken)
  if "reviews" not in inputs:
    return official, items
  return amazon.with_texts(official, reviews, counts), items


def _write_phases(
  out: pathlib.Path,
  chosen: selection.Chosen,
  last: Bool[np.ndarray, " interactions"],
) -> splits_lib.Splits:
  """Writes how much of each user's sequence is held out."""
  sequences = chosen.sequences(last)
  training, validation = (
    np.bincount(
      chosen.users[last & (chosen.phases <= phase)], minlength=len(sequences)
    )
    for phase in (0, 1)
  )
  splits = splits_lib.of_lengths(sequences, training, validation)
  splits_lib.check_targets(
    splits,
    f"of the {len(chosen.rows):,} interactions that are left "
    f"{int((chosen.phases == 0).sum()):,} train, "
    f"{int((chosen.phases == 1).sum()):,} are of validation and "
    f"{int((chosen.phases == 2).sum()):,} of the test; name other moments, "
    "another official split, or --split leave-one-out.",
  )
  frame = {
    "user": np.arange(len(sequences), dtype=np.int32),
    "training": training,
    "validation": validation,
  }
  pl.DataFrame(frame).write_parquet(out / folder.USER_SPLIT_FILE)
  return splits


def _not_targets(
  chosen: selection.Chosen, splits: splits_lib.Splits
) -> list[str]:
  """Returns a note if held-out interactions are no targets."""
  notes = []
  for phase, name in ((1, "validation"), (2, "test")):
    count = int((chosen.phases == phase).sum())
    targets = len(getattr(splits, name).users)
    if targets < count:
      notes.append(
        f"of {count:,} interactions of the {name} split, {targets:,} are "
        "targets: each user's last, where the user had an item before."
      )
  return notes


def _unmatched(counts: dict[str, Any]) -> list[str]:
  """Returns a note if more reviews than not are of no item with a title."""
  lost, read = counts["of_items_without_title"], counts["reviews"]
  if 2 * lost <= read:
    return []
  return [
    f"{lost:,} of {read:,} reviews are of items that have no title, or are not "
    "in the file of items: do the two files belong together?"
  ]


def _shop_frames(
  shop: synthetic.SyntheticShop,
) -> tuple[pl.DataFrame, pl.DataFrame]:
  """Returns a synthetic shop's reviews and items."""
  reviews = list(map(dataclasses.asdict, shop.reviews))
  items = [
    lines.item_row(i.item_id, title=i.title, categories=i.categories)
    for i in shop.items
  ]
  return (
    pl.DataFrame(reviews, schema=lines.REVIEW_SCHEMA),
    pl.DataFrame(items, schema=lines.ITEM_SCHEMA, orient="row"),
  )


def _refuse_loss(out: pathlib.Path) -> None:
  """Raises InputError if `out` has more than `prepare` and `build` wrote."""
  if paid := [name for name in _PAID if (out / name).exists()]:
    raise InputError(
      f"{out} holds {', '.join(paid)}: save annotations with `instructrec "
      f"annotate --dataset {out} --export FILE`, and delete what may go."
    )
  names = {path.name for path in out.iterdir()} - {locks.INSIDE}
  refuse_changed(out / DATASET_CARD)
  built = out / folder.INSTRUCTIONS_FILE
  if built.exists():
    own = storage.read_json(built, folder.BUILT)["requests"]
    requests = {path.name for path in (out / folder.REQUESTS).glob("*")}
    names |= {
      f"{folder.REQUESTS}/{name}"
      for name in requests - {f"{name}.parquet" for name in own}
    }
  if names and not (out / folder.MANIFEST_FILE).is_file():
    raise InputError(
      f"{out} is not a dataset folder, so --force does not replace it: "
      "name another place."
    )
  if foreign := sorted(names - folder.MADE_ANEW):
    raise InputError(
      f"{out} holds {foreign[0]}, which is not of a dataset folder, so --force "
      "does not replace it: move it away, or name another place."
    )


def _check_options(
  min_count: int, max_items: int, split: str, seed: int
) -> None:
  check_seed(seed)
  check_counts(least=0, min_count=min_count, max_items=max_items)
  if split not in SPLIT_BY:
    raise InputError(f"no split {split!r}: name {' or '.join(SPLIT_BY)}.")
  if max_items in (1, 2):
    raise InputError(
      f"max-items is {max_items}: a split needs 3 items or more (0 keeps all)."
    )


def _check_cuts(
  split: str, validation_from: str | None, test_from: str | None
) -> tuple[int, int] | None:
  """Returns the two moments in seconds, if they are given."""
  if validation_from is None and test_from is None:
    return None
  if split != "global-time":
    raise InputError(
      "--validation-from and --test-from are of --split global-time, not of "
      f"{split}."
    )
  if validation_from is None or test_from is None:
    raise InputError("--validation-from and --test-from need each other.")
  first = splits_lib.moment("--validation-from", validation_from)
  second = splits_lib.moment("--test-from", test_from)
  if first >= second:
    raise InputError(
      f"--validation-from is {validation_from}, not before --test-from "
      f"({test_from}): validation would have no time."
    )
  return first, second


def _write_items(
  out: pathlib.Path, items: pl.DataFrame, chosen: selection.Chosen
) -> list[Item]:
  frame = items[chosen.catalogue].with_columns(
    item=np.arange(len(chosen.catalogue), dtype=np.int32)
  )
  frame.drop("image").write_parquet(out / folder.ITEMS_FILE)
  # Apart, and only where there are any: most readers need none.
  images = frame.filter(pl.col("image") != "").select("item", "image")
  if images.height:
    images.write_parquet(out / folder.IMAGES_FILE)
  rows = frame.select("item_id", "title", "categories").rows()
  return [Item(i, title, tuple(names)) for i, title, names in rows]


def _write_interactions(
  out: pathlib.Path,
  reviews: selection.Interactions,
  store: ReviewStore,
  chosen: selection.Chosen,
  last: Bool[np.ndarray, " interactions"],
) -> None:
  """Writes each user's last items, and apart from them what came before."""
  rows, users, items = chosen.rows[last], chosen.users[last], chosen.items[last]
  place = np.full(len(reviews.users), -1, np.int32)
  place[rows] = np.arange(len(rows), dtype=np.int32)
  texts: Any = ["user_id", "summary", "text"]
  start = 0
  with contextlib.ExitStack() as open_files:
    bar = open_files.enter_context(
      progress(total=len(rows), desc="texts", unit=" rows", unit_scale=True)
    )
    writer = None
    for piece in workers.ahead(store.sorted(place, reviews.users[rows])):
      end = start + piece.height
      own = users[start:end]
      # A piece may begin within a user.
      first = np.searchsorted(users, own)
      table = piece.select(
        pl.Series("user", own),
        "user_id",
        pl.Series("item", items[start:end]),
        pl.Series("position", (np.arange(start, end) - first).astype(np.int32)),
        pl.Series("timestamp", reviews.times[rows[start:end]]),
        "rating",
        "summary",
        "text",
      ).to_arrow()
      if writer is None:
        writer = open_files.enter_context(
          pyarrow.parquet.ParquetWriter(
            out / folder.INTERACTIONS_FILE,
            table.schema,
            compression="zstd",
            # Numbers hardly repeat; short texts do.
            use_dictionary=texts,
          )
        )
      writer.write_table(table)
      start = end
      bar.update(piece.height)
  earlier = {"user": chosen.users[~last], "item": chosen.items[~last]}
  pl.DataFrame(earlier).write_parquet(out / folder.EARLIER_FILE)
