"""What the teacher is asked: a dataset folder -> questions -> requests.

Bump `VERSION` with any change of wording or schema: the store then keeps the
new answers beside the old.
"""

import collections
import dataclasses
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

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


@dataclasses.dataclass(frozen=True)
class Plan:
  """All questions of a dataset folder.

  Attributes:
    preferences: one for each user and split with a history to describe.
    intentions: one for each annotated target that has a review.
  """

  preferences: list[PreferenceQuestion]
  intentions: list[IntentionQuestion]
  users_without_history: int
  targets_without_review: int

  def __iter__(self) -> Iterator[Question]:
    yield from self.preferences
    yield from self.intentions

  @property
  def users(self) -> int:
    """How many users there are to annotate."""
    asked = len({question.user for question in self.preferences})
    return asked + self.users_without_history


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
  titles = [item.title for item in folder.items]
  roots = sorted(root_categories(folder.items))
  labels = [with_roots(own, roots) for own in category_labels(folder.items)]
  reviews = folder.interactions.select("summary", "text").rows()
  sequences = folder.sequences
  preferences, intentions = [], []
  users_without_history = targets_without_review = 0
  positions = annotated_positions(folder, training_targets=training_targets)
  held_out = collections.defaultdict(set)
  for targets in (folder.splits.validation, folder.splits.test):
    for user, place in zip(targets.users, targets.positions, strict=True):
      held_out[int(user)].add(int(place))
  for user, targets in positions.items():
    training = [place for place in targets if place not in held_out[user]]
    ends = sorted({*training[-1:], *held_out[user]} - {0})
    users_without_history += not ends
    for end in ends:
      items = sequences.user(user)[:end].tolist()
      preferences.append(
        PreferenceQuestion(
          user=user,
          position=end,
          titles=[titles[item] for item in items],
          labels=[labels[item] for item in items],
        )
      )
    for position in targets:
      review = _plain(*reviews[int(sequences.offsets[user]) + position])
      if review:
        item = int(sequences.user(user)[position])
        intentions.append(
          IntentionQuestion(user, position, review, titles[item], labels[item])
        )
      else:
        targets_without_review += 1
  return Plan(
    preferences, intentions, users_without_history, targets_without_review
  )


def annotated_positions(
  folder: DatasetFolder, *, training_targets: int = 1
) -> dict[int, list[int]]:
  """Returns each user's positions that get an intention, ascending.

  They are the held-out targets and the last of the training targets (design
  decision 5): with leave-one-out, a user's last three items.
  """
  positions = collections.defaultdict(list)
  splits = folder.splits
  if training_targets:
    users, places = splits.training.users, splits.training.positions
    order = np.lexsort((places, users))
    users, places = users[order], places[order]
    # How many targets of the same user come after this one.
    ends = np.searchsorted(users, users, side="right")
    last = ends - np.arange(len(users)) <= training_targets
    for user, place in zip(users[last], places[last], strict=True):
      positions[int(user)].append(int(place))
  for targets in (splits.validation, splits.test):
    for user, place in zip(targets.users, targets.positions, strict=True):
      positions[int(user)].append(int(place))
  return {user: sorted(positions[user]) for user in sorted(positions)}


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
