"""What turns come to: rules, and what is left to the model."""

import itertools

import pytest

from instructrec_jax.data.synthetic import BRANDS, FINISHES, KINDS
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import (
  MAX_TURNS,
  Catalogue,
  Turn,
  compose_words,
  load_turns,
  read,
)

TITLES = [
  f"{brand} {kind} {finish}"
  for brand, kind, finish in itertools.product(BRANDS, KINDS, FINISHES)
]
SHOWN = ("Alder Tent Green", "Borea Tent Orange", "Corvo Tent Grey")
WORDING = load_turns()["composed"]


@pytest.fixture(scope="module")
def catalogue():
  return Catalogue.of(TITLES)


@pytest.fixture(scope="module")
def needs(catalogue):
  """Returns what a wish for a tent, shown three, comes to with more turns."""

  def after(*words, wish="I'm looking for a tent", shown=SHOWN):
    turns = [Turn(wish, shown), *(Turn(each, shown) for each in words)]
    return read(turns, catalogue=catalogue)

  return after


@pytest.mark.parametrize(
  ("words", "required"),
  [
    ("In green, please.", [("green",)]),
    ("Only green ones", [("green",)]),
    ("It should be from Alder.", [("alder",)]),
    ("Make it a kayak", [("kayak",)]),
    ("orange instead", [("orange",)]),
    ("no, the grey one instead", [("grey",)]),
    ("only green or grey ones", [("green", "grey")]),
    ("the same brand", [("alder",)]),
    ("same brand as the second", [("borea",)]),
    ("In green 🙂", [("green",)]),
    ("what about a kayak 🛶?", [("kayak",)]),
    ("Alder only, please", [("alder",)]),
    ("I'd rather have grey.", [("grey",)]),
    ("a bit like that, but in grey", [("grey",)]),
    ("the same but grey", [("grey",)]),
    ("the first but in orange", [("orange",)]),
    ("no, I meant orange", [("orange",)]),
    ("do you have anything from Alder?", [("alder",)]),
    ("I'd prefer Alder", [("alder",)]),
    ("from Alder or Borea", [("alder", "borea")]),
    # What tells apart what was shown, or excludes what was asked.
    ("orange", [("orange",)]),
    ("green or grey", [("green", "grey")]),
    ("Show me kayaks", [("kayak",)]),
    ("now a stove to go with it", [("stove",)]),
    ("a stove or a kayak", [("stove", "kayak")]),
    # No title is both.
    ("maybe a stove and a kayak", [("stove", "kayak")]),
    # No conditions on what titles say.
    ("What about for kids?", []),
    ("cheaper", []),
    ("in black & white", []),
    ("for kids only", []),
    ("in time for my trip", []),
    ("I'm interested in a green life", []),
    ("only the best", []),
    ("no, I meant blue", []),
    ("why is that orange?", []),
    ("Eskdale, maybe", []),
    ("I don't care about the brand", []),
    ("¿Algo más barato?", []),
    ("もっと安いもの", []),
  ],
)
def test_what_is_required(needs, words, required):
  assert [*needs(words).required] == required


@pytest.mark.parametrize(
  ("words", "denied"),
  [
    ("Not orange.", ["orange"]),
    ("nothing from Alder, please", ["alder"]),
    ("anything but Borea", ["borea"]),
    ("Not from that brand.", ["alder"]),
    ("another brand, please", ["alder"]),
    ("wrong brand", ["alder"]),
    ("not the second, and not from that brand", ["borea"]),
    ("different brand than the second", ["borea"]),
    ("not made by Alder", ["alder"]),
    ("neither green nor orange", ["green", "orange"]),
    # Three were shown: it is no word of a title.
    ("not the tenth", []),
    ("I don't want a green one", ["green"]),
    ("green is fine", []),
    ("any colour but green", ["green"]),
    ("remove the orange ones", ["orange"]),
    ("no brand preference", []),
  ],
)
def test_what_is_denied(needs, words, denied):
  need = needs(words)
  assert [*need.denied] == denied
  # A small model reads the word, but not the not.
  said = compose_words(need, WORDING).lower()
  assert not any(word in said for word in denied)


@pytest.mark.parametrize(
  ("words", "refused"),
  [
    ("Not the first one.", [0]),
    ("I don't like the 2nd", [1]),
    ("no, not number three", [2]),
    ("drop #2", [1]),
    ("not that one", [0]),
    ("not the last one", [2]),
    ("not the first, and not the second", [0, 1]),
    ("not the first or the second", [0, 1]),
    ("not the 1st, 2nd or 3rd", [0, 1, 2]),
    ("without the first two", [0, 1]),
    ("not the last two 👎", [2, 1]),
    ("not that one 👎", [0]),
    ("none of these", [0, 1, 2]),
    ("show me something else", [0, 1, 2]),
    ("Show me more", [0, 1, 2]),
    ("what else?", [0, 1, 2]),
    ("next", [0, 1, 2]),
    ("No.", [0, 1, 2]),
    ("more in green", []),
    # There are three.
    ("not the seventh", []),
    ("not the first time that I buy one", []),
    ("not the one with pockets", []),
    ("not the first two-person tent", []),
  ],
)
def test_what_is_refused(needs, words, refused):
  assert [*needs(words).refused] == [SHOWN[place] for place in refused]


def test_what_is_refused_once_is_refused(needs):
  need = needs("not the first", "more like the first", "the first is fine")
  assert SHOWN[0] in need.refused


def test_more_like_and_taken(needs):
  need = needs("More like the second.")
  assert need.liked == (SHOWN[1],)
  assert compose_words(need, WORDING).endswith(f"like {SHOWN[1]}")
  # What is denied is not named as a wish.
  assert "Borea" not in compose_words(
    needs("More like the second.", "nothing from Borea"), WORDING
  )
  assert needs("the first but smaller").liked == (SHOWN[0],)
  assert needs("The second is nice, anything similar?").liked == (SHOWN[1],)
  assert needs("I like the third").liked == (SHOWN[2],)
  assert not needs("I don't like the third").liked
  assert needs("I'll take the third").chosen == (SHOWN[2],)
  assert needs("I already have the first one").chosen == (SHOWN[0],)
  assert needs("the second, please").chosen == (SHOWN[1],)
  taken = needs("I'll take the first and the third").chosen
  assert taken == (SHOWN[0], SHOWN[2])


def test_a_correction_takes_back_what_it_excludes(needs):
  need = needs("in green", "orange instead")
  assert [*need.required] == [("orange",)]
  assert "green" not in compose_words(need, WORDING)
  need = needs("not orange", "only orange ones")
  assert (need.denied, [*need.required]) == ((), [("orange",)])
  need = needs("nothing from Alder", "back to Alder")
  assert (need.denied, [*need.required]) == ((), [("alder",)])
  need = needs("only orange ones", "not orange")
  assert (need.denied, need.required) == (("orange",), ())
  # Another kind is another wish; the finish goes with it.
  need = needs("in green", "now a kayak")
  assert [*need.required] == [("green",), ("kayak",)]
  assert "tent" not in compose_words(need, WORDING)


def test_a_wish_of_another_kind_takes_back_the_first(needs):
  need = needs("in green", "show me kayaks")
  assert [*need.required] == [("green",), ("kayak",)]
  assert "tent" not in compose_words(need, WORDING)
  # What no title excludes is added.
  assert "tent" in compose_words(needs("with a porch"), WORDING)


def test_what_was_denied_may_be_fine_again(needs):
  need = needs("not orange, not grey", "actually orange is fine")
  assert need.denied == ("grey",)
  assert not need.unread
  assert "orange" not in compose_words(need, WORDING)


def test_or_widens(needs):
  need = needs("only from Alder", "or Borea")
  assert [*need.required] == [("alder", "borea")]


def test_starting_over_keeps_what_was_refused_and_taken(needs):
  need = needs(
    *("not the first", "I'll take the second", "only grey, not Corvo"),
    "Start over: a kayak",
  )
  assert (need.refused, need.chosen) == ((SHOWN[0],), (SHOWN[1],))
  assert (need.required, need.denied) == ((), ())
  assert compose_words(need, WORDING) == "a kayak"
  # No item is meant.
  assert needs("forget it, show me a rope").refused == ()


@pytest.mark.parametrize(
  ("words", "unread"),
  [
    ("cheaper", "cheaper"),
    ("no, I meant blue", "no, I meant blue"),
    ("moins cher", "moins cher"),
    ("with a green porch", ""),
    ("not orange", ""),
    ("yes, thanks", ""),
  ],
)
def test_what_nothing_tells_is_known(catalogue, needs, words, unread):
  assert needs(words).unread == unread
  # It is of the last turn alone, and a first wish may be in any words.
  assert not needs(words, "in green").unread
  assert not read([Turn(words)], catalogue=catalogue).unread


def test_buttons_count_as_words(catalogue):
  turns = [
    Turn("a tent", SHOWN),
    Turn("in green", refused=(SHOWN[0],), chosen=(SHOWN[2],)),
  ]
  need = read(turns, catalogue=catalogue)
  assert (need.refused, need.chosen) == ((SHOWN[0],), (SHOWN[2],))


def test_rules_are_given_up_only_where_nothing_is_left(catalogue, needs):
  left, given_up = catalogue.fulfilling(needs("in green", "not from Alder"))
  assert not given_up
  assert all("Green" in TITLES[n] and "Alder" not in TITLES[n] for n in left)
  need = needs("only from Alder", "only green", "make it a tent")
  only = TITLES.index("Alder Tent Green")
  assert catalogue.fulfilling(need) == ({only}, ())
  left, given_up = catalogue.fulfilling(need, [only])
  # The oldest; and what is excluded stays so.
  assert given_up == ("alder",)
  assert only not in left


def test_words_that_too_few_titles_have_are_known(catalogue, needs):
  need = needs("only from Alder", "not orange")
  left, _ = catalogue.fulfilling(need)
  tents = [n for n in left if "Tent" in TITLES[n]]
  others = [n for n in left if "Tent" not in TITLES[n]]
  assert len(tents) == 2
  assert catalogue.scarce(need, left, [*tents, *others[:3]]) == ("tent",)
  # Enough of them, or one that is not shown: nothing is said.
  assert not catalogue.scarce(need, left, tents)
  assert not catalogue.scarce(need, left, [*tents[:1], *others[:4]])
  assert not catalogue.scarce(need, left, others[:5])


def test_what_is_left_out_is_never_the_wish(needs):
  need = needs("in green", "cheaper", "sturdier")
  whole = "I'm looking for a tent, in green, cheaper, sturdier"
  assert compose_words(need, WORDING) == whole
  assert (
    compose_words(need, WORDING, left_out=2)
    == "I'm looking for a tent, sturdier"
  )
  assert compose_words(need, WORDING, left_out=9) == "I'm looking for a tent"


def test_wording_is_data(tmp_path, needs):
  path = tmp_path / "turns.yaml"
  path.write_text(
    "composed: {asked: 'wish: {}', narrowed: '', shown: 'seen {}', chosen: "
    "'', refused: 'not {}', like: ''}\nsaid: {}\n"
  )
  wording = load_turns(path)["composed"]
  said = compose_words(needs("in green", "not the first"), wording)
  assert said == f"wish: I'm looking for a tent, not {SHOWN[0]}"
  for text in ("composed: 3", "composed: {asked: '{a}'}", "[", ""):
    other = tmp_path / f"{len(text)}.yaml"
    other.write_text(text)
    with pytest.raises(InputError, match="no file of turns"):
      load_turns(other)


def test_bad_conversations_are_refused(catalogue):
  with pytest.raises(InputError, match="begins with a turn"):
    read([], catalogue=catalogue)
  with pytest.raises(InputError, match="1,000 turns: at most"):
    read([Turn("a tent")] * 1000, catalogue=catalogue)
  assert read([Turn("a tent")] * MAX_TURNS, catalogue=catalogue)
