"""A dataset folder: the names of its files, and its tables read back.

items.parquet         item, item_id, title, categories
interactions.parquet  user, user_id, item, position, timestamp, rating,
                      summary, text: each user's last items, oldest first
earlier.parquet       user, item: what came before those; only kept so that
                      a user's own items are never drawn as their negatives
splits/items.parquet  item, split; of product search
candidates/           {validation,test}_{9,99}.parquet, of product search
                      items_{validation,test}_{9,99}.parquet, and `build`'s
                      hard_{validation,test}_9.parquet
statistics.json, manifest.json, and planted.json of a synthetic shop

`annotate` adds annotations.sqlite and annotations.batches.sqlite, the chat
baseline chat_rankings.sqlite, and `build` vocabulary.model, templates.yaml,
requests/SCENARIO_SPLIT.parquet, instructions.json and the TFDS dataset.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int8, Int64

from instructrec_jax import storage
from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.splits import (
  SPLITS,
  Sequences,
  Splits,
  global_time,
  leave_one_out,
  title_groups,
)
from instructrec_jax.errors import InputError
from instructrec_jax.records import Item

# Of the folder's layout; a reader refuses any other.
VERSION = 2

MANIFEST_FILE = "manifest.json"
STATISTICS_FILE = "statistics.json"
PLANTED_FILE = "planted.json"
ITEMS_FILE = "items.parquet"
INTERACTIONS_FILE = "interactions.parquet"
EARLIER_FILE = "earlier.parquet"
ITEM_SPLIT_FILE = "splits/items.parquet"
CANDIDATES = "candidates"
ANNOTATIONS_FILE = "annotations.sqlite"
BATCHES_FILE = "annotations.batches.sqlite"
CHAT_RANKINGS_FILE = "chat_rankings.sqlite"
VOCABULARY_FILE = "vocabulary.model"
TEMPLATES_FILE = "templates.yaml"
REQUESTS = "requests"
INSTRUCTIONS_FILE = "instructions.json"
INSTRUCTIONS = "instructrec"
BASELINES = "baselines"
# What `prepare`, `build` and `evaluate` make again at no cost but time; "build"
# is there after a kill.
MADE_ANEW = frozenset(
  {
    MANIFEST_FILE,
    STATISTICS_FILE,
    PLANTED_FILE,
    ITEMS_FILE,
    INTERACTIONS_FILE,
    EARLIER_FILE,
    "splits",
    CANDIDATES,
    VOCABULARY_FILE,
    TEMPLATES_FILE,
    REQUESTS,
    INSTRUCTIONS_FILE,
    INSTRUCTIONS,
    BASELINES,
    "build",
    ".build.partial",
  }
)


def candidates_file(split: str, negatives: int, kind: str = "users") -> str:
  """Returns the file of a split's lists; see `DatasetFolder.candidates`."""
  prefix = "" if kind == "users" else f"{kind}_"
  return f"{CANDIDATES}/{prefix}{split}_{negatives}.parquet"


def requests_file(scenario: str, split: str) -> str:
  """Returns the file of a scenario's requests."""
  return f"{REQUESTS}/{scenario}_{split}.parquet"


class DatasetFolder:
  """What `prepare` wrote; tables are read when they are first used.

  Attributes:
    path: the folder.
    manifest: inputs, options, counts of every step, versions, hashes.
    statistics: see `statistics.dataset_statistics`.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the two JSON files; see `open`."""
    self.path = pathlib.Path(path)
    if not (self.path / MANIFEST_FILE).is_file():
      raise InputError(
        f"{self.path}: not a dataset folder; `instructrec prepare --out "
        f"{self.path}` makes one."
      )
    self.manifest: dict[str, Any] = storage.read_json(self.path / MANIFEST_FILE)
    if self.manifest.get("version") != VERSION:
      raise InputError(
        f"{self.path}: a dataset folder of another version "
        f"({self.manifest.get('version')}, not {VERSION}): prepare it again."
      )
    self.statistics: dict[str, Any] = storage.read_json(
      self.path / STATISTICS_FILE
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
    return self.path / VOCABULARY_FILE

  @functools.cached_property
  def items(self) -> list[Item]:
    """The catalogue, by item number."""
    frame = self._read(ITEMS_FILE, ["item_id", "title", "categories"])
    return [Item(i, title, tuple(names)) for i, title, names in frame.rows()]

  @functools.cached_property
  def interactions(self) -> pl.DataFrame:
    """All columns of interactions.parquet."""
    return self._read(INTERACTIONS_FILE)

  @functools.cached_property
  def sequences(self) -> Sequences:
    """Each user's last items, oldest first."""
    return self._sequences(self._read(INTERACTIONS_FILE, ["user", "item"]))

  @functools.cached_property
  def owned(self) -> Sequences:
    """All of each user's items, also those before the last ones."""
    columns = ["user", "item"]
    earlier = self._read(EARLIER_FILE, columns)
    kept = self._read(INTERACTIONS_FILE, columns)
    both = pl.concat([earlier, kept]).sort("user", maintain_order=True)
    return self._sequences(both)

  @functools.cached_property
  def splits(self) -> Splits:
    """The targets, by the split that `prepare` was asked for."""
    if self.manifest["options"]["split"] == "leave-one-out":
      return leave_one_out(self.sequences)
    return global_time(self.sequences, self.timestamps)

  @property
  def timestamps(self) -> Int64[np.ndarray, " interactions"]:
    """The time of each of `sequences.items`, read without review text."""
    times = self._read(INTERACTIONS_FILE, ["timestamp"])["timestamp"]
    return times.to_numpy()

  @functools.cached_property
  def title_groups(self) -> Int64[np.ndarray, " items"]:
    """A number for each item, shared by items with equal titles."""
    return title_groups([item.title for item in self.items])

  @functools.cached_property
  def item_split(self) -> Int8[np.ndarray, " items"]:
    """Each item's split in product search, as its index in `splits.SPLITS`."""
    names = self._read(ITEM_SPLIT_FILE, ["split"])["split"]
    return np.array([SPLITS.index(name) for name in names], np.int8)

  def candidates(
    self, split: str, negatives: int, kind: str = "users"
  ) -> Candidates:
    """Returns stored candidate lists.

    Args:
      split: "validation" or "test".
      negatives: in each list.
      kind: "users" for users' targets with sampled negatives, "hard" for the
        same with a matcher's, "items" for the targets of product search.

    Raises:
      InputError: the folder has none with so many negatives.
    """
    name = candidates_file(split, negatives, kind)
    if not (self.path / name).exists():
      raise InputError(
        f"{self.path / name}: no such candidates; the folder has "
        f"{', '.join(self.manifest['candidates']) or 'none'}."
      )
    frame = self._read(name)
    rows = frame["candidates"].explode().to_numpy()
    return Candidates(
      keys=frame["item" if kind == "items" else "user"].to_numpy(),
      candidates=rows.reshape(frame.height, 1 + negatives),
      target=frame["target"].to_numpy(),
    )

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
