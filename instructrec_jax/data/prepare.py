"""Raw files -> a dataset folder: the data half's pipeline, in order.

Items without a title go, of repeated (user, item) pairs the first in time
stays, the joint k-core follows, and each user keeps their last items. Users
and items are counted before that last cut.
"""

import dataclasses
import importlib.metadata
import pathlib
import platform
from typing import Any

import numpy as np
import polars as pl
import tqdm
from jaxtyping import Bool

from instructrec_jax import storage
from instructrec_jax.data import candidates as candidates_lib
from instructrec_jax.data import lines, selection, tables
from instructrec_jax.data.folder import VERSION, DatasetFolder
from instructrec_jax.data.reviews import open_source
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import LeaveOneOut, leave_one_out
from instructrec_jax.data.statistics import dataset_statistics
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Negatives beside the target: the paper's sections 3.2 and 3.3.
NEGATIVES = (9, 99)


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
    seed: of the negatives, and of a synthetic shop.
    strict: stop at the first broken line instead of counting it.
    force: replace `out`.

  Returns:
    The folder, opened. Its manifest has `counts` of every step,
    `broken_lines` by file, and `notes` for people.

  Raises:
    InputError: an input is missing, unreadable or of another format; nothing
      is left after filtering; `out` exists and `force` is not set.
  """
  _check_options(min_count, max_items, seed)
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
    del review_frame
    sequences, owned = chosen.sequences(last), chosen.sequences()
    splits = leave_one_out(sequences)
    _write_splits(partial, splits)
    notes = _write_candidates(
      partial,
      splits=splits,
      sequences=sequences,
      owned=owned,
      catalogue=catalogue,
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


def _versions() -> dict[str, str]:
  return {
    "python": platform.python_version(),
    "instructrec_jax": importlib.metadata.version("instructrec-jax"),
    "numpy": np.__version__,
    "polars": pl.__version__,
  }


def _check_options(min_count: int, max_items: int, seed: int) -> None:
  if min_count < 0 or seed < 0:
    raise InputError("min-count and seed are whole numbers from 0.")
  if max_items < 0 or max_items in (1, 2):
    raise InputError(
      f"max-items is {max_items}: leave-one-out needs 3 items or more (0 keeps "
      "all)."
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


def _write_splits(folder: pathlib.Path, splits: LeaveOneOut) -> None:
  frame = pl.DataFrame(
    {
      "user": splits.test.users,
      "validation_position": splits.validation.positions,
      "test_position": splits.test.positions,
    }
  )
  (folder / "splits").mkdir()
  frame.write_parquet(folder / "splits" / "leave_one_out.parquet")


def _write_candidates(
  folder: pathlib.Path,
  *,
  splits: LeaveOneOut,
  sequences: Sequences,
  owned: Sequences,
  catalogue: list[Item],
  seed: int,
) -> list[str]:
  """Writes four files of candidates; returns why any of them is absent."""
  (folder / "candidates").mkdir()
  groups = candidates_lib.title_groups([item.title for item in catalogue])
  notes = []
  names = {"validation": splits.validation, "test": splits.test}
  wanted = [(split, count) for count in NEGATIVES for split in names]
  for split, count in tqdm.tqdm(wanted, desc="candidates", disable=None):
    targets = names[split]
    try:
      drawn = candidates_lib.draw_candidates(
        owned=owned,
        title_groups=groups,
        users=targets.users,
        targets=targets.items(sequences),
        negatives=count,
        # By name and not by turn: no file depends on another.
        rng=np.random.default_rng([seed, count, split == "test"]),
      )
    except InputError as error:
      notes.append(f"no candidates/{split}_{count}.parquet: {error}")
      continue
    pl.DataFrame(
      {
        "user": drawn.users,
        "candidates": pl.Series(drawn.candidates).cast(pl.List(pl.Int32)),
        "target": drawn.target,
      }
    ).write_parquet(
      folder / "candidates" / f"{split}_{count}.parquet",
      metadata={"seed": str(seed)},
    )
  return notes
