"""A dataset folder -> the questions to ask, and whether each can be asked."""

import collections
import dataclasses
import html
import re
from collections.abc import Iterator

import numpy as np

from instructrec_jax.data.cleaning import category_labels
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.teacher.prompts import (
  IntentionQuestion,
  PreferenceQuestion,
  Question,
)

_TAG = re.compile(r"<[^>]+>")


@dataclasses.dataclass(frozen=True)
class Plan:
  """All questions of a dataset folder.

  Attributes:
    preferences: one for each user with a history to describe.
    intentions: one for each annotated target that has a review.
    users_without_history: how many users get no preference.
    targets_without_review: how many annotated targets get no intention.
  """

  preferences: list[PreferenceQuestion]
  intentions: list[IntentionQuestion]
  users_without_history: int
  targets_without_review: int

  def __iter__(self) -> Iterator[Question]:
    """Yields preferences, then intentions."""
    yield from self.preferences
    yield from self.intentions


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


def plan(folder: DatasetFolder, *, training_targets: int = 1) -> Plan:
  """Returns the questions whose answers `build` can use.

  A preference is made of what came before the first of its user's annotated
  targets, so it may serve all of them. An intention sees the review of its
  own target, and nothing else.
  """
  titles = [item.title for item in folder.items]
  labels = category_labels(folder.items)
  reviews = folder.interactions.select("summary", "text").rows()
  sequences = folder.sequences
  preferences, intentions = [], []
  users_without_history = targets_without_review = 0
  positions = annotated_positions(folder, training_targets=training_targets)
  for user, targets in positions.items():
    if targets[0]:
      items = sequences.user(user)[: targets[0]].tolist()
      preferences.append(
        PreferenceQuestion(
          user=user,
          position=targets[0],
          titles=[titles[item] for item in items],
          labels=[labels[item] for item in items],
        )
      )
    else:
      users_without_history += 1
    for position in targets:
      review = _plain(*reviews[int(sequences.offsets[user]) + position])
      if review:
        intentions.append(IntentionQuestion(user, position, review))
      else:
        targets_without_review += 1
  return Plan(
    preferences, intentions, users_without_history, targets_without_review
  )


def _plain(summary: str | None, text: str | None) -> str:
  """Returns one line without mark-up; the summary ends as a sentence."""
  review = _TAG.sub(" ", f"{summary or ''}\n{text or ''}")
  summary, _, body = html.unescape(review).partition("\n")
  summary, body = (" ".join(part.split()) for part in (summary, body))
  if summary and summary[-1] not in ".!?":
    summary += "."
  return f"{summary} {body}".strip()
