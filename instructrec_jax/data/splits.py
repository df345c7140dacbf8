"""Sequences, and which of their items are targets of which split.

Leave-one-out, with n items at positions 0 to n - 1: the test target is at
n - 1 (its history is all before), the validation target at n - 2, training
targets are at 1 to n - 3. A user with fewer than three items cannot be split:
all of theirs trains.

Global time: two moments cut all users' interactions, before anything is
filtered. What lies before the first trains: the k-core and the cut to each
user's last items are of this side alone, so they know nothing later. A user's
last item between the cuts validates, the last after the second tests, each with
all that the user had before as its history. Later interactions of users or
items that do not train are left out. Nothing that trains happened after
anything that is predicted. (As Hidasi and Czapp, 2023, "Widespread flaws in
offline evaluation of recommender systems", and Ji et al., 2023, "A critical
study on data leakage", ask for.)

Official: the files of the data's authors say which interaction is of which
split. Targets are as in global time.

Product search splits the catalogue itself: 80/10/10, by title.
"""

import dataclasses
import datetime

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32, Int64

from instructrec_jax.errors import InputError

# In every file that names a split, and by their index in `split_items`.
SPLITS = ("train", "validation", "test")

_MIN_ITEMS = 3
# Where, in a random order of all items, validation and test begin.
_BEGINS = (0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Sequences:
  """A ragged array: user `u` has `items[offsets[u]:offsets[u + 1]]`.

  Attributes:
    items: item numbers, oldest first, user after user.
    offsets: where each user starts, and the end of the last.
  """

  items: Int32[np.ndarray, " interactions"]
  offsets: Int64[np.ndarray, " users+1"]

  @classmethod
  def from_columns(
    cls,
    *,
    users: Int32[np.ndarray, " interactions"],
    items: Int32[np.ndarray, " interactions"],
    num_users: int,
  ) -> "Sequences":
    """Makes sequences of interactions sorted by user and time."""
    lengths = np.bincount(users, minlength=num_users)
    return cls(items=items, offsets=np.concatenate([[0], np.cumsum(lengths)]))

  def __len__(self) -> int:
    """Returns the number of users."""
    return len(self.offsets) - 1

  @property
  def lengths(self) -> Int64[np.ndarray, " users"]:
    """How many items each user has."""
    return np.diff(self.offsets)

  def user(self, user: int) -> Int32[np.ndarray, " length"]:
    """Returns one user's items, oldest first."""
    return self.items[self.offsets[user] : self.offsets[user + 1]]

  def first(self, lengths: Int64[np.ndarray, " users"]) -> "Sequences":
    """Returns the first `lengths` items of each user."""
    users, positions = _places(self)
    return Sequences(
      self.items[positions < lengths[users]],
      np.concatenate([[0], np.cumsum(lengths)]),
    )


@dataclasses.dataclass(frozen=True)
class Targets:
  """Items to predict from what the same user had before.

  Attributes:
    users: user numbers.
    positions: the targets' places in their users' sequences.
  """

  users: Int32[np.ndarray, " n"]
  positions: Int32[np.ndarray, " n"]

  def items(self, sequences: Sequences) -> Int32[np.ndarray, " n"]:
    """Returns the targets' item numbers."""
    return sequences.items[sequences.offsets[self.users] + self.positions]


@dataclasses.dataclass(frozen=True)
class Splits:
  """The targets of the three splits.

  Leave-one-out has one validation and one test target of the same users;
  global time may have them of different users.

  Attributes:
    training: all targets with a history that training may show.
    validation: at most one of each user.
    test: at most one of each user.
    training_lengths: how many of each user's first interactions may be counted
      or shown in training.
    validation_lengths: how many precede what is tested.
  """

  training: Targets
  validation: Targets
  test: Targets
  training_lengths: Int64[np.ndarray, " users"]
  validation_lengths: Int64[np.ndarray, " users"]

  def training_mask(
    self, sequences: Sequences
  ) -> Bool[np.ndarray, " interactions"]:
    """Marks the interactions that may be counted or shown in training."""
    users, positions = _places(sequences)
    return positions < self.training_lengths[users]

  def known_items(
    self, split: str, *, sequences: Sequences, owned: Sequences
  ) -> Sequences:
    """Returns each user's items that are known in the phase of a split.

    These alone are left out of the user's negatives. Whoever trains does not
    know what is held out: leaving it out would tell the model, by what never
    is a negative, what the user will buy.

    Args:
      split: "train" has the training items, "validation" those of validation
        too, "test" all.
      sequences: what the splits are of.
      owned: the same with what each user had before.
    """
    if split == "test":
      return owned
    lengths = {
      "train": self.training_lengths,
      "validation": self.validation_lengths,
    }[split]
    return owned.first(owned.lengths - sequences.lengths + lengths)


def tied_share(
  targets: Targets,
  sequences: Sequences,
  timestamps: Int[np.ndarray, " interactions"],
) -> float:
  """Returns the share of targets whose place in time is not known.

  These have the time of the user's item before or after them. Without targets
  the share is 0.

  Args:
    targets: of `sequences`.
    sequences: each user's items, oldest first.
    timestamps: when each of `sequences.items` was bought.
  """
  users, _ = _places(sequences)
  equal = (np.diff(timestamps) == 0) & (np.diff(users) == 0)
  tied = np.append(equal, False) | np.append(False, equal)
  places = sequences.offsets[targets.users] + targets.positions
  return float(tied[places].mean()) if len(places) else 0.0


def leave_one_out(sequences: Sequences) -> Splits:
  """Splits every user's sequence; see the module's docstring."""
  lengths = sequences.lengths
  return of_lengths(
    sequences,
    np.where(lengths >= _MIN_ITEMS, lengths - 2, lengths),
    np.where(lengths >= _MIN_ITEMS, lengths - 1, lengths),
  )


def of_lengths(
  sequences: Sequences,
  training_lengths: Int64[np.ndarray, " users"],
  validation_lengths: Int64[np.ndarray, " users"],
) -> Splits:
  """Returns the targets of sequences of which three parts follow each other.

  Every training item with a history is a target, and the last of a user's
  items of validation, and of the test.

  Args:
    sequences: each user's items, oldest first.
    training_lengths: how many items of each user train.
    validation_lengths: how many are not of the test.
  """
  users, positions = _places(sequences)
  training = (positions >= 1) & (positions < training_lengths[users])
  return Splits(
    training=Targets(users[training], positions[training]),
    validation=_last_between(training_lengths, validation_lengths),
    test=_last_between(validation_lengths, sequences.lengths),
    training_lengths=training_lengths,
    validation_lengths=validation_lengths,
  )


def moment(option: str, text: str) -> int:
  """Returns a date, or a date and time, in seconds since 1970.

  Args:
    option: what it was given as, for messages.
    text: in ISO 8601; without a zone it is UTC.

  Raises:
    InputError: it is no date, or before 1970.
  """
  try:
    parsed = datetime.datetime.fromisoformat(text)
  except (TypeError, ValueError):
    raise InputError(
      f"{option} is {text!r:.60}: a date such as 2021-08-11, or a date and "
      "time such as 2021-08-11T00:56:54, is needed."
    ) from None
  if parsed.tzinfo is None:
    parsed = parsed.replace(tzinfo=datetime.UTC)
  since = parsed - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
  if since.days < 0:
    raise InputError(f"{option} is {text}: it is before 1970.")
  # Times are whole seconds; what began before a cut is before it.
  return since.days * 86_400 + since.seconds + bool(since.microseconds)


def iso(seconds: int) -> str:
  """Returns a time in ISO 8601, in UTC."""
  return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def time_cuts(
  timestamps: Int[np.ndarray, " interactions"],
  *,
  validation_share: float = 0.1,
  test_share: float = 0.1,
) -> tuple[int, int]:
  """Returns two moments; interactions at one of them are of its later side.

  Args:
    timestamps: of all interactions, in any order.
    validation_share: of all interactions, those between the cuts (or more, by
      the ties).
    test_share: of all interactions, those after the second cut (as above).
  """
  count = len(timestamps)
  ordered = np.sort(timestamps)
  first, second = (
    int(ordered[min(int(count * (1 - later)), count - 1)]) if count else 0
    for later in (validation_share + test_share, test_share)
  )
  return first, second


def global_time(
  sequences: Sequences,
  timestamps: Int[np.ndarray, " interactions"],
  *,
  validation_share: float = 0.1,
  test_share: float = 0.1,
) -> Splits:
  """Splits interactions at the two moments of `time_cuts`, filtered or not.

  A user's only item cannot be a target. `prepare` cuts before it filters;
  folders of before filtered first, and their splits are these.

  Args:
    sequences: each user's items, oldest first.
    timestamps: when each of `sequences.items` was bought.
    validation_share, test_share: as of `time_cuts`.

  Raises:
    InputError: a split is left without a target.
  """
  first, second = time_cuts(
    timestamps, validation_share=validation_share, test_share=test_share
  )
  users, _ = _places(sequences)
  # How many of each user's interactions are earlier than the cut.
  trained, validated = (
    np.bincount(users[timestamps < cut], minlength=len(sequences))
    for cut in (first, second)
  )
  splits = of_lengths(sequences, trained, validated)
  check_targets(
    splits,
    f"the {len(timestamps):,} interactions are too few, or too many happened "
    "at the same time; use --split leave-one-out.",
  )
  return splits


def check_targets(splits: Splits, why: str) -> None:
  """Raises InputError, with a reason and advice, if a split has no target."""
  for name, targets in zip(
    SPLITS, (splits.training, splits.validation, splits.test), strict=True
  ):
    if not len(targets.users):
      raise InputError(f"the {name} split is left without a target: {why}")


def are_positions(
  sequences: Sequences, timestamps: Int[np.ndarray, " interactions"]
) -> bool:
  """Whether timestamps only number each user's items.

  Such numbers never repeat within a user and go no further than the longest
  sequence (twice, as filtering may have taken half of it); times do.

  Args:
    sequences: all items of each user, none cut off.
    timestamps: when each of `sequences.items` was bought.
  """
  users, _ = _places(sequences)
  rises = (np.diff(timestamps) > 0) | (np.diff(users) > 0)
  span = int(np.ptp(timestamps)) if len(timestamps) else 0
  longest = int(sequences.lengths.max(initial=0))
  return bool(rises.all()) and span <= 2 * longest


def refuse_positions(
  sequences: Sequences, timestamps: Int[np.ndarray, " interactions"]
) -> None:
  """Raises InputError where timestamps are no times; see `are_positions`."""
  if are_positions(sequences, timestamps):
    raise InputError(
      f"the timestamps (0 to {int(np.ptp(timestamps))} from the first) look "
      "like positions in each user's sequence, not like times, so there is no "
      "global time to split by; use --split leave-one-out."
    )


def _places(
  sequences: Sequences,
) -> tuple[
  Int32[np.ndarray, " interactions"], Int32[np.ndarray, " interactions"]
]:
  """Returns each interaction's user and its position in the sequence."""
  lengths = sequences.lengths
  users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
  positions = np.arange(len(users)) - sequences.offsets[users]
  return users, positions.astype(np.int32)


def _last_between(
  start: Int64[np.ndarray, " users"], end: Int64[np.ndarray, " users"]
) -> Targets:
  """Returns the last position in [start, end) of users with a history."""
  users = np.flatnonzero((end > start) & (end >= 2)).astype(np.int32)
  return Targets(users, (end[users] - 1).astype(np.int32))


def split_items(
  title_groups: Int[np.ndarray, " items"], *, seed: int
) -> Int8[np.ndarray, " items"]:
  """Returns each item's split in product search, as its index in `SPLITS`.

  Equal titles stay together, so each split has its share of the items, give or
  take the largest group.
  """
  sizes = np.bincount(title_groups)
  order = np.random.default_rng(seed).permutation(len(sizes))
  before = np.cumsum(sizes[order]) - sizes[order]
  split = np.empty(len(sizes), np.int8)
  split[order] = np.searchsorted(
    _BEGINS, before / max(len(title_groups), 1), side="right"
  )
  return split[title_groups]


def title_groups(titles: list[str]) -> Int64[np.ndarray, " items"]:
  """Returns a number for each title, the same for equal titles."""
  number: dict[str, int] = {}
  return np.array([number.setdefault(t, len(number)) for t in titles], np.int64)
