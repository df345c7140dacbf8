"""Made-up dialogues, which the rules of a conversation must follow."""

import itertools

from instructrec_jax.data.synthetic import BRANDS, FINISHES, KINDS
from instructrec_jax.instructions.conversation import Catalogue, read
from instructrec_jax.instructions.dialogues import (
  MAX_TURNS,
  MIN_TURNS,
  Shopper,
  made_up_dialogues,
)

TITLES = [
  f"{brand} {kind} {finish}"
  for brand, kind, finish in itertools.product(BRANDS, KINDS, FINISHES)
]


def test_the_rules_read_what_shoppers_say():
  catalogue = Catalogue.of(TITLES)
  for number, dialogue in enumerate(made_up_dialogues(300)):
    shopper = Shopper(number)
    shown = ()
    for turn in dialogue.turns:
      assert shopper.says(shown) == turn.words
      shown = turn.shown
    need = read(dialogue.turns, catalogue=catalogue)
    left, given_up = catalogue.fulfilling(
      need, [TITLES.index(title) for title in need.refused]
    )
    assert not given_up
    assert [*need.refused] == [*dict.fromkeys(shopper.refused)]
    # The kind of product is the model's to read.
    kind = shopper.target.split()[1]
    wanted = {n for n in left if kind in TITLES[n]}
    assert wanted == {n for n in range(480) if shopper.holds(TITLES[n])}
    assert TITLES.index(dialogue.target) in wanted


def test_dialogues_are_drawn_by_a_seed():
  some = [*made_up_dialogues(20, seed=1)]
  assert some == [*made_up_dialogues(30, seed=1)][:20]
  assert some != [*made_up_dialogues(20, seed=2)]
  lengths = {len(dialogue.turns) for dialogue in made_up_dialogues(100)}
  assert lengths == {*range(MIN_TURNS, MAX_TURNS + 1)}
