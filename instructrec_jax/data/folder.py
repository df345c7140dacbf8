"""A dataset folder: the names of its files, and its tables read back.

items.parquet         item, item_id, title, categories
images.parquet        item, image: its address, of items that have one
interactions.parquet  user, user_id, item, position, timestamp, rating,
                      summary, text: each user's last items, oldest first
earlier.parquet       user, item: what came before those; only kept so that
                      a user's own items are never drawn as their negatives
splits/items.parquet  item, split; of product search
splits/users.parquet  user, training, validation: how many first items of each
                      are not held out, and not of the test; leave-one-out has
                      no need of it
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
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import polars as pl
from jaxtyping import Int8, Int64

from instructrec_jax import parquet, storage
from instructrec_jax.cards import DATASET_CARD
from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.lines import image_address
from instructrec_jax.data.splits import (
  SPLITS,
  Sequences,
  Splits,
  global_time,
  leave_one_out,
  of_lengths,
  tied_share,
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
IMAGES_FILE = "images.parquet"
INTERACTIONS_FILE = "interactions.parquet"
EARLIER_FILE = "earlier.parquet"
ITEM_SPLIT_FILE = "splits/items.parquet"
USER_SPLIT_FILE = "splits/users.parquet"
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
    IMAGES_FILE,
    INTERACTIONS_FILE,
    EARLIER_FILE,
    "splits",
    CANDIDATES,
    VOCABULARY_FILE,
    TEMPLATES_FILE,
    REQUESTS,
    INSTRUCTIONS_FILE,
    DATASET_CARD,
    INSTRUCTIONS,
    BASELINES,
    "build",
    ".build.partial",
  }
)

# What readers need of manifest.json, statistics.json and instructions.json.
_MANIFEST = {"options": {"split": str}, "candidates": dict}
_STATISTICS = {str: float, "users": int, "items": int, "interactions": int}
BUILT = {
  "options": {"cold_items": str, "input_length": int},
  "vocabulary_sha256": str,
  "annotations": dict,
  "requests": dict,
}
# The columns of interactions.parquet; reviews may have no rating or text.
_INTERACTIONS = {
  "user": int,
  "user_id": str,
  "item": int,
  "position": int,
  "timestamp": int,
  "rating": None,
  "summary": None,
  "text": None,
}
_PAIR = {"user": int, "item": int}
_REMEDY = "prepare the folder again"


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
    self.manifest: dict[str, Any] = storage.read_json(
      self.path / MANIFEST_FILE, dict
    )
    if "version" not in self.manifest:
      raise InputError(
        f"{self.path}: not a dataset folder ({MANIFEST_FILE} has no version); "
        "name one that `instructrec prepare` made."
      )
    if self.manifest["version"] != VERSION:
      raise InputError(
        f"{self.path}: a dataset folder of another version "
        f"({self.manifest['version']}, not {VERSION}): prepare it again."
      )
    storage.read_json(self.path / MANIFEST_FILE, _MANIFEST)
    self.statistics: dict[str, Any] = storage.read_json(
      self.path / STATISTICS_FILE, _STATISTICS
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
    columns = {"item_id": str, "title": str, "categories": [str]}
    frame = self._read(ITEMS_FILE, columns)
    if frame.height != self.statistics["items"]:
      self._refuse(ITEMS_FILE, f"{frame.height:,} items")
    return [Item(i, title, tuple(names)) for i, title, names in frame.rows()]

  @functools.cached_property
  def images(self) -> dict[int, str]:
    """Addresses of images by item number, of the items that have one."""
    if not (self.path / IMAGES_FILE).exists():
      return {}
    frame = self._read(IMAGES_FILE, {"item": int, "image": str})
    is_item = frame["item"].is_between(0, self.statistics["items"] - 1)
    if not (is_item.all() and all(map(image_address, frame["image"]))):
      self._refuse(IMAGES_FILE, "items or addresses")
    return dict(frame.rows())

  @functools.cached_property
  def interactions(self) -> pl.DataFrame:
    """All columns of interactions.parquet."""
    return self._read(INTERACTIONS_FILE, _INTERACTIONS)

  @property
  def user_ids(self) -> pl.Series:
    """What the source calls each user."""
    columns = {name: _INTERACTIONS[name] for name in ("user_id", "position")}
    frame = self._read(INTERACTIONS_FILE, columns)
    return frame.filter(pl.col("position") == 0)["user_id"]

  def reviews(self) -> Iterator[pl.DataFrame]:
    """Yields `summary` and `text` of all interactions, in blocks."""
    columns = ("summary", "text")
    path, rows = self.path / INTERACTIONS_FILE, len(self.sequences.items)
    for frame in parquet.blocks(path, columns, remedy=_REMEDY):
      rows -= frame.height
      yield frame
    if rows:
      self._refuse(INTERACTIONS_FILE, "reviews")

  @functools.cached_property
  def sequences(self) -> Sequences:
    """Each user's last items, oldest first."""
    return self._sequences(self._read(INTERACTIONS_FILE, _PAIR))

  @functools.cached_property
  def owned(self) -> Sequences:
    """All of each user's items, also those before the last ones."""
    earlier = self._read(EARLIER_FILE, _PAIR)
    kept = self._read(INTERACTIONS_FILE, _PAIR)
    both = pl.concat([earlier, kept]).sort("user", maintain_order=True)
    return self._sequences(both)

  def known_items(self, split: str) -> Sequences:
    """Returns what a split's negatives leave out; see `Splits.known_items`."""
    return self.splits.known_items(
      split, sequences=self.sequences, owned=self.owned
    )

  @functools.cached_property
  def splits(self) -> Splits:
    """The targets, by the split that `prepare` was asked for."""
    if self.manifest["options"]["split"] == "leave-one-out":
      return leave_one_out(self.sequences)
    if "ties" not in self.manifest:
      # Of an earlier version, which filtered before it cut.
      return global_time(self.sequences, self.timestamps)
    frame = self._read(USER_SPLIT_FILE, {"training": int, "validation": int})
    training, validation = frame["training"], frame["validation"]
    if len(frame) != len(self.sequences) or not (
      (0 <= training).all()
      and (training <= validation).all()
      and (validation <= pl.Series(self.sequences.lengths)).all()
    ):
      self._refuse(USER_SPLIT_FILE, "users or lengths")
    return of_lengths(
      self.sequences, training.to_numpy(), validation.to_numpy()
    )

  @property
  def timestamps(self) -> Int64[np.ndarray, " interactions"]:
    """The time of each of `sequences.items`, read without review text."""
    times = self._read(INTERACTIONS_FILE, {"timestamp": int})["timestamp"]
    return times.to_numpy()

  def tied_share(self, split: str) -> float:
    """Returns the share of "validation" or "test" targets at equal times.

    Each has the time of the user's item before or after it, so that what came
    last is not known. `manifest["ties"]["order"]` says what settled it; folders
    without that key kept the order of the file.
    """
    targets = getattr(self.splits, split)
    return tied_share(targets, self.sequences, self.timestamps)

  @functools.cached_property
  def title_groups(self) -> Int64[np.ndarray, " items"]:
    """A number for each item, shared by items with equal titles."""
    return title_groups([item.title for item in self.items])

  @functools.cached_property
  def item_split(self) -> Int8[np.ndarray, " items"]:
    """Each item's split in product search, as its index in `splits.SPLITS`."""
    names = self._read(ITEM_SPLIT_FILE, {"split": str})["split"]
    if len(names) != self.statistics["items"] or not set(names) <= {*SPLITS}:
      self._refuse(ITEM_SPLIT_FILE, "items or splits")
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
    self.check_candidates(pathlib.Path(name).stem)
    key = "item" if kind == "items" else "user"
    columns = {key: int, "candidates": [int], "target": int}
    frame = self._read(name, columns)
    lengths = frame["candidates"].list.len()
    rows = frame["candidates"].explode().to_numpy()
    keys = self.statistics[f"{key}s"]
    if not (
      lengths.eq(1 + negatives).all()
      and _are_numbers(frame[key].to_numpy(), keys)
      and _are_numbers(rows, self.statistics["items"])
      and _are_numbers(frame["target"].to_numpy(), 1 + negatives)
    ):
      self._refuse(name, "candidates")
    return Candidates(
      keys=frame[key].to_numpy(),
      candidates=rows.reshape(frame.height, 1 + negatives),
      target=frame["target"].to_numpy(),
    )

  def check_candidates(self, *names: str) -> None:
    """Raises InputError unless lists are those that `prepare` wrote.

    Args:
      *names: of files without their suffix; all of `prepare`'s if empty.
    """
    written = self.manifest["candidates"]
    for name in names or written:
      path = self.path / CANDIDATES / f"{name}.parquet"
      if name not in written:
        continue
      if not path.exists():
        raise InputError(f"{path}: no such candidates: {_REMEDY}.")
      if storage.sha256_of(path) != written[name]:
        self._refuse(str(path.relative_to(self.path)), "candidates")

  def _sequences(self, frame: pl.DataFrame) -> Sequences:
    users, items = frame["user"], frame["item"]
    if not (
      users.is_sorted()
      and _are_numbers(users.to_numpy(), self.statistics["users"])
      and _are_numbers(items.to_numpy(), self.statistics["items"])
    ):
      self._refuse(INTERACTIONS_FILE, "users or items")
    return Sequences.from_columns(
      users=frame["user"].to_numpy(),
      items=frame["item"].to_numpy(),
      num_users=self.statistics["users"],
    )

  def _read(self, name: str, columns: dict[str, Any]) -> pl.DataFrame:
    return parquet.read(self.path / name, columns, remedy=_REMEDY)

  def _refuse(self, name: str, what: str) -> NoReturn:
    raise InputError(
      f"{self.path / name}: {what} that are not those that were written: it "
      f"is damaged, or another folder's; {_REMEDY}."
    )


def _are_numbers(values: np.ndarray, count: int) -> bool:
  """Whether all are of 0 to `count` - 1."""
  return not len(values) or (values.min() >= 0 and values.max() < count)
