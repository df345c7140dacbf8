import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.teacher import offline
from instructrec_jax.teacher.chat import Status, schema_problem
from instructrec_jax.teacher.quality import Quality, judge, names_title
from instructrec_jax.teacher.questions import (
  IntentionQuestion,
  PreferenceQuestion,
)

REVIEW = (
  "Great cable. I needed a long cable for my bass so that I can move on "
  "stage. The plugs are sturdy and the sound is clear. Bought in May."
)


def _preference(labels, *, seed=0):
  titles = [f"title {number}" for number in range(len(labels))]
  question = PreferenceQuestion(0, len(labels), titles, labels)
  return offline.preference(question, random.Random(seed))


def _intention(review, title, *labels, seed=0):
  question = IntentionQuestion(0, 1, review, title, labels)
  return json.loads(offline.answer(question, seed=seed)[1].text)


def test_preferences_tell_the_kinds_that_most_items_are_of():
  labels = [["Strings"], ["Picks"], ["Strings"], ["Tuners"], ["Capos"]]
  for seed in range(40):
    found = _preference(labels, seed=seed)
    assert "strings, picks and tuners" in found["general"]
    assert "capos" in found["short_term"]
    assert "strings" not in found["short_term"]
    assert judge("preference", found["general"]) == Quality.OK


def test_what_would_repeat_the_general_taste_is_left_empty():
  for labels in ([["Picks"]] * 6, [["Picks"], ["Capos"]], [["Picks"]]):
    found = _preference(labels)
    assert found["general"] and not found["short_term"]
    assert not found["long_term"]
  assert set(_preference([[], []]).values()) == {""}


def test_a_kind_that_is_a_list_is_told_apart():
  found = _preference([["Bags & Cases"], ["Picks"], ["Capos"]])
  assert "picks and capos as well as bags and cases" in found["general"]


def test_a_kind_bought_far_more_often_comes_first():
  labels = [["Picks"]] * 5 + [["Capos"], ["Tuners"]]
  texts = {_preference(labels, seed=seed)["general"] for seed in range(40)}
  assert len(texts) > 3
  assert all(text.index("picks") < text.index("capos") for text in texts)


def test_intentions_are_wishes_that_name_no_title():
  title = "Hosa Sturdy Instrument Cable for Bass"
  for seed in range(60):
    for text in _intention(
      REVIEW, title, "Instrument Cables", seed=seed
    ).values():
      assert judge("intention", text, title=title) == Quality.OK
      assert not names_title(text, title)
      assert not set(text.lower().split()) & {"hosa", "great", "may"}


def test_two_views_are_never_the_same_sentence():
  for seed in range(60):
    user, item = _intention(REVIEW, "x", "Straps", seed=seed).values()
    assert user and item and user != item


@pytest.mark.parametrize("review", ["", "Ok.", "a b c d", "!!! ???"])
def test_nothing_to_say_gives_nothing(review):
  assert set(_intention(review, "x").values()) == {""}


def test_answers_are_those_of_the_question_and_seed():
  questions = [
    IntentionQuestion(user, 1, REVIEW, f"t{user}", ("Straps",))
    for user in range(20)
  ]
  answers = [offline.answer(question, seed=3)[1] for question in questions]
  again = [offline.answer(question, seed=3)[1] for question in questions[::-1]]
  assert answers == again[::-1]
  other = [offline.answer(question, seed=4)[1] for question in questions]
  assert not {a.key for a in answers} & {a.key for a in other}
  assert [a.text for a in answers] != [a.text for a in other]
  # Another user's equal question is the same request.
  same = IntentionQuestion(99, 7, REVIEW, "t0", ("Straps",))
  assert offline.answer(same, seed=3)[1] == answers[0]


@given(
  st.lists(st.text(max_size=40), max_size=6),
  st.text(max_size=300),
  st.lists(st.text(min_size=1, max_size=20), max_size=3),
)
def test_answers_are_of_the_schema_and_say_who_made_them(
  titles, review, labels
):
  for question in (
    PreferenceQuestion(1, 2, titles, [labels] * len(titles)),
    PreferenceQuestion(user=1, position=2, titles=titles),
    IntentionQuestion(1, 2, review, "".join(titles), labels),
  ):
    request, answer = offline.answer(question)
    assert request.model == offline.MODEL and "rules" in offline.MODEL
    assert answer.key == request.key and answer.status == Status.ANSWERED
    assert schema_problem(answer.text, request.schema) is None
    assert all(isinstance(t, str) for t in json.loads(answer.text).values())
