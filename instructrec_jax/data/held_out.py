"""Writes splits/ and candidates/: what is held out, and what it is ranked with.

Each file draws from a stream named by its seed, negatives, split and kind, and
not from one stream by turns: no file depends on another.
"""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
import polars as pl
import tqdm
from jaxtyping import Bool, Int8, Int32, Int64

from instructrec_jax.data import candidates as candidates_lib
from instructrec_jax.data.categories import specific_intentions
from instructrec_jax.data.item_split import split_items
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import SPLITS, Splits
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Negatives beside the target: the paper's sections 3.2 and 3.3.
NEGATIVES = (9, 99)


def write_splits(
  folder: pathlib.Path,
  *,
  splits: Splits,
  title_groups: Int64[np.ndarray, " items"],
  seed: int,
) -> Int8[np.ndarray, " items"]:
  """Writes targets.parquet and items.parquet; returns the items' split."""
  (folder / "splits").mkdir()
  targets = [splits.training, splits.validation, splits.test]
  pl.concat(
    pl.DataFrame({"user": t.users, "position": t.positions}).select(
      pl.lit(name).alias("split"), "user", "position"
    )
    for name, t in zip(SPLITS, targets, strict=True)
  ).write_parquet(folder / "splits" / "targets.parquet")
  item_split = split_items(title_groups, seed=seed)
  pl.DataFrame(
    {
      "item": np.arange(len(item_split), dtype=np.int32),
      "split": [SPLITS[number] for number in item_split],
    }
  ).write_parquet(folder / "splits" / "items.parquet")
  return item_split


def write_candidates(
  folder: pathlib.Path,
  *,
  splits: Splits,
  item_split: Int8[np.ndarray, " items"],
  sequences: Sequences,
  owned: Sequences,
  items: Sequence[Item],
  title_groups: Int64[np.ndarray, " items"],
  seed: int,
) -> list[str]:
  """Writes the files of candidates; returns notes on what is left out."""
  searched = np.array([bool(text) for text in specific_intentions(items)], bool)

  def of_users(split: str, count: int) -> pl.DataFrame:
    targets = getattr(splits, split)
    drawn = candidates_lib.draw_candidates(
      owned=owned,
      title_groups=title_groups,
      users=targets.users,
      targets=targets.items(sequences),
      negatives=count,
      rng=np.random.default_rng([seed, count, split == "test"]),
    )
    return _frame("user", drawn.users, drawn.candidates, drawn.target)

  def of_items(split: str, count: int) -> pl.DataFrame:
    chosen = np.flatnonzero(searched & (item_split == SPLITS.index(split)))
    if not len(chosen):
      raise InputError(f"no {split} item has categories.")
    drawn = candidates_lib.draw_item_candidates(
      title_groups=title_groups,
      items=chosen.astype(np.int32),
      negatives=count,
      rng=np.random.default_rng([seed, count, split == "test", 1]),
    )
    return _frame("item", drawn.items, drawn.candidates, drawn.target)

  notes = []
  (folder / "candidates").mkdir()
  wanted = itertools.product(("", "items_"), NEGATIVES, ("validation", "test"))
  for prefix, count, split in tqdm.tqdm(
    list(wanted), desc="candidates", disable=None
  ):
    name = f"candidates/{prefix}{split}_{count}.parquet"
    try:
      frame = (of_items if prefix else of_users)(split, count)
    except InputError as error:
      notes.append(f"no {name}: {error}")
      continue
    frame.write_parquet(folder / name, metadata={"seed": str(seed)})
  return notes + _without_categories(searched, item_split)


def _frame(
  key: str,
  keys: Int32[np.ndarray, " n"],
  candidates: Int32[np.ndarray, "n candidates"],
  target: Int32[np.ndarray, " n"],
) -> pl.DataFrame:
  rows = pl.Series(candidates).cast(pl.List(pl.Int32))
  return pl.DataFrame({key: keys, "candidates": rows, "target": target})


def _without_categories(
  searched: Bool[np.ndarray, " items"], item_split: Int8[np.ndarray, " items"]
) -> list[str]:
  """Tells how many held-out items nobody can search for."""
  lost = [int((item_split[~searched] == n).sum()) for n in range(len(SPLITS))]
  if not sum(lost[1:]):
    return []
  return [
    f"product search leaves out {lost[1]:,} validation and {lost[2]:,} test "
    "items, which have no categories."
  ]
