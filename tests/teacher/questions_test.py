import collections
import dataclasses

import numpy as np
import polars as pl
import pytest

from instructrec_jax import parquet
from instructrec_jax.data.folder import INTERACTIONS_FILE
from instructrec_jax.data.prepare import prepare
from instructrec_jax.teacher.questions import (
  MAX_REVIEW_CHARACTERS,
  IntentionQuestion,
  PreferenceQuestion,
  chat_request,
  plan,
)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
  """A folder whose titles and reviews say which they are."""
  folder = prepare(
    format="synthetic",
    users=40,
    min_count=0,
    out=tmp_path_factory.mktemp("plan") / "shop",
  )
  folder.items = [
    dataclasses.replace(item, title=f"title-{number}-")
    for number, item in enumerate(folder.items)
  ]
  folder.interactions.with_columns(
    summary=pl.format("summary-{}-{}-", "user", "position"),
    text=pl.format("<br />review-{}-{}- &amp; more", "user", "position"),
  ).write_parquet(folder.path / INTERACTIONS_FILE)
  return folder


def _prompt(question) -> str:
  request = chat_request(question, model="m", parameters={})
  return f"{request.system}\n{request.user}"


def test_a_preference_prompt_holds_the_history_up_to_its_cut_alone(marked):
  questions = plan(marked).preferences
  assert len(questions) == 3 * len(marked.sequences)
  for question in questions:
    prompt = _prompt(question)
    items = marked.sequences.user(question.user).tolist()
    for place, item in enumerate(items):
      assert (f"title-{item}-" in prompt) == (place < question.position)
    assert "review-" not in prompt and "summary-" not in prompt


@pytest.mark.parametrize("training_targets", [0, 1, 4])
def test_a_preference_is_of_all_before_the_target_of_its_split(
  marked, training_targets
):
  """Leave-one-out: the last is tested, and no target is in its own history."""
  found = collections.defaultdict(list)
  for question in plan(marked, training_targets=training_targets).preferences:
    found[question.user].append(question.position)
    assert len(question.titles) == question.position
  splits = marked.splits
  for user, ends in found.items():
    last = int(marked.sequences.lengths[user]) - 1
    # Of training the last target alone, however many have an intention.
    first = last - 1 - bool(training_targets)
    assert ends == [*range(max(first, 1), last + 1)]
    for targets in (splits.validation, splits.test):
      (place,) = targets.positions[targets.users == user]
      assert place in ends


def test_an_intention_prompt_holds_its_own_review_alone(marked, monkeypatch):
  # So that reviews come in many blocks.
  monkeypatch.setattr(parquet, "_ROWS", 7)
  questions = plan(marked).intentions
  assert len(questions) == 3 * len(marked.sequences)
  for question in questions:
    prompt = _prompt(question)
    own = f"-{question.user}-{question.position}-"
    assert prompt.count("review-") == prompt.count(f"review{own}") == 1
    assert prompt.count("summary-") == prompt.count(f"summary{own}") == 1
    assert "title-" not in prompt
    assert question.review == f"summary{own}. review{own} & more"


@pytest.mark.parametrize("training_targets", [0, 1, 2])
def test_held_out_and_last_training_targets_are_annotated(
  marked, training_targets
):
  found = collections.defaultdict(list)
  for question in plan(marked, training_targets=training_targets).intentions:
    found[question.user].append(question.position)
  lengths = marked.sequences.lengths
  assert len(found) == len(lengths)
  for user, positions in found.items():
    last = int(lengths[user])
    first = last - 2 - training_targets
    assert positions == [p for p in range(first, last) if p >= 1]


def test_what_cannot_be_asked_is_counted(marked):
  path = marked.path / INTERACTIONS_FILE
  written = path.read_bytes()
  pl.read_parquet(path).with_columns(
    summary=pl.when(pl.col("position") == 0).then(pl.col("summary")),
    text=pl.when(pl.col("position") % 2 == 0).then(pl.lit("<b>&nbsp;")),
  ).write_parquet(path)
  try:
    found = plan(marked)
    assert [*found.intentions] == []
  finally:
    path.write_bytes(written)
  assert found.targets_without_review == 3 * len(marked.sequences)
  assert len(found.intentions) == 0


def test_questions_are_counted_as_they_are_made(marked, monkeypatch):
  monkeypatch.setattr(parquet, "_ROWS", 7)
  path = marked.path / INTERACTIONS_FILE
  written = path.read_bytes()
  texts = ["", None, "<br>", "&lt;3", "&#x20;", "Good", "&ampgood", "é", "<3"]
  frame = pl.read_parquet(path)
  frame.with_columns(
    summary=pl.lit("<p>\n</p>"),
    text=pl.Series([texts[row % len(texts)] for row in range(frame.height)]),
  ).write_parquet(path)
  try:
    found = plan(marked, training_targets=2)
    asked = [*found.intentions]
    assert len(found.intentions) == len(asked)
    assert {question.review for question in asked} == {
      *("<3", "Good", "&good", "é")
    }
  finally:
    path.write_bytes(written)
  assert len(found.preferences) == len([*found.preferences])
  assert len(asked) + found.targets_without_review == found.targets


def test_long_reviews_are_cut():
  question = IntentionQuestion(user=0, position=1, review="word " * 5000)
  assert len(_prompt(question)) < MAX_REVIEW_CHARACTERS + 2000


def test_equal_questions_of_two_users_are_one_request():
  keys = {
    chat_request(
      PreferenceQuestion(user=user, position=position, titles=["a", "b"]),
      model="m",
      parameters={},
    ).key
    for user, position in ((0, 2), (1, 2), (2, 5))
  }
  assert len(keys) == 1


def test_users_keep_their_order(marked):
  users = [question.user for question in plan(marked)]
  number = 3 * len(marked.sequences)
  assert users[:number] == sorted(users[:number])
  assert np.all(np.diff(users[number:]) >= 0)


_PARAMETERS = {"temperature": 0.4, "max_completion_tokens": 512}


@pytest.mark.parametrize(
  ("question", "key"),
  [
    (
      PreferenceQuestion(3, 2, titles=["Guitar “Strings”", "Tuner"]),
      "9867365249b9f1c1ecfdcf2605b3575f6d5b7c623e7069ff51b1870ceaa79fe9",
    ),
    (
      IntentionQuestion(3, 2, "Great. I needed it."),
      "19412104a850ed4796434f0c3708d8d84953250a869e7209f81fba92d0d336aa",
    ),
  ],
)
def test_answers_paid_for_by_the_first_version_are_found(question, key):
  # Keys of the first version: another key would pay for all answers again.
  request = chat_request(question, model="gpt-4o-mini", parameters=_PARAMETERS)
  assert request.key == key
