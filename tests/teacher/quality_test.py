import pytest

from instructrec_jax.records import Item
from instructrec_jax.teacher.quality import (
  Quality,
  TitleWords,
  is_wish,
  judge,
  names_title,
)

TUNER = "Snark SN2 Guitar Tuner"
WORDS = TitleWords(
  [
    *[Item(f"s{n}", f"Snark SN{n} Guitar Tuner", ("Tuners",)) for n in "123"],
    *[Item(f"f{n}", f"Fender Picks {n}", ("Picks",)) for n in "12"],
    Item("g", "Guitar Strings, Bright Bronze", ("Acoustic Guitar Strings",)),
  ],
  [
    "I like the Snark tuner on my guitar.",
    "This Snark is a guitar tuner, and my picks are bright.",
    "So the Fender picks and the Fender amp are bronze, and bright.",
  ]
  * 3,
)


@pytest.mark.parametrize(
  ("text", "title", "named"),
  [
    ("I want Resident Evil 4 for my son", "Resident Evil 4", True),
    ("I want RESIDENT evil, 4!", "Resident Evil 4", True),
    ("I want an evil resident", "Resident Evil 4", False),
    ("I want Super Mario Bros", "Super Mario Bros. Wii", True),
    ("a Lord of the Rings game", "Lord of the Rings - PC", True),
    ("of the kind", "Best of the Rings", False),
    ("something like the Behringer guitar link cable",
     "Behringer Guitar Link Cable UCG102, Black", True),
    ("a cable for my guitar", "Behringer Guitar Link Cable UCG102", False),
    ("a tetris clone", "Tetris", True),
    ("tetrises", "Tetris", False),
    ("anything", "", False),
    ("the a", "The A", False),
  ],
)  # fmt: skip
def test_a_title_is_named_by_two_of_its_words_in_a_row(text, title, named):
  assert names_title(text, title) is named


@pytest.mark.parametrize(
  ("text", "named"),
  [
    ("I need a Snark for my guitar", True),
    ("i need a snark", True),
    ("I need an SN2", True),
    ("I need a guitar tuner", False),
    ("I need a tuner for my Fender", True),
    ("I need acoustic guitar strings", False),
    ("I need a bright tuner", False),
  ],
)
def test_names_are_told_from_kinds_by_how_reviews_write_them(text, named):
  assert names_title(text, TUNER, words=WORDS) is named
  assert WORDS.brands == {"snark", "fender"}


@pytest.mark.parametrize(
  "text",
  [
    "I need a second tuner for my pedal board.",
    "looking for strings that won't break",
    "some gifts for my son",
    "something for the holidays",
    "I enjoy buying games for my son that he enjoys.",
    "My daughter wants a doll.",
    "Could you show me a sturdy stand?",
    "It should be small and stay in tune.",
    "I would love it if the strap were wide.",
    "We're in the market for a new amp.",
    "I just bought a ukulele and need a tuner.",
  ],
)
def test_wishes_pass(text):
  assert is_wish(text)
  assert judge("intention", text, title=TUNER) == Quality.OK


@pytest.mark.parametrize(
  ("text", "verdict"),
  [
    ("I bought this Snark SN2 for gigs.", Quality.TITLE_LEAK),
    ("I bought this for my son and need one more.", Quality.PAST_PURCHASE),
    ("My wife loves it and wants another.", Quality.PAST_PURCHASE),
    ("Highly recommend this to all who need one.", Quality.PAST_PURCHASE),
    ("Yes I love it, and U will love it too.", Quality.PAST_PURCHASE),
    ("I needed a new strap and this one works.", Quality.NO_WISH),
    ("I was looking for a cheap strap.", Quality.NO_WISH),
    ("The plugs are sturdy and the sound is clear.", Quality.NO_WISH),
    ("A great product for my guitar", Quality.NO_WISH),
    ("It is all you need.", Quality.NO_WISH),
    ("If you're looking for a capo, look no further.", Quality.NO_WISH),
  ],
)
def test_opinions_and_past_purchases_are_no_wishes(text, verdict):
  assert judge("intention", text, title=TUNER) == verdict


@pytest.mark.parametrize(
  ("kind", "text", "verdict"),
  [
    ("preference", "The user likes strings.", Quality.OK),
    ("preference", "He prefers horror-based games.", Quality.OK),
    ("preference", "The user likes films on World War I.", Quality.OK),
    ("preference", "The user plays Tekken I and II.", Quality.OK),
    ("preference", "The user buys My Little Pony dolls.", Quality.OK),
    ("preference", "I like strings.", Quality.WRONG_PERSONA),
    ("preference", "Yes I like films on World War I.", Quality.WRONG_PERSONA),
    ("preference", "The user says I’m a fan.", Quality.WRONG_PERSONA),
    ("preference", "The user buys my favourites.", Quality.WRONG_PERSONA),
    ("preference", "", Quality.EMPTY),
    ("intention", "I want strings.", Quality.OK),
    ("intention", "The user wants strings.", Quality.WRONG_PERSONA),
    ("intention", "I want Ernie Ball strings.", Quality.TITLE_LEAK),
  ],
)
def test_each_fault_has_its_name(kind, text, verdict):
  assert judge(kind, text, title="Ernie Ball Strings") == verdict
