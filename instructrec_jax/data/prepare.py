"""Raw files -> a dataset folder: the data half's pipeline, in order.

Items without a title go, of repeated (user, item) pairs the first in time
stays, the joint k-core follows, and each user keeps their last items. Users
and items are counted before that last cut. Then come splits and candidates.
"""

import dataclasses
import importlib.metadata
import pathlib
import platform
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from instructrec_jax import storage
from instructrec_jax.data import held_out, lines, selection, tables
from instructrec_jax.data import splits as splits_lib
from instructrec_jax.data.candidates import title_groups
from instructrec_jax.data.folder import VERSION, DatasetFolder
from instructrec_jax.data.reviews import open_source
from instructrec_jax.data.statistics import dataset_statistics
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Ways to hold interactions out.
SPLIT_BY = ("leave-one-out", "global-time")
# What a chat model was paid for, by the names that `teacher` and `baselines`
# give it.
_PAID = (
  "annotations.sqlite",
  "annotations.batches.sqlite",
  "chat_rankings.sqlite",
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
    format: one of `reviews.FORMATS`.
    reviews: the reviews of Amazon's formats, plain or gzip.
    metadata: the items of Amazon's formats, plain or gzip.
    interactions: the interactions of csv or Parquet.
    items: the items of csv or Parquet.
    columns: the columns of csv or Parquet.
    users: shoppers of a synthetic shop.
    min_count: the k of k-core; 0 keeps everybody.
    max_items: how many last items of each user stay; 0 keeps all.
    split: one of `SPLIT_BY`; see `splits`.
    seed: of the negatives and the items' split, and of a synthetic shop.
    strict: stop at the first broken line instead of counting it.
    force: replace `out`, a dataset folder without annotations.

  Returns:
    The folder, opened. Its manifest has `counts` of every step,
    `broken_lines` by file, and `notes` for people.

  Raises:
    InputError: an input is missing, unreadable or of another format; nothing
      is left after filtering; there are no times to split by; `out` exists
      and `force` is not set, or may not be replaced.
  """
  _check_options(min_count, max_items, split, seed)
  if force:
    _refuse_loss(pathlib.Path(out))
  columns = columns or tables.Columns()
  broken = lines.BrokenLines(strict=strict)
  source = open_source(
    format=format,
    files={
      "reviews": reviews,
      "metadata": metadata,
      "interactions": interactions,
      "items": items,
    },
    columns=columns,
    users=users,
    seed=seed,
    broken=broken,
  )
  counts: dict[str, Any] = {}
  with storage.staged_folder(out, force=force) as partial:
    item_frame = selection.read_items(source.items, counts)
    review_frame = selection.read_reviews(source.reviews, item_frame, counts)
    chosen = selection.select(review_frame, min_count=min_count, counts=counts)
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
    groups = title_groups([item.title for item in catalogue])
    item_split = held_out.write_splits(
      partial, splits=splits, title_groups=groups, seed=seed
    )
    notes = held_out.write_candidates(
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
    storage.write_json(partial / "statistics.json", statistics)
    if source.planted is not None:
      storage.write_json(partial / "planted.json", source.planted)
    manifest = {
      "version": VERSION,
      "inputs": {
        name: {"path": str(path), "sha256": storage.sha256_of(path)}
        for name, path in source.inputs.items()
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
      "broken_lines": broken.as_json(),
      "notes": notes,
      "candidates": {
        path.stem: storage.sha256_of(path)
        for path in sorted((partial / "candidates").glob("*.parquet"))
      },
      "versions": _versions(),
    }
    storage.write_json(partial / "manifest.json", manifest)
  return DatasetFolder.open(out)


def _refuse_loss(folder: pathlib.Path) -> None:
  """Raises InputError if a folder to replace holds what others made."""
  if paid := [name for name in _PAID if (folder / name).exists()]:
    raise InputError(
      f"{folder} holds {', '.join(paid)}: save annotations with `instructrec "
      f"annotate --dataset {folder} --export FILE`, and delete what may go."
    )
  empty = folder.is_dir() and not any(folder.iterdir())
  if folder.exists() and not empty and not (folder / "manifest.json").is_file():
    raise InputError(
      f"{folder} is not a dataset folder, so --force does not replace it: "
      "name another place."
    )


def _versions() -> dict[str, str]:
  return {
    "python": platform.python_version(),
    "instructrec_jax": importlib.metadata.version("instructrec-jax"),
    "numpy": np.__version__,
    "polars": pl.__version__,
  }


def _check_options(
  min_count: int, max_items: int, split: str, seed: int
) -> None:
  if min_count < 0 or seed < 0:
    raise InputError("min-count and seed are whole numbers from 0.")
  if split not in SPLIT_BY:
    raise InputError(f"no split {split!r}: name {' or '.join(SPLIT_BY)}.")
  if max_items < 0 or max_items in (1, 2):
    raise InputError(
      f"max-items is {max_items}: a split needs 3 items or more (0 keeps all)."
    )


def _write_items(
  folder: pathlib.Path, items: pl.DataFrame, chosen: selection.Chosen
) -> list[Item]:
  frame = items[chosen.catalogue].with_columns(
    item=np.arange(len(chosen.catalogue), dtype=np.int32)
  )
  frame.write_parquet(folder / "items.parquet")
  rows = frame.select("item_id", "title", "categories").rows()
  return [Item(i, title, tuple(names)) for i, title, names in rows]


def _write_interactions(
  folder: pathlib.Path,
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
  frame.write_parquet(folder / "interactions.parquet")
  earlier = {"user": chosen.users[~last], "item": chosen.items[~last]}
  pl.DataFrame(earlier).write_parquet(folder / "earlier.parquet")
