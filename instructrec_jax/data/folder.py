"""A dataset folder, read back.

items.parquet         item, item_id, title, categories
interactions.parquet  user, user_id, item, position, timestamp, rating,
                      summary, text: each user's last items, oldest first
earlier.parquet       user, item: what came before those; only kept so that
                      nobody's own items are drawn as their negatives
splits/               targets.parquet: split, user, position
                      items.parquet: item, split; of product search
candidates/           {validation,test}_{9,99}.parquet and, of product search,
                      items_{validation,test}_{9,99}.parquet
statistics.json, manifest.json, and planted.json of a synthetic shop
"""

import functools
import pathlib
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int8, Int32, Int64

from instructrec_jax import storage
from instructrec_jax.data import candidates as candidates_lib
from instructrec_jax.data.candidates import Candidates, ItemCandidates
from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import (
  SPLITS,
  Splits,
  global_time,
  leave_one_out,
)
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Of the folder's layout; a reader refuses any other.
VERSION = 2


class DatasetFolder:
  """What `prepare` wrote; files are read when they are first asked for.

  Attributes:
    path: the folder.
    manifest: inputs, options, counts of every step, versions, hashes.
    statistics: see `statistics.dataset_statistics`.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the two JSON files; see `open`."""
    self.path = pathlib.Path(path)
    if not (self.path / "manifest.json").is_file():
      raise InputError(
        f"{self.path}: not a dataset folder; `instructrec prepare --out "
        f"{self.path}` makes one."
      )
    self.manifest: dict[str, Any] = storage.read_json(
      self.path / "manifest.json"
    )
    if self.manifest.get("version") != VERSION:
      raise InputError(
        f"{self.path}: a dataset folder of another version "
        f"({self.manifest.get('version')}, not {VERSION}): prepare it again."
      )
    self.statistics: dict[str, Any] = storage.read_json(
      self.path / "statistics.json"
    )

  @classmethod
  def open(cls, path: pathlib.Path) -> "DatasetFolder":
    """Opens a dataset folder.

    Raises:
      InputError: there is none, or it is of another version.
    """
    return cls(path)

  @property
  def vocabulary_path(self) -> pathlib.Path:
    """Where `build` puts the SentencePiece model."""
    return self.path / "vocabulary.model"

  @functools.cached_property
  def items(self) -> list[Item]:
    """The catalogue, by item number."""
    frame = self._read("items.parquet", ["item_id", "title", "categories"])
    return [Item(i, title, tuple(names)) for i, title, names in frame.rows()]

  @functools.cached_property
  def interactions(self) -> pl.DataFrame:
    """All columns of interactions.parquet."""
    return self._read("interactions.parquet")

  @functools.cached_property
  def sequences(self) -> Sequences:
    """Each user's last items, oldest first."""
    return self._sequences(self._read("interactions.parquet", ["user", "item"]))

  @functools.cached_property
  def owned(self) -> Sequences:
    """All of each user's items, also those before the last ones."""
    columns = ["user", "item"]
    earlier = self._read("earlier.parquet", columns)
    kept = self._read("interactions.parquet", columns)
    both = pl.concat([earlier, kept]).sort("user", maintain_order=True)
    return self._sequences(both)

  @functools.cached_property
  def splits(self) -> Splits:
    """The targets, by the split that `prepare` was told."""
    if self.manifest["options"]["split"] == "leave-one-out":
      return leave_one_out(self.sequences)
    return global_time(self.sequences, self.timestamps)

  @property
  def timestamps(self) -> Int64[np.ndarray, " interactions"]:
    """When each of `sequences.items` was bought; no review is read."""
    times = self._read("interactions.parquet", ["timestamp"])["timestamp"]
    return times.to_numpy()

  @functools.cached_property
  def title_groups(self) -> Int64[np.ndarray, " items"]:
    """A number for each item that items with equal titles share."""
    return candidates_lib.title_groups([item.title for item in self.items])

  @functools.cached_property
  def item_split(self) -> Int8[np.ndarray, " items"]:
    """Each item's split in product search, as its index in `splits.SPLITS`."""
    names = self._read("splits/items.parquet", ["split"])["split"]
    return np.array([SPLITS.index(name) for name in names], np.int8)

  def candidates(self, split: str, negatives: int) -> Candidates:
    """Returns the stored candidates of "validation" or "test".

    Raises:
      InputError: the folder has none with so many negatives.
    """
    frame, rows = self._candidates(split, negatives)
    return Candidates(
      users=frame["user"].to_numpy(),
      candidates=rows,
      target=frame["target"].to_numpy(),
    )

  def item_candidates(self, split: str, negatives: int) -> ItemCandidates:
    """Returns the stored candidates of product search.

    Items without categories are in no split's candidates.

    Raises:
      InputError: the folder has none with so many negatives.
    """
    frame, rows = self._candidates(f"items_{split}", negatives)
    return ItemCandidates(
      items=frame["item"].to_numpy(),
      candidates=rows,
      target=frame["target"].to_numpy(),
    )

  def _candidates(
    self, split: str, negatives: int
  ) -> tuple[pl.DataFrame, Int32[np.ndarray, "n candidates"]]:
    name = f"candidates/{split}_{negatives}.parquet"
    if not (self.path / name).exists():
      raise InputError(
        f"{self.path / name}: no such candidates; the folder has "
        f"{', '.join(self.manifest['candidates']) or 'none'}."
      )
    frame = self._read(name)
    rows = frame["candidates"].explode().to_numpy()
    return frame, rows.reshape(frame.height, 1 + negatives)

  def _sequences(self, frame: pl.DataFrame) -> Sequences:
    return Sequences.from_columns(
      users=frame["user"].to_numpy(),
      items=frame["item"].to_numpy(),
      num_users=self.statistics["users"],
    )

  def _read(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
    try:
      return pl.read_parquet(self.path / name, columns=columns)
    except (OSError, pl.exceptions.PolarsError) as error:
      raise InputError(
        f"{self.path / name}: cannot be read "
        f"({str(error).splitlines()[0]}): prepare the folder again."
      ) from None
