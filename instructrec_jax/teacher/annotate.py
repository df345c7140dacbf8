"""Annotates a dataset folder: each of its questions is answered once."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax import locks, paper
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.progress import progress
from instructrec_jax.teacher import offline
from instructrec_jax.teacher.annotations import Annotations, open_store
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.questions import (
  PREFERENCES,
  VIEWS,
  Plan,
  Question,
  chat_request,
  plan,
)
from instructrec_jax.teacher.store import (
  ROWS_PER_COMMIT,
  Store,
  Subject,
  unanswered,
)

# Of LC-Rec's teacher, from the same group; the paper does not say.
PARAMETERS: Mapping[str, float | int | str] = {
  "temperature": 0.4,
  "max_completion_tokens": 512,
}

Send = Callable[[Iterable[ChatRequest], Store], Any]
"""A transport: puts answers to requests into a store; returns its tally."""


def annotate_offline(
  dataset: pathlib.Path, *, training_targets: int = 1, seed: int = 0
) -> dict[str, Any]:
  """Answers all questions by rules; existing answers stay.

  Args:
    dataset: a folder of `prepare`.
    training_targets: how many training targets of each user get an intention,
      beside the held-out ones.
    seed: chooses between wordings.

  Returns:
    The summary; see `summarise`.
  """
  folder = DatasetFolder.open(dataset)
  questions = plan(folder, training_targets=training_targets)
  with locks.writing_in(folder.path), open_store(folder) as store:
    known = store.answered()
    total = len(questions.preferences) + len(questions.intentions)
    bar = iter(progress(questions, total=total, desc="annotations"))
    while chunk := list(itertools.islice(bar, ROWS_PER_COMMIT)):
      answers = [(q, *offline.answer(q, seed=seed)) for q in chunk]
      store.put_all(
        [(r, a) for _, r, a in answers if known.add(r.key)],
        teacher=offline.TEACHER,
      )
      store.add_subjects(_subject(q, r) for q, r, _ in answers)
  return summarise(folder, questions)


def annotate_with(
  send: Send,
  dataset: pathlib.Path,
  *,
  model: str,
  parameters: Mapping[str, float | int | str] = PARAMETERS,
  training_targets: int = 1,
) -> dict[str, Any]:
  """Sends all questions that the store has no answer to.

  Takes `model` as the server calls it, `parameters` of sampling, and the rest
  as `annotate_offline`. Returns the summary of `summarise`, with the
  transport's tally as `tally`.
  """
  folder = DatasetFolder.open(dataset)
  questions = plan(folder, training_targets=training_targets)
  ask = functools.partial(chat_request, model=model, parameters=parameters)
  with locks.writing_in(folder.path), open_store(folder) as store:
    store.add_subjects(_subject(q, ask(q)) for q in questions)
    tally = send(unanswered(map(ask, questions), store), store)
  return {**summarise(folder, questions), "tally": tally}


def open_requests(
  dataset: pathlib.Path,
  *,
  model: str,
  parameters: Mapping[str, float | int | str] = PARAMETERS,
  training_targets: int = 1,
) -> Iterator[ChatRequest]:
  """Yields what `annotate_with` would send, and sends nothing."""
  folder = DatasetFolder.open(dataset)
  questions = plan(folder, training_targets=training_targets)
  ask = functools.partial(chat_request, model=model, parameters=parameters)
  with open_store(folder, to_read=True) as store:
    yield from unanswered(map(ask, questions), store)


def counted(
  dataset: pathlib.Path, *, training_targets: int = 1
) -> tuple[dict[str, int], str]:
  """Counts what there is to ask; asks nothing.

  Returns:
    Numbers of `users`, `preference_questions`, `preferences` (texts),
    `intention_questions` and `intentions`, and a table of them beside the
    paper's Table 2.
  """
  folder = DatasetFolder.open(dataset)
  questions = plan(folder, training_targets=training_targets)
  asked = len(questions.preferences), len(questions.intentions)
  found = {
    "users": questions.users,
    "preference_questions": asked[0],
    "preferences": asked[0] * len(PREFERENCES),
    "intention_questions": asked[1],
    "intentions": asked[1] * len(VIEWS),
  }
  users = paper.results()["datasets"]["games"]["users"]
  printed = paper.results()["annotations"]
  lines = [
    f"{'':<13}{'questions':>10}{'texts':>10}  the paper's Table 2, Games"
  ]
  for name, count in zip(("preferences", "intentions"), asked, strict=True):
    each = printed[name] // users
    lines.append(
      f"{name:<13}{count:>10,}{found[name]:>10,}  {printed[name]:,} = {each} x "
      f"{users:,} users"
    )
  return found, "\n".join(lines)


def _subject(question: Question, request: ChatRequest) -> Subject:
  return Subject(question.kind, question.user, question.position, request.key)


def summarise(folder: DatasetFolder, questions: Plan) -> dict[str, Any]:
  """Counts the annotations in a folder's store (paper Table 2).

  Returns:
    `users` and `targets` to annotate; `users_without_history` and
    `targets_without_review`, which no question fits; `quality` by field and
    verdict; `teachers`; `preferences` and `intentions`, the numbers of usable
    texts; `words`, their mean number of words; `coverage`, the share of users
    and of targets with at least one usable text.
  """
  annotations = Annotations.load(folder)
  preferences = [
    text
    for by_end in annotations.preferences.values()
    for texts in by_end.values()
    for text in texts.values()
  ]
  intentions = [
    text for views in annotations.intentions.values() for text in views.values()
  ]
  users = questions.users
  targets = questions.targets
  return {
    "users": users,
    "users_without_history": questions.users_without_history,
    "targets": targets,
    "targets_without_review": questions.targets_without_review,
    **annotations.as_json(),
    "preferences": len(preferences),
    "intentions": len(intentions),
    "words": {
      "preferences": _mean_words(preferences),
      "intentions": _mean_words(intentions),
      "all": _mean_words([*preferences, *intentions]),
    },
    "coverage": {
      "preferences": len(annotations.preferences) / max(users, 1),
      "intentions": len(annotations.intentions) / max(targets, 1),
    },
  }


def _mean_words(texts: Sequence[str]) -> float:
  return float(np.mean([len(text.split()) for text in texts] or [0]))
