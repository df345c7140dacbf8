import random

import pytest

from instructrec_jax.teacher import wishes
from instructrec_jax.teacher.kinds import kind_of, wordings
from instructrec_jax.teacher.quality import Quality, judge

REVIEW = (
  "Great cable! I needed it for my pedal board, and one more. My old one "
  "broke. The plugs are sturdy and it has a clear sound, at a good price. It "
  "is not flexible. My son uses it at gigs."
)


def _all(say, cues, kind, *, names=lambda text: False, count=400):
  return {
    say(cues, kind, rng=random.Random(seed), names=names)
    for seed in range(count)
  }


def test_cues_are_what_the_review_says_and_does_not_deny():
  cues = wishes.Cues.of(REVIEW)
  assert cues.whom == ("for my pedal board",)
  assert "for gigs" in cues.purposes
  assert cues.another == "second"
  said = [word for aspect in cues.aspects for words in aspect.values()
          for word in words]  # fmt: skip
  assert "sturdy" in said and "affordable" in said
  assert "flexible" not in said


@pytest.mark.parametrize(
  ("review", "tail"),
  [
    ("It is for a birthday.", "for a birthday"),
    ("For my niece. A birthday card.", "for my niece's birthday"),
    ("Sent to my parents at Christmas.", "for my parents this Christmas"),
    ("A gift for my kids on their graduation", "for my kids' graduation"),
    ("It fits my Taylor acoustic guitar.", "for my acoustic guitar"),
  ],
)
def test_persons_and_occasions_go_together(review, tail):
  assert tail in wishes.Cues.of(review).whom


@pytest.mark.parametrize(
  "label", ["Instrument Cables", "Acoustic Guitar Strings", "Software",
            "Cleaning & Care", "Bags & Cases", "Sewing", "Gift Cards", None],
)  # fmt: skip
def test_everything_that_is_said_is_a_wish(label):
  kind = kind_of([label]) if label else None
  texts = set()
  for review in (REVIEW, "", "For my mom at Christmas, cute.", "A spare one."):
    cues = wishes.Cues.of(review)
    texts |= _all(wishes.needs, cues, kind) | _all(wishes.asks, cues, kind)
  texts -= {""}
  for text in texts:
    assert judge("intention", text) == Quality.OK, text
    assert "  " not in text and " ," not in text and "{" not in text, text
    assert " a a" not in f" {text.lower()}".replace(" a acoustic", " a a"), text
  # Many voices: no beginning is that of a quarter.
  starts = [" ".join(text.split()[:2]) for text in texts]
  assert max(map(starts.count, starts)) < len(texts) / 4


def test_nothing_forbidden_is_said():
  cues, kind = wishes.Cues.of(REVIEW), kind_of(["Instrument Cables"])
  found = _all(wishes.needs, cues, kind, names=lambda t: "instrument" in t)
  assert found and not any("instrument" in text for text in found)
  assert _all(wishes.needs, cues, kind, names=lambda t: True) == {""}


def test_a_product_is_not_for_another_instrument():
  cues = wishes.Cues.of("I use these on my ukulele and it sounds good.")
  for text in _all(wishes.needs, cues, kind_of(["Acoustic Guitar Strings"])):
    assert not ("acoustic" in text and "ukulele" in text)


@pytest.mark.parametrize(
  ("tail", "label", "fits"),
  [
    ("for my ukulele", "Acoustic Guitar Strings", False),
    ("for my electric guitar", "Acoustic Guitar Strings", False),
    ("for my guitar", "Acoustic Guitar Strings", True),
    ("for my bass", "Straps", True),
    ("for my guitar", "Ukulele Accessories", False),
    ("for my mic", "Condenser Microphones", False),
    ("for my son", "Ukuleles", True),
    ("for my music stand", "Sheet Music Stands", False),
    ("for my pedals", "Distortion & Overdrive", False),
    ("for my pedal board", "Distortion & Overdrive", True),
  ],
)
def test_what_a_product_can_be_for(tail, label, fits):
  assert wishes._fits(tail, kind_of([label])) is fits


def test_a_review_that_praises_nothing_asks_for_nothing():
  cues = wishes.Cues.of("It broke after a week. Not sturdy.")
  assert _all(wishes.asks, cues, kind_of(["Straps"])) == {""}


def test_another_is_worded_for_each_number():
  cues = wishes.Cues.of("My old ones broke, so I had to replace them.")
  texts = _all(wishes.needs, cues, kind_of(["Acoustic Guitar Strings"]))
  assert any("new acoustic guitar strings" in text.lower() for text in texts)
  assert not any(" a new strings" in text for text in texts)


def test_all_words_of_the_data_are_used():
  words = wordings()
  assert set(words["another"].values()) == set(words["another_frames"])
  said = {
    word
    for aspect in words["aspects"].values()
    for choices in aspect.values()
    for word in choices
  }
  assert set(words["of_gifts"]) <= said
