"""Negatives that a matcher retrieves, stored beside the drawn ones."""

import numpy as np
import polars as pl

from instructrec_jax import storage
from instructrec_jax.baselines.hard_negatives import hard_candidates
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError

COUNT = 9
KIND = "tfidf"


def write_hard_candidates(folder: DatasetFolder, *, seed: int) -> None:
  """Writes candidates/hard_{validation,test}_9.parquet, unless they are there.

  The share of targets that the matcher finds by itself is in the files'
  metadata. A catalogue that is too small gets none.
  """
  matcher = None
  splits = {
    "validation": folder.splits.validation,
    "test": folder.splits.test,
  }
  for split, targets in splits.items():
    path = folder.path / "candidates" / f"hard_{split}_{COUNT}.parquet"
    if path.exists():
      continue
    matcher = matcher or LexicalRanker.fit(folder.items, kind=KIND)
    try:
      drawn, retrieved = hard_candidates(
        matcher,
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
      }
    )
    with storage.staged_file(path) as partial:
      frame.write_parquet(
        partial,
        metadata={
          "seed": str(seed),
          "matcher": KIND,
          "target_retrieved": f"{retrieved.mean():.6f}",
        },
      )
