"""Tests for instructrec_jax/instructions/persona.py."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from instructrec_jax.instructions.persona import first_person, third_person
from instructrec_jax.teacher.kinds import wordings

QUOTED = re.compile(r'"[^"]*"|“[^”]*”|«[^»]*»')
LEFT_OVER = re.compile(
  r"(?<![\w'’-])(i|me|my|mine|myself|i['’]m|i['’]ve|i['’]d|i['’]ll)(?![\w'’-])",
  re.IGNORECASE,
)
WORDS = (
  "I i I'm I’ve I'd I'll me my mine myself like love play study and but "
  "usually always don't am have do can to with games jazz son plays the that "
  "loved really not it bought of when watch"
).split()
QUOTATIONS = ('"I, Robot"', "“My Fair Lady”", "«me and mine»")
SENTENCES = st.lists(
  st.sampled_from([*WORDS, *QUOTATIONS, ",", ".", "!", ";"]), max_size=20
).map(" ".join)


@pytest.mark.parametrize(
  ("said", "shifted"),
  [
    (
      "I like horror games and my son plays them",
      "The user likes horror games and the user's son plays them",
    ),
    (
      "i usually study, and I don't watch TV. My kids do!",
      "The user usually studies, and the user doesn't watch TV. "
      "The user's kids do!",
    ),
    (
      "I'm into jazz; I've always loved it, I'd rather have vinyl.",
      "The user is into jazz; the user has always loved it, the user would "
      "rather have vinyl.",
    ),
    ("I’d always wanted one", "The user had always wanted one"),
    ("We can cook but I am lazy", "The user can cook but the user is lazy"),
    (
      "I don't like puzzles but love the blues and play it for myself",
      "The user doesn't like puzzles but loves the blues and plays it for "
      "themselves",
    ),
    (
      "I like love stories and love songs",
      "The user likes love stories and love songs",
    ),
    (
      "I like games that challenge me and have a story",
      "The user likes games that challenge the user and have a story",
    ),
    ("I bought and kept it", "The user bought and kept it"),
    ("My son and I like puzzles", "The user's son and the user like puzzles"),
    ("All I and my son play", "All the user and the user's son play"),
    ("Neither do I. I go", "Neither does the user. The user goes"),
    ("Friends of mine love it", "Friends of the user's love it"),
    ("I LOVE MY GUITAR", "The user LOVES the user's GUITAR"),
  ],
)
def test_the_first_person_becomes_the_user(said, shifted):
  assert third_person(said) == shifted


@pytest.mark.parametrize(
  "text",
  [
    "The user likes horror games and the user's son plays them.",
    "Video Games, PlayStation 4, Games",
    "World War I games made in the US",
    "Fans of My Little Pony dig a gold mine with A.I.",
    "They play \"I, Robot\", “My Way” and 'Give Me a Sign'.",
    "",
  ],
)
def test_nothing_else_changes(text):
  assert third_person(text) == text


@hypothesis.given(SENTENCES)
def test_shifting_twice_is_shifting_once(text):
  once = third_person(text)
  assert third_person(once) == once


@hypothesis.given(SENTENCES)
def test_quotations_stay_and_no_first_person_is_left_beside_them(text):
  shifted = third_person(text)
  assert QUOTED.findall(shifted) == QUOTED.findall(text)
  outside = re.sub(
    # "The mine" is a noun, and stays.
    r"\b(the|that|my|user['’]s) mine\b",
    "",
    QUOTED.sub(" x ", shifted),
    flags=re.IGNORECASE,
  )
  assert not LEFT_OVER.search(outside), shifted


@hypothesis.given(st.text() | st.text("IiMmeynd '’.\"-ABWar1İ"))
def test_any_text_can_be_shifted_twice(text):
  once = third_person(text)
  assert third_person(once) == once


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("The user likes horror games, and enjoys them with the user's son.",
     "I like horror games, and enjoy them with my son."),
    ("He prefers horror-based games with a strong narrative.",
     "I prefer horror-based games with a strong narrative."),
    ("The user has lately been into pumps.", "I have lately been into pumps."),
    ("The user's taste is simple. They like jazz and are fond of it.",
     "My taste is simple. I like jazz and am fond of it."),
    ("The user is a fan of cars, but doesn't like noise.",
     "I am a fan of cars, but don't like noise."),
    ("Games that challenge the user and please her son.",
     "Games that challenge me and please my son."),
    ("The user watches films, buys books and goes out.",
     "I watch films, buy books and go out."),
    ("The user’s son plays with the user.", "My son plays with me."),
    ("I like the user manual.", "I like the user manual."),
    ("Horror games", "Horror games"),
    ("", ""),
  ],
)  # fmt: skip
def test_a_preference_can_be_said_by_the_user(text, said):
  assert first_person(text) == said
  assert first_person(said) == said


@pytest.mark.parametrize("form", sorted(wordings()["preferences"]))
def test_the_offline_teachers_preferences_can_be_said_by_the_user(form):
  for wording in wordings()["preferences"][form]:
    text = wording.format(all="red cups", a="red cups", b="lamps")
    said = first_person(text)
    assert said.startswith("I ") and "user" not in said
    assert third_person(said) == text


@hypothesis.given(st.text(max_size=80))
def test_any_text_can_be_put_into_the_first_person(text):
  assert isinstance(first_person(text), str)
