"""Negatives that a matcher retrieves, stored beside the drawn ones."""

import json
import pathlib

import numpy as np
import polars as pl

from instructrec_jax import storage
from instructrec_jax.baselines.hard_negatives import (
  Matcher,
  hard_candidates,
  recall,
)
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError

COUNT = 9


def write_hard_candidates(
  folder: DatasetFolder, *, matcher: str, seed: int
) -> None:
  """Writes candidates/hard_{validation,test}_9.parquet.

  What this matcher retrieved before is kept. Beside the candidates stands the
  target's place in the matcher's own list, and in the files' metadata its
  recall@K. A catalogue that is too small gets none.

  Args:
    folder: the dataset.
    matcher: one of `instructions.build.MATCHERS`.
    seed: of the order in lists.
  """
  fitted = None
  splits = {
    "validation": folder.splits.validation,
    "test": folder.splits.test,
  }
  for split, targets in splits.items():
    path = folder.path / "candidates" / f"hard_{split}_{COUNT}.parquet"
    if _is_of(path, matcher=matcher):
      continue
    fitted = fitted or _fit(matcher, folder)
    try:
      drawn, places = hard_candidates(
        fitted,
        sequences=folder.sequences,
        owned=folder.owned,
        title_groups=folder.title_groups,
        targets=targets,
        count=COUNT,
        rng=np.random.default_rng([seed, split == "test"]),
      )
    except InputError:
      return
    frame = pl.DataFrame(
      {
        "user": drawn.users,
        "candidates": pl.Series(drawn.candidates).cast(pl.List(pl.Int32)),
        "target": drawn.target,
        "matched_at": places,
      }
    )
    with storage.staged_file(path) as partial:
      frame.write_parquet(
        partial,
        metadata={
          "seed": str(seed),
          "matcher": matcher,
          "recall": json.dumps(recall(places)),
        },
      )


def _is_of(path: pathlib.Path, *, matcher: str) -> bool:
  if not path.exists():
    return False
  metadata = pl.read_parquet_metadata(path)
  return "recall" in metadata and metadata["matcher"] == matcher


def _fit(name: str, folder: DatasetFolder) -> Matcher:
  if name == "two_tower":
    # Only from here on is jax needed.
    from instructrec_jax.baselines.towers import TwoTowerRanker

    return TwoTowerRanker.fit(folder)
  return LexicalRanker.fit(
    folder.items, kind="bm25" if name == "bm25" else "tfidf"
  )
