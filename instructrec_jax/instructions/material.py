"""What a dataset folder's instructions are made of, target by target."""

import calendar
import dataclasses
import datetime
import functools

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

COLD_ITEMS = ("paper", "strict")
# The years 1990 and 10000 in Unix time; no shop has older or later orders.
_TIMES = range(631_152_000, 253_402_300_800)
# What a search can be made of; the other view of a review is vague too.
_VIEWS = {Query.VAGUE: "user_view", Query.VAGUE_STAR: "item_view"}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of each target of a split; lists are in the targets' order.

  Attributes:
    split: one of `SPLITS`.
    users: user numbers; -1 where an item is searched by nobody in particular.
    positions: the targets' places in their users' sequences.
    items: the targets' item numbers.
    has_history: whether the user had an item before.
    in_item_split: whether the target itself belongs to this split of the
      items, as product search wants (paper section 3.1.2).
    preferences: the user's taste in words: as many texts as there are.
    queries: what the user could search for, by kind; "" where unknown.
  """

  split: str
  users: Int32[np.ndarray, " n"]
  positions: Int32[np.ndarray, " n"]
  items: Int32[np.ndarray, " n"]
  has_history: Bool[np.ndarray, " n"]
  in_item_split: Bool[np.ndarray, " n"]
  preferences: list[tuple[str, ...]]
  queries: dict[Query, list[str]]

  def take(self, chosen: Int[np.ndarray, " chosen"]) -> "Facts":
    """Returns those of some targets, in the order given."""
    places = chosen.tolist()
    return Facts(
      split=self.split,
      users=self.users[chosen],
      positions=self.positions[chosen],
      items=self.items[chosen],
      has_history=self.has_history[chosen],
      in_item_split=self.in_item_split[chosen],
      preferences=[self.preferences[place] for place in places],
      queries={
        query: [texts[place] for place in places]
        for query, texts in self.queries.items()
      },
    )

  def usable(self, form: Form) -> Bool[np.ndarray, " n"]:
    """Tells which targets have all that a form shows or asks for."""
    usable = np.ones(len(self.items), bool)
    if form.needs_history:
      usable &= self.has_history
    if form.needs_preference:
      usable &= np.array([bool(texts) for texts in self.preferences], bool)
    if form.query is not None and form.query != Query.PREFERENCE:
      usable &= np.array([bool(t) for t in self.queries[form.query]], bool)
      if not form.needs_history and not form.needs_preference:
        usable &= self.in_item_split
    return usable


class Material:
  """A dataset folder, as instructions need it.

  Attributes:
    titles: of the items, as `render.display_titles` gives them.
    sequences: the users' items that histories are taken from.
    owned: all of the users' items, which are never their negatives.
    cold_items: "paper" keeps the items of product search's validation and
      test splits in other tasks' training texts; "strict" shows them nowhere
      in training.
  """

  def __init__(
    self,
    folder: DatasetFolder,
    *,
    annotations: Annotations | None = None,
    cold_items: str = "paper",
  ):
    """Takes a dataset folder and the teacher's answers, if there are any."""
    self.titles = display_titles(folder.items)
    self.sequences = folder.sequences
    self.owned = folder.owned
    self.cold_items = cold_items
    self._splits = folder.splits
    self._title_groups = folder.title_groups
    self._item_split: Int8[np.ndarray, " items"] = folder.item_split
    self._annotations = annotations or Annotations.none()
    self._specific = specific_intentions(folder.items)
    self._timestamps = folder.timestamps

  def targets(self, split: str) -> Targets:
    """Returns the targets of a split."""
    return {
      "train": self._splits.training,
      "validation": self._splits.validation,
      "test": self._splits.test,
    }[split]

  def facts(self, split: str) -> Facts:
    """Collects what is known of a split's targets.

    With strict cold items, training has neither cold targets nor preferences
    that were made of a history with cold items.
    """
    targets = self.targets(split)
    users, positions = targets.users, targets.positions
    if self._hides(split):
      warm = self._warm[targets.items(self.sequences)]
      users, positions = users[warm], positions[warm]
    items = self.sequences.at(users=users, positions=positions)
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
      in_item_split=self._item_split[items] == SPLITS.index(split),
      preferences=[self._preferences(u, p, split) for u, p in pairs],
      queries=queries,
    )

  def item_facts(self, items: Int32[np.ndarray, " n"], *, split: str) -> Facts:
    """Collects what is known of items that are searched by their categories."""
    nobody = np.full(len(items), -1, np.int32)
    return Facts(
      split=split,
      users=nobody,
      positions=nobody,
      items=items,
      has_history=np.zeros(len(items), bool),
      in_item_split=np.ones(len(items), bool),
      preferences=[()] * len(items),
      queries={Query.SPECIFIC: [self._specific[item] for item in items]},
    )

  def history_items(self, user: int, position: int) -> list[int]:
    """Returns the numbers of all items that a user had before a position."""
    return [] if user < 0 else self.sequences.user(user)[:position].tolist()

  def history(self, user: int, position: int, *, split: str) -> list[str]:
    """Returns the titles of a history, as a split may show it."""
    if user < 0:
      return []
    items = self._history_items(user, position, split)
    return [self.titles[item] for item in items]

  def context(self, user: int, position: int) -> str | None:
    """Returns when a target was bought, such as "March 2014", if it is known.

    Some sources have numbers that only order a user's items, or other units.
    """
    if user < 0:
      return None
    seconds = int(self._timestamps[self.sequences.offsets[user] + position])
    if seconds not in _TIMES:
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
    """Draws candidates for targets, of items that the split may show.

    Raises:
      InputError: the catalogue is too small.
    """
    if not self._hides(split):
      return draw_candidates(
        owned=self.owned,
        title_groups=self._title_groups,
        users=users,
        targets=items,
        negatives=negatives,
        rng=rng,
      )
    pool, owned = self._warm_pool
    place = np.full(len(self.titles), -1, np.int32)
    place[pool] = np.arange(len(pool), dtype=np.int32)
    drawn = draw_candidates(
      owned=owned,
      title_groups=self._title_groups[pool],
      users=users,
      targets=place[items],
      negatives=negatives,
      rng=rng,
    )
    return Candidates(users, pool[drawn.candidates], drawn.target)

  def _hides(self, split: str) -> bool:
    return self.cold_items == "strict" and split == "train"

  def _history_items(
    self, user: int, position: int, split: str
  ) -> Int32[np.ndarray, " length"]:
    items = self.sequences.user(user)[:position]
    return items[self._warm[items]] if self._hides(split) else items

  def _preferences(
    self, user: int, position: int, split: str
  ) -> tuple[str, ...]:
    end, texts = self._annotations.preference(user, before=position)
    if self._hides(split):
      if not self._warm[self.sequences.user(user)[:end]].all():
        return ()
    return texts

  @functools.cached_property
  def _warm(self) -> Bool[np.ndarray, " items"]:
    return self._item_split == SPLITS.index("train")

  @functools.cached_property
  def _warm_pool(self) -> tuple[Int32[np.ndarray, " warm"], Sequences]:
    """The warm items, and what users own of them, numbered among them."""
    pool = np.flatnonzero(self._warm).astype(np.int32)
    place = np.cumsum(self._warm, dtype=np.int32) - 1
    keep = self._warm[self.owned.items]
    users = np.repeat(
      np.arange(len(self.owned), dtype=np.int32), self.owned.lengths
    )
    owned = Sequences.from_columns(
      users=users[keep],
      items=place[self.owned.items[keep]],
      num_users=len(self.owned),
    )
    return pool, owned
