import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.teacher.kinds import kind_of, listed, with_article


def _said(kind):
  one = with_article(kind.noun) if kind.number == "count" else kind.noun
  return one, kind.plural


@pytest.mark.parametrize(
  ("labels", "one", "many"),
  [
    ("Tuners", "a tuner", "tuners"),
    ("Ukuleles", "a ukulele", "ukuleles"),
    ("Acoustic Guitar Strings", "acoustic guitar strings", None),
    ("Combo Amps", "a combo amp", "combo amps"),
    ("Accessories|Batteries", "accessories batteries", None),
    ("Wii|Games", "a Wii game", "Wii games"),
    ("Xbox 360|Accessories", "Xbox 360 accessories", None),
    ("Xbox One|Other", "something for Xbox One", "things for Xbox One"),
    ("Doll Accessories|Accessories", "doll accessories", None),
    ("Macrame Kits", "a macrame kit", "macrame kits"),
    ("RC Helicopters", "an RC helicopter", "RC helicopters"),
    ("MIDI Controllers", "a MIDI controller", "MIDI controllers"),
    ("Hourglasses", "an hourglass", "hourglasses"),
    ("Benches", "a bench", "benches"),
    ("Cables & Chargers", "a cable or charger", "cables and chargers"),
    ("Electric Guitar Bags & Cases", "an electric guitar bag or case",
     "electric guitar bags and cases"),
    ("Novelty & Gag Puzzles", "a novelty or gag puzzle",
     "novelty and gag puzzles"),
    ("Acoustic & Bass Guitar Bags & Cases",
     "an acoustic or bass guitar bag or case",
     "acoustic and bass guitar bags and cases"),
    ("Acoustic & Bass Guitars", "an acoustic or bass guitar",
     "acoustic and bass guitars"),
    ("Electronics for Kids", "an electronic toy", "electronic toys"),
    ("Software", "software", "software"),
    ("Science", "something for science", "things for science"),
    ("Camping|Tent", "a tent", "tents"),
    ("Harness", "a harness", "harnesses"),
    ("Microphones|Vocal", "a vocal microphone", "vocal microphones"),
    ("Pedals|Digital", "a pedal", "pedals"),
    ("3-D Puzzles", "a 3-D puzzle", "3-D puzzles"),
    ("Multiple-Guitar Stands", "a multiple-guitar stand",
     "multiple-guitar stands"),
  ],
)  # fmt: skip
def test_labels_become_what_people_say(labels, one, many):
  assert _said(kind_of(labels.split("|"))) == (one, many or one)


@pytest.mark.parametrize("labels", [[], ["Other"], ["Digital"], ["&"]])
def test_labels_that_say_nothing_are_none(labels):
  assert kind_of(labels) is None


@pytest.mark.parametrize(
  ("label", "head"),
  [
    ("Acoustic Guitar Strings", "strings"),
    ("Toys for Babies", "toy"),
    ("Bags & Cases", "bag or case"),
    ("Electric Guitar Bags & Cases", "bag or case"),
    ("Novelty & Gag Puzzles", "puzzle"),
    ("Sewing", "something for sewing"),
  ],
)
def test_a_head_is_what_is_left_without_what_narrows_it(label, head):
  assert kind_of([label]).head.noun == head


def test_lists_are_english():
  assert listed(["a"]) == "a"
  assert listed(["a", "b", "c"]) == "a, b and c"
  assert listed(["a", "b"], by="or") == "a or b"


@given(st.lists(st.text(min_size=1, max_size=30), max_size=4))
def test_any_label_is_read_or_left(labels):
  kind = kind_of(labels)
  if kind is not None:
    assert kind.noun and kind.plural and kind.head.noun
