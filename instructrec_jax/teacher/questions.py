"""What the teacher is asked: a dataset folder -> questions -> requests.

Bump `VERSION` with any change of wording or schema: the store then keeps the
new answers beside the old.
"""

import dataclasses
import functools
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from instructrec_jax.data.cleaning import category_labels, root_categories
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import check_counts
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.kinds import with_roots

VERSION = "1"
MAX_REVIEW_CHARACTERS = 3000

# The answers' fields: descriptions of a user's taste (P2), and an intention
# (I1) from two points of view.
PREFERENCES = ("general", "long_term", "short_term")
VIEWS = ("user_view", "item_view")

_TAG = re.compile(r"<[^>]+>")
# What may not be there any more once a review is plain.
_NO_LETTERS = r"<[^>]+>|&#?[A-Za-z0-9]*"
_BLOCK = 1 << 16
_Q = TypeVar("_Q")


@dataclasses.dataclass(frozen=True, slots=True)
class PreferenceQuestion:
  """Asks for a user's taste.

  Attributes:
    position: where the history ends; the item there and all later ones are
      not in `titles`. Its last item is at `position - 1`.
    titles: the history, oldest first.
    labels: categories of each of these items, for the offline teacher.
  """

  user: int
  position: int
  titles: Sequence[str]
  labels: Sequence[Sequence[str]] = ()

  kind = "preference"


@dataclasses.dataclass(frozen=True, slots=True)
class IntentionQuestion:
  """Asks for the intention behind a purchase, from the review of it.

  Attributes:
    position: of the target, the one item whose review is seen.
    review: its summary and text.
    title, labels: of the target, for the offline teacher.
  """

  user: int
  position: int
  review: str
  title: str = ""
  labels: Sequence[str] = ()

  kind = "intention"


Question = PreferenceQuestion | IntentionQuestion


class Questions(Generic[_Q]):
  """Questions of one kind, made anew whenever they are gone through."""

  def __init__(
    self, make: Callable[[], Iterator[_Q]], count: Callable[[], int]
  ):
    """Makes none yet."""
    self._make, self._count = make, count

  def __iter__(self) -> Iterator[_Q]:
    return self._make()

  def __len__(self) -> int:
    return self._count()


class Plan:
  """All questions of a dataset folder, of which memory holds numbers alone.

  Attributes:
    preferences: one for each user and split with a history to describe.
    intentions: one for each annotated target that has a review.
    targets: how many there are to annotate.
    users: likewise.
    users_without_history: of these.
  """

  def __init__(self, folder: DatasetFolder, *, training_targets: int):
    """Finds the targets; see `plan`."""
    self._folder = folder
    self._users, self._places, is_end = _annotated(
      folder, training_targets=training_targets
    )
    # An empty history tells no taste.
    is_end &= self._places > 0
    self._ends = self._users[is_end], self._places[is_end]
    self.targets = len(self._users)
    self.users = len(np.unique(self._users))
    self.users_without_history = self.users - len(np.unique(self._ends[0]))
    self.preferences = Questions(self._preferences, lambda: len(self._ends[0]))
    self.intentions = Questions(
      self._intentions, lambda: self.targets - self.targets_without_review
    )

  def __iter__(self) -> Iterator[Question]:
    yield from self.preferences
    yield from self.intentions

  @functools.cached_property
  def targets_without_review(self) -> int:
    """How many targets no intention can be asked of; reads all reviews."""
    return sum(
      not _plain(*review) for *_, review in self._reviews(only_bare=True)
    )

  def _preferences(self) -> Iterator[PreferenceQuestion]:
    titles, bare, labels = self._titles, self._bare, self._labels
    for user, end in _pairs(*self._ends):
      items = self._folder.sequences.user(user)[:end].tolist()
      # Beside kinds of product, the department says nothing.
      any_kind = any(bare[item] for item in items)
      yield PreferenceQuestion(
        user=user,
        position=end,
        titles=[titles[item] for item in items],
        labels=[
          labels[item] if bare[item] or not any_kind else () for item in items
        ],
      )

  def _intentions(self) -> Iterator[IntentionQuestion]:
    titles, labels = self._titles, self._labels
    sequences = self._folder.sequences
    for user, place, texts in self._reviews():
      if review := _plain(*texts):
        item = int(sequences.user(user)[place])
        yield IntentionQuestion(user, place, review, titles[item], labels[item])

  def _reviews(
    self, *, only_bare: bool = False
  ) -> Iterator[tuple[int, int, tuple[str | None, str | None]]]:
    """Yields user, position, summary and text of targets.

    Args:
      only_bare: not of those with a letter or digit outside of tags and
        entities, which surely have a review.
    """
    rows = self._folder.sequences.offsets[self._users] + self._places
    start = 0
    for frame in self._folder.reviews():
      end = start + frame.height
      first, last = np.searchsorted(rows, (start, end))
      chosen = frame[rows[first:last] - start].with_columns(
        user=self._users[first:last], place=self._places[first:last]
      )
      start = end
      if only_bare:
        text = pl.concat_str(
          pl.col("summary", "text").fill_null(""), separator="\n"
        )
        bare = text.str.replace_all(_NO_LETTERS, " ")
        chosen = chosen.filter(~bare.str.contains("[A-Za-z0-9]"))
      columns = chosen.select("user", "place", "summary", "text")
      for user, place, *texts in columns.iter_rows():
        yield user, place, (texts[0], texts[1])

  @functools.cached_property
  def _titles(self) -> list[str]:
    return [item.title for item in self._folder.items]

  @functools.cached_property
  def _bare(self) -> list[tuple[str, ...]]:
    return category_labels(self._folder.items)

  @functools.cached_property
  def _labels(self) -> list[Sequence[str]]:
    roots = sorted(root_categories(self._folder.items))
    return [with_roots(own, roots) for own in self._bare]


def plan(folder: DatasetFolder, *, training_targets: int = 1) -> Plan:
  """Returns the questions whose answers `build` can use.

  A preference is asked for once a user and split: of validation and test from
  all that came before the target, of training from all before the last
  annotated one, which it is for. So each sees the whole history of the target
  that it serves, and none sees a target. An intention sees the review of its
  own target, and nothing else.

  Raises:
    InputError: `training_targets` is no number of targets.
  """
  check_counts(least=0, training_targets=training_targets)
  return Plan(folder, training_targets=training_targets)


def _annotated(
  folder: DatasetFolder, *, training_targets: int
) -> tuple[
  Int[np.ndarray, " targets"],
  Int[np.ndarray, " targets"],
  Bool[np.ndarray, " targets"],
]:
  """Returns user and position of what gets an intention, by both, ascending.

  They are the held-out targets and the last of the training targets (design
  decision 5): with leave-one-out, a user's last three items. Returned, too, is
  which of them end a history that is described: held-out ones, and of training
  the last.
  """
  splits = folder.splits
  users, places = splits.training.users, splits.training.positions
  order = np.lexsort((places, users))
  users, places = users[order], places[order]
  # How many targets of the same user come after this one.
  left = np.searchsorted(users, users, side="right") - np.arange(len(users))
  last = left <= training_targets
  held_out = (splits.validation, splits.test)
  users = np.concatenate([users[last], *(split.users for split in held_out)])
  places = np.concatenate(
    [places[last], *(split.positions for split in held_out)]
  )
  is_end = np.ones(len(users), bool)
  is_end[: int(last.sum())] = left[last] == 1
  order = np.lexsort((places, users))
  return users[order], places[order], is_end[order]


def _pairs(
  first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]
) -> Iterator[tuple[int, int]]:
  """Yields numbers of Python, without lists of all."""
  for start in range(0, len(first), _BLOCK):
    block = slice(start, start + _BLOCK)
    yield from zip(first[block].tolist(), second[block].tolist(), strict=True)


def _plain(summary: str | None, text: str | None) -> str:
  """Returns one line without mark-up; the summary ends as a sentence."""
  review = _TAG.sub(" ", f"{summary or ''}\n{text or ''}")
  summary, _, body = html.unescape(review).partition("\n")
  summary, body = (" ".join(part.split()) for part in (summary, body))
  if summary and summary[-1] not in ".!?":
    summary += "."
  return f"{summary} {body}".strip()


_PREFERENCE = """\
You describe the taste of a customer of an online shop. You are given the \
products that the customer bought, oldest first. Write three descriptions, \
each one sentence of 10 to 30 words about "the user" in the third person, \
beginning with "The user": `general`, what the user likes on the whole; \
`long_term`, what stays the same from the first purchase to the last; \
`short_term`, what the latest purchases are about. Add what you know of these \
products (kind, style, occasion), do not list their names, and say nothing \
that the purchases do not support."""

_INTENTION = """\
You find out what a customer of an online shop was looking for. You are given \
the customer's review of a product, written after buying it. Write down the \
wish that the customer had before buying, in the first person, as the \
customer would say it to a shop assistant, one sentence of 8 to 30 words \
each: `user_view`, from the customer's side (whom it is for, the occasion, \
the need); `item_view`, from the product's side (the properties that it \
should have). Never name the product, its brand or its title, and do not \
speak of a review or a past purchase. Leave a field empty if the review does \
not tell."""


def chat_request(
  question: Question,
  *,
  model: str,
  parameters: Mapping[str, float | int | str],
) -> ChatRequest:
  """Words a question; equal questions of two users are one request."""
  if isinstance(question, PreferenceQuestion):
    system, fields = _PREFERENCE, PREFERENCES
    user = "\n".join(
      f"{number}. {title}" for number, title in enumerate(question.titles, 1)
    )
  else:
    system, fields = _INTENTION, VIEWS
    user = question.review[:MAX_REVIEW_CHARACTERS]
  return ChatRequest(
    model=model,
    system=system,
    user=user,
    schema_name=question.kind,
    schema=strict_schema(fields),
    parameters=parameters,
    prompt_version=VERSION,
  )


def strict_schema(
  fields: Iterable[str], *, type: str = "string"
) -> dict[str, Any]:
  """Returns the JSON schema that structured outputs want.

  Any change of it changes the keys of all requests that were paid for.
  """
  fields = list(fields)
  return {
    "type": "object",
    "properties": {name: {"type": type} for name in fields},
    "required": fields,
    "additionalProperties": False,
  }
