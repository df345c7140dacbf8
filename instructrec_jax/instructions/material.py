"""The inputs of instructions: histories, preferences, queries, candidates."""

import calendar
import collections
import dataclasses
import datetime
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32

from instructrec_jax.data.candidates import Candidates, draw_candidates
from instructrec_jax.data.cleaning import specific_intentions
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS, Sequences, Targets
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.instructions.templates import Form
from instructrec_jax.teacher.annotations import Annotations

COLD_ITEMS = ("paper", "strict", "none")
# 1990 to 9999 in Unix time: other numbers are no purchase times in seconds.
_TIMES = range(631_152_000, 253_402_300_800)
# One user without an item.
_NOBODY = Sequences(np.zeros(0, np.int32), np.zeros(2, np.int64))
# The annotation that each vague query is.
_VIEWS = {Query.VAGUE: "user_view", Query.VAGUE_STAR: "item_view"}


@dataclasses.dataclass(frozen=True)
class Facts:
  """The targets of a split and what instructions can show of each.

  Attributes:
    users: user numbers; -1 in product search, which has no user.
    positions: the targets' indices in their users' sequences.
    items: the targets' item numbers.
    in_item_split: whether the target belongs to this split of the items, as
      product search requires (paper section 3.1.2).
    preferences: the user's preferences in words, if any, by name.
    queries: the user's possible queries, by kind; "" where unknown.
  """

  split: str
  users: Int32[np.ndarray, " n"]
  positions: Int32[np.ndarray, " n"]
  items: Int32[np.ndarray, " n"]
  has_history: Bool[np.ndarray, " n"]
  in_item_split: Bool[np.ndarray, " n"]
  preferences: list[Mapping[str, str]]
  queries: dict[Query, list[str]]

  def take(self, chosen: Int[np.ndarray, " chosen"]) -> "Facts":
    """Returns the facts of some targets, in the order given."""
    rows = chosen.tolist()
    return Facts(
      split=self.split,
      users=self.users[chosen],
      positions=self.positions[chosen],
      items=self.items[chosen],
      has_history=self.has_history[chosen],
      in_item_split=self.in_item_split[chosen],
      preferences=[self.preferences[row] for row in rows],
      queries={
        query: [texts[row] for row in rows]
        for query, texts in self.queries.items()
      },
    )

  def usable(self, *forms: Form) -> Bool[np.ndarray, " n"]:
    """Returns a mask of the targets with all that forms show or ask for."""
    usable = np.ones(len(self.items), bool)
    for form in forms:
      if form.needs_history:
        usable &= self.has_history
      if form.needs_preference:
        usable &= np.array([bool(texts) for texts in self.preferences], bool)
      if form.query is not None and form.query != Query.PREFERENCE:
        usable &= np.array([bool(t) for t in self.queries[form.query]], bool)
        if not form.needs_history and not form.needs_preference:
          usable &= self.in_item_split
    return usable


def is_date(seconds: int) -> bool:
  """Whether a time is one in seconds since 1970, as dates of purchases are."""
  return seconds in _TIMES


class Material:
  """A dataset folder and its annotations, as instructions need them.

  Attributes:
    titles: of the items, as `render.display_titles` gives them.
    sequences: the users' items that histories are taken from.
    known_items: by split, the users' items that are not their negatives; see
      `Splits.known_items`.
    cold_items: "paper" keeps the items of product search's validation and
      test splits in other tasks' training texts; "strict" removes them from
      all training texts; "none" trains searches for them, too.
  """

  def __init__(
    self,
    folder: DatasetFolder,
    *,
    annotations: Annotations | None = None,
    cold_items: str = "paper",
  ):
    """Reads the folder's tables."""
    self.titles = display_titles(folder.items)
    self.sequences = folder.sequences
    self.known_items = {split: folder.known_items(split) for split in SPLITS}
    self.cold_items = cold_items
    self._targets: dict[str, Targets] = {
      "train": folder.splits.training,
      "validation": folder.splits.validation,
      "test": folder.splits.test,
    }
    self._training_lengths = folder.splits.training_lengths
    self._title_groups = folder.title_groups
    self._item_split: Int8[np.ndarray, " items"] = folder.item_split
    self._annotations = annotations or Annotations.none()
    self._specific = specific_intentions(folder.items)
    self._timestamps = folder.timestamps
    self._facts: dict[str, Facts] = {}

  @property
  def is_annotated(self) -> bool:
    """Whether a teacher has been asked, whatever it found."""
    return bool(self._annotations.teachers)

  def facts(self, split: str) -> Facts:
    """Returns the facts of a split's targets; they are cached.

    With strict cold items, training has neither cold targets nor preferences
    that were made of a history with cold items.
    """
    if split not in self._facts:
      self._facts[split] = self._collect(split)
    return self._facts[split]

  def _collect(self, split: str) -> Facts:
    targets = self._targets[split]
    users, positions = targets.users, targets.positions
    if self._hides(split):
      warm = self._warm[targets.items(self.sequences)]
      users, positions = users[warm], positions[warm]
    items = Targets(users, positions).items(self.sequences)
    pairs = list(zip(users.tolist(), positions.tolist(), strict=True))
    queries = {
      query: [self._annotations.intention(u, p, view) or "" for u, p in pairs]
      for query, view in _VIEWS.items()
    }
    queries[Query.SPECIFIC] = [self._specific[item] for item in items]
    return Facts(
      split=split,
      users=users,
      positions=positions,
      items=items,
      has_history=np.array(
        [len(self._history_items(u, p, split)) > 0 for u, p in pairs], bool
      ),
      in_item_split=self._in_split(split)[items],
      preferences=[self._preferences(u, p, split) for u, p in pairs],
      queries=queries,
    )

  def item_facts(self, items: Int32[np.ndarray, " n"], *, split: str) -> Facts:
    """Returns the facts of items that are searched by their categories."""
    no_user = np.full(len(items), -1, np.int32)
    return Facts(
      split=split,
      users=no_user,
      positions=no_user,
      items=items,
      has_history=np.zeros(len(items), bool),
      in_item_split=np.ones(len(items), bool),
      preferences=[{}] * len(items),
      queries={Query.SPECIFIC: [self._specific[item] for item in items]},
    )

  def purchases(
    self, split: str
  ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns users and positions of a split's targets.

    Those of training include each user's first item, before which there is
    nothing, and with strict cold items no cold one.
    """
    targets = self._targets[split]
    users, positions = targets.users, targets.positions
    if split != "train":
      return users, positions
    first = np.flatnonzero(self._training_lengths > 0).astype(users.dtype)
    users = np.concatenate([users, first])
    positions = np.concatenate([positions, np.zeros_like(first)])
    if self._hides(split):
      warm = self._warm[Targets(users, positions).items(self.sequences)]
      users, positions = users[warm], positions[warm]
    return users, positions

  def searchable_items(self, split: str) -> Int32[np.ndarray, " n"]:
    """Returns the items of a split of product search that have categories."""
    own = self._in_split(split)
    searched = np.array([bool(text) for text in self._specific], bool)
    return np.flatnonzero(own & searched).astype(np.int32)

  def history_items(self, user: int, position: int, *, split: str) -> list[int]:
    """Returns the items of a history, without those hidden from the split."""
    if user < 0:
      return []
    return self._history_items(user, position, split).tolist()

  def history(self, user: int, position: int, *, split: str) -> list[str]:
    """Returns the titles of `history_items`."""
    items = self.history_items(user, position, split=split)
    return [self.titles[item] for item in items]

  def context(self, user: int, position: int) -> str | None:
    """Returns the month of a purchase, such as "March 2014", if it is known.

    The timestamps of some sources are not seconds, or only order the items.
    """
    if user < 0:
      return None
    seconds = int(self._timestamps[self.sequences.offsets[user] + position])
    if not is_date(seconds):
      return None
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{calendar.month_name[moment.month]} {moment.year}"

  def draw(
    self,
    *,
    users: Int32[np.ndarray, " n"],
    items: Int32[np.ndarray, " n"],
    negatives: int,
    split: str,
    rng: np.random.Generator,
  ) -> Candidates:
    """Draws candidates for targets, among items not hidden from the split.

    A user of -1 is anybody, who owns nothing.

    Raises:
      InputError: the catalogue is too small.
    """
    is_anybody = len(users) > 0 and users[0] < 0
    if is_anybody:
      users = np.zeros(len(users), np.int32)
    if not self._hides(split):
      return draw_candidates(
        owned=_NOBODY if is_anybody else self.known_items[split],
        title_groups=self._title_groups,
        users=users,
        targets=items,
        negatives=negatives,
        rng=rng,
      )
    pool, owned = self._warm_pool
    index = np.full(len(self.titles), -1, np.int32)
    index[pool] = np.arange(len(pool), dtype=np.int32)
    drawn = draw_candidates(
      owned=_NOBODY if is_anybody else owned,
      title_groups=self._title_groups[pool],
      users=users,
      targets=index[items],
      negatives=negatives,
      rng=rng,
    )
    return Candidates(users, pool[drawn.candidates], drawn.target)

  def _in_split(self, split: str) -> Bool[np.ndarray, " items"]:
    if self.cold_items == "none" and split == "train":
      return np.ones(len(self._item_split), bool)
    return self._item_split == SPLITS.index(split)

  def _hides(self, split: str) -> bool:
    return self.cold_items == "strict" and split == "train"

  def _history_items(
    self, user: int, position: int, split: str
  ) -> Int32[np.ndarray, " length"]:
    items = self.sequences.user(user)[:position]
    return items[self._warm[items]] if self._hides(split) else items

  def _preferences(
    self, user: int, position: int, split: str
  ) -> Mapping[str, str]:
    end, texts = self._annotations.preference(user, before=position)
    if self._hides(split):
      if not self._warm[self.sequences.user(user)[:end]].all():
        return {}
    return texts

  @functools.cached_property
  def _warm(self) -> Bool[np.ndarray, " items"]:
    return self._item_split == SPLITS.index("train")

  @functools.cached_property
  def _warm_pool(self) -> tuple[Int32[np.ndarray, " warm"], Sequences]:
    """The warm items, and the users' own ones as indices into these."""
    pool = np.flatnonzero(self._warm).astype(np.int32)
    index = np.cumsum(self._warm, dtype=np.int32) - 1
    known = self.known_items["train"]
    keep = self._warm[known.items]
    users = np.repeat(np.arange(len(known), dtype=np.int32), known.lengths)
    owned = Sequences.from_columns(
      users=users[keep],
      items=index[known.items[keep]],
      num_users=len(known),
    )
    return pool, owned


def title_counts(folder: DatasetFolder) -> dict[str, int]:
  """Returns how often each title is bought in training interactions.

  Titles are as instructions show them; those that several items share have the
  sum of their purchases.
  """
  mask = folder.splits.training_mask(folder.sequences)
  bought = np.bincount(
    folder.sequences.items[mask], minlength=len(folder.items)
  )
  counts: dict[str, int] = collections.defaultdict(int)
  for title, count in zip(
    display_titles(folder.items), bought.tolist(), strict=True
  ):
    counts[title] += count
  return dict(counts)
