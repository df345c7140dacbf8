import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.teacher import offline
from instructrec_jax.teacher.chat import Status, schema_problem
from instructrec_jax.teacher.questions import (
  IntentionQuestion,
  PreferenceQuestion,
)

REVIEW = (
  "Great cable. I needed a long cable for my bass so that I can move on "
  "stage. The plugs are sturdy and the sound is clear. Bought in May."
)


def _preference(titles, labels=()):
  return offline.preference(PreferenceQuestion(0, len(titles), titles, labels))


def test_intentions_are_sentences_of_the_review():
  found = offline.intention(REVIEW)
  assert found["user_view"] == (
    "I needed a long cable for my bass so that I can move on stage."
  )
  assert found["item_view"].endswith(
    "The plugs are sturdy and the sound is clear."
  )


def test_two_views_are_never_the_same_sentence():
  only = "I needed a good and sturdy cable for my bass."
  found = offline.intention(only)
  assert found == {"user_view": only, "item_view": ""}


@pytest.mark.parametrize("review", ["", "Ok.", "a b c d", "!!! ???"])
def test_a_review_that_says_nothing_gives_nothing(review):
  assert set(offline.intention(review).values()) == {""}


def test_preferences_name_what_most_items_share():
  found = _preference(
    ["a", "b", "c", "d", "e"],
    [["Strings"], ["Strings"], ["Picks"], ["Strings"], ["Amps"]],
  )
  assert found["general"] == "The user likes Strings, Picks and Amps."
  assert found["long_term"] == "The user keeps coming back to Strings."
  assert "Picks, Strings and Amps" in found["short_term"]


def test_without_categories_words_of_titles_serve():
  found = _preference(["Zelda Twilight", "Zelda Wind Waker", "Mario"])
  assert found["general"].startswith("The user likes Zelda,")


@given(st.lists(st.text(max_size=40), max_size=6), st.text(max_size=300))
def test_answers_are_of_the_schema_and_say_who_made_them(titles, review):
  for question in (
    PreferenceQuestion(user=1, position=2, titles=titles),
    IntentionQuestion(user=1, position=2, review=review),
  ):
    request, answer = offline.answer(question)
    assert request.model == offline.MODEL and "rules" in offline.MODEL
    assert answer.key == request.key and answer.status == Status.ANSWERED
    assert schema_problem(answer.text, request.schema) is None
    assert all(isinstance(t, str) for t in json.loads(answer.text).values())
