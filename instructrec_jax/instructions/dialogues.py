"""Made-up dialogues of the synthetic shop's shoppers, who say what they need.

A shopper knows what to buy: a kind of product, and by and by a finish, a brand,
or what it must not be. Each turn adds one thing, refuses one of the items that
were shown, or asks for more like one of them; the words are `turns.yaml`'s. So
for every title it is known whether a conversation's answer may be it, which
measures how well what was said still holds in the last turn, and gives targets
to train on.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from instructrec_jax.data.synthetic import BRANDS, FINISHES, KINDS
from instructrec_jax.instructions.conversation import Turn, load_turns

MIN_TURNS, MAX_TURNS = 3, 6
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_STEPS = ("finish", "brand", "not_brand", "not_finish", "refuse", "like")
# Titles that a made-up answer shows.
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Dialogue:
  """One that is over.

  Attributes:
    turns: what was said, each with what was shown for it.
    target: a title that fulfils all that was said.
  """

  turns: tuple[Turn, ...]
  target: str


class Shopper:
  """One who says, turn by turn, what is needed; see the module.

  Attributes:
    target: a title that fulfils all that will be said.
    refused: titles that were refused.
    left: how many turns are still to come.
  """

  def __init__(self, seed: int):
    """Draws what the shopper needs."""
    self._rng = np.random.default_rng(seed)
    self._said = load_turns()["said"]
    self._brand, self._kind, self._finish = (
      str(self._rng.choice(names)) for names in (BRANDS, KINDS, FINISHES)
    )
    self.target = f"{self._brand} {self._kind} {self._finish}"
    self.left = int(self._rng.integers(MIN_TURNS, MAX_TURNS + 1))
    self._steps: list[str] = []
    self._must: set[str] = set()
    self._must_not: set[str] = set()
    self.refused: list[str] = []

  def holds(self, title: str) -> bool:
    """Whether a title fulfils all that was said so far."""
    words = {*title.split()}
    return (
      self._must <= words
      and not self._must_not & words
      and title not in self.refused
    )

  def says(self, shown: Sequence[str]) -> str:
    """Returns the next turn's words, after these titles were shown."""
    self.left -= 1
    steps = [step for step in _STEPS if self._makes_sense(step, shown)]
    if not self._steps or not steps:
      # At first, or where only the target is left: said once more.
      self._steps.append("wish")
      self._must.add(self._kind)
      return self._words("wish", kind=self._kind.lower())
    step = str(self._rng.choice(steps))
    self._steps.append(step)
    if step in ("finish", "brand"):
      value = self._finish if step == "finish" else self._brand
      self._must.add(value)
      return self._words(step, finish=value.lower(), brand=value)
    if step == "not_finish":
      others = [finish for finish in FINISHES if finish != self._finish]
      value = str(self._rng.choice(others))
      self._must_not.add(value)
      return self._words(step, finish=value.lower())
    if step == "not_brand":
      value = shown[0].split()[0]
      self._must_not.add(value)
      return self._words(step, brand=value)
    others = [n for n, title in enumerate(shown) if title != self.target]
    place = int(self._rng.choice(others[: len(_ORDINALS)]))
    if step == "refuse":
      self.refused.append(shown[place])
    return self._words(step, ordinal=_ORDINALS[place])

  def _makes_sense(self, step: str, shown: Sequence[str]) -> bool:
    """Whether a step says something new, that the target fulfils."""
    if step in ("refuse", "like"):
      return any(title != self.target for title in shown[: len(_ORDINALS)])
    if step in self._steps:
      return False
    if step == "not_finish":
      return "finish" not in self._steps
    if step == "not_brand":
      is_other = bool(shown) and shown[0].split()[0] != self._brand
      return is_other and "brand" not in self._steps
    return True

  def _words(self, step: str, **values: str) -> str:
    return str(self._rng.choice(self._said[step])).format(**values)


def made_up_dialogues(count: int, *, seed: int = 0) -> Iterator[Dialogue]:
  """Yields dialogues with an answerer who shows what may be meant.

  Args:
    count: how many.
    seed: of all that is drawn; dialogue n is the same whatever the count.
  """
  titles = [
    f"{brand} {kind} {finish}"
    for brand, kind, finish in itertools.product(BRANDS, KINDS, FINISHES)
  ]
  for number in range(count):
    shopper = Shopper(seed + number)
    rng = np.random.default_rng((seed, number))
    turns: list[Turn] = []
    shown: tuple[str, ...] = ()
    while shopper.left:
      words = shopper.says(shown)
      holding = [title for title in titles if shopper.holds(title)]
      chosen = rng.permutation(len(holding))[:_SHOWN]
      shown = tuple(holding[place] for place in chosen)
      turns.append(Turn(words, shown))
    yield Dialogue(tuple(turns), shopper.target)
