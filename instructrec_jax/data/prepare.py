"""Raw files -> a dataset folder: the data half's pipeline, in order.

Items without a title go, of repeated (user, item) pairs the first in time
stays (equal times are ordered by a seeded hash), the joint k-core follows, and
each user keeps their last items. Users and items are counted before that last
cut. Then come splits and candidates.
"""

import dataclasses
import importlib.metadata
import pathlib
import platform
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from instructrec_jax import locks, storage
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
from instructrec_jax.data.statistics import dataset_statistics
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_file,
  check_seed,
)
from instructrec_jax.records import Item

FORMATS = (*amazon.FORMATS, *tables.FORMATS, "synthetic")
SPLIT_BY = ("leave-one-out", "global-time")
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
    min_count: the k of k-core; 0 keeps everybody.
    max_items: how many last items of each user stay; 0 keeps all.
    split: one of `SPLIT_BY`; see `splits`.
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
  )
  options: dict[str, Any] = {"format": format, "broken": broken}
  if format in tables.FORMATS:
    options["columns"] = columns
  reader = amazon if format in amazon.FORMATS else tables
  counts: dict[str, Any] = {}
  with storage.staged_folder(
    out, force=force, may_go=_refuse_loss, inputs=tuple(inputs.values())
  ) as partial:
    planted = None
    if format == "synthetic":
      shop = synthetic.synthetic_shop(users=users, seed=seed)
      planted = shop.planted
      review_frames, item_frames = ([f] for f in _shop_frames(shop))
    else:
      review_frames, item_frames = (
        read(path, **options)
        for read, path in zip(
          (reader.read_reviews, reader.read_items), inputs.values(), strict=True
        )
      )
    item_frame = selection.read_items(item_frames, counts)
    review_frame = selection.read_reviews(review_frames, item_frame, counts)
    chosen = selection.select(
      review_frame, item_frame, min_count=min_count, seed=seed, counts=counts
    )
    catalogue = _write_items(partial, item_frame, chosen)
    last = chosen.from_end < (max_items or len(chosen.rows))
    counts["before_last_items"] = int((~last).sum())
    _write_interactions(partial, review_frame, chosen, last)
    times = review_frame["timestamp"].to_numpy()[chosen.rows]
    del review_frame
    sequences, owned = chosen.sequences(last), chosen.sequences()
    if split == "global-time":
      splits_lib.refuse_positions(owned, times)
      splits = splits_lib.global_time(sequences, times[last])
    else:
      splits = splits_lib.leave_one_out(sequences)
    titles = [item.title for item in catalogue]
    groups = splits_lib.title_groups(titles)
    item_split = splits_lib.split_items(groups, seed=seed)
    path = partial / folder.ITEM_SPLIT_FILE
    path.parent.mkdir()
    pl.DataFrame(
      {
        "item": np.arange(len(item_split), dtype=np.int32),
        "split": [splits_lib.SPLITS[number] for number in item_split],
      }
    ).write_parquet(path)
    notes = _unmatched(counts) + title_notes(titles)
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
      },
      "seed": seed,
      "counts": counts,
      "ties": {
        "order": selection.TIES,
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
  format: str, files: dict[str, pathlib.Path | None]
) -> dict[str, pathlib.Path]:
  """Returns the two files that a format needs; a synthetic shop needs none."""
  if format not in FORMATS:
    raise InputError(
      f"there is no format {format!r}: name one of {', '.join(FORMATS)}."
    )
  names = ("reviews", "metadata") if format in amazon.FORMATS else ()
  if format in tables.FORMATS:
    names = ("interactions", "items")
  given = {name: pathlib.Path(path) for name, path in files.items() if path}
  if set(given) != set(names):
    wanted = " and ".join(f"--{name}" for name in names) or "no files"
    raise InputError(f"--format {format} needs {wanted}, and nothing else.")
  for path in given.values():
    check_file(path)
  if format in amazon.FORMATS and given["reviews"].samefile(given["metadata"]):
    raise InputError(
      f"{given['reviews']} is given as --reviews and as --metadata, but they "
      "are two files."
    )
  return {name: given[name] for name in names}


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


def _write_items(
  out: pathlib.Path, items: pl.DataFrame, chosen: selection.Chosen
) -> list[Item]:
  frame = items[chosen.catalogue].with_columns(
    item=np.arange(len(chosen.catalogue), dtype=np.int32)
  )
  frame.write_parquet(out / folder.ITEMS_FILE)
  rows = frame.select("item_id", "title", "categories").rows()
  return [Item(i, title, tuple(names)) for i, title, names in rows]


def _write_interactions(
  out: pathlib.Path,
  reviews: pl.DataFrame,
  chosen: selection.Chosen,
  last: Bool[np.ndarray, " interactions"],
) -> None:
  """Writes each user's last items, and apart from them what came before."""
  users = chosen.users[last]
  starts = np.searchsorted(users, users)
  frame = reviews[chosen.rows[last]].select(
    pl.Series("user", users),
    "user_id",
    pl.Series("item", chosen.items[last]),
    pl.Series("position", (np.arange(len(users)) - starts).astype(np.int32)),
    "timestamp",
    "rating",
    "summary",
    "text",
  )
  frame.write_parquet(out / folder.INTERACTIONS_FILE)
  earlier = {"user": chosen.users[~last], "item": chosen.items[~last]}
  pl.DataFrame(earlier).write_parquet(out / folder.EARLIER_FILE)
