"""A made-up outdoor shop whose shoppers' tastes are known exactly.

Every product is a (brand, kind, finish) triple. A shopper is loyal to one
brand and one finish, and works through kinds of product in a fixed order (who
bought a tent needs a stove next). So there is something for each ranker to
find: popularity sees that brands differ in size, co-occurrence sees loyalty,
and only a model that reads the history in order sees what is due next.

Since the process is known, so is the best that any ranker can do from a
history: `baselines.planted` computes that ceiling exactly.

Key to shapes. T: tastes (brand x finish), I: items.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from instructrec_jax.records import Item, Review

BRANDS = (
  "Alder", "Borea", "Corvo", "Dunmore", "Eskdale",
  "Fjord", "Garrow", "Hollin", "Isar", "Juniper",
)  # fmt: skip
# Shoppers move along these, left to right and round again.
KINDS = (
  "Tent", "Stove", "Lantern", "Hammock", "Kayak", "Paddle", "Wetsuit",
  "Snorkel", "Rope", "Harness", "Helmet", "Crampons", "Bicycle", "Saddle",
  "Pump", "Panniers",
)  # fmt: skip
DEPARTMENTS = ("Camping", "Water Sports", "Climbing", "Cycling")
FINISHES = ("Green", "Orange", "Grey")

_OPENINGS = (
  "The {kind} arrived quickly.",
  "I was looking for a {kind} for our next trip.",
  "My old {kind} gave up, so I needed another one.",
  "We take the {kind} along every weekend now.",
)
_TASTES = (
  "I have trusted {brand} for years.",
  "{brand} makes gear that lasts.",
  "Anything in {finish} matches the rest of my gear.",
  "I like the {finish} finish most.",
)
_VERDICTS = (
  "Works as it should.",
  "Would buy it again.",
  "A little heavy, but solid.",
  "Good value.",
)


@dataclasses.dataclass(frozen=True)
class Habits:
  """How shoppers choose.

  Attributes:
    brand_skew: brand k is the favourite of a share ~ (k + 1) ** -brand_skew.
    finish_skew: the same for finishes.
    brand_loyalty: chance that a purchase is of the favourite brand.
    finish_loyalty: chance that a purchase has the favourite finish.
    next_kind: chance that the kind follows the last purchase's.
  """

  brand_skew: float = 1.1
  finish_skew: float = 1.0
  brand_loyalty: float = 0.6
  finish_loyalty: float = 0.5
  next_kind: float = 0.8


@dataclasses.dataclass(frozen=True)
class SyntheticShop:
  """A shop's raw files, and the process that made them (JSON-able)."""

  items: list[Item]
  reviews: list[Review]
  planted: dict[str, Any]


class PurchaseProcess:
  """P(next purchase | taste, last purchase), before owned items are left out.

  Attributes:
    attributes_Ix3: brand, kind and finish of every item.
    prior_T: share of shoppers with each taste.
  """

  def __init__(self, habits: Habits, attributes_Ix3: Int[np.ndarray, "item 3"]):
    self.attributes_Ix3 = attributes_Ix3
    brand_share = _zipf(len(BRANDS), habits.brand_skew)
    finish_share = _zipf(len(FINISHES), habits.finish_skew)
    self.prior_T = np.outer(brand_share, finish_share).ravel()
    brand_TxI, finish_TxI = (
      _loyal(share, loyalty, favourite_T)[:, attributes_Ix3[:, column]]
      for share, loyalty, favourite_T, column in (
        (brand_share, habits.brand_loyalty, self._favourites(0), 0),
        (finish_share, habits.finish_loyalty, self._favourites(1), 2),
      )
    )
    self._taste_TxI = brand_TxI * finish_TxI
    count = len(KINDS)
    follow = np.roll(np.eye(count), 1, axis=1)
    self._kind_from_to = (
      habits.next_kind * follow + (1 - habits.next_kind) / count
    )

  def next_TxI(self, last: int | None) -> Float[np.ndarray, "taste item"]:
    """Returns the chance of each item, by taste; `last` None: first visit."""
    kind_I = self.attributes_Ix3[:, 1]
    if last is None:
      return self._taste_TxI / len(KINDS)
    return self._taste_TxI * self._kind_from_to[kind_I[last], kind_I]

  @staticmethod
  def _favourites(column: int) -> list[int]:
    pairs = itertools.product(range(len(BRANDS)), range(len(FINISHES)))
    return [pair[column] for pair in pairs]


def synthetic_shop(
  *, users: int = 3000, seed: int = 0, habits: Habits | None = None
) -> SyntheticShop:
  """Makes a shop of `users` shoppers with 6 to 12 purchases each.

  Args:
    users: number of shoppers.
    seed: the only source of randomness.
    habits: how shoppers choose.

  Returns:
    Items, reviews (in no particular order of users' time: sorted by user) and
    the planted process, from which `baselines.planted` ranks.
  """
  habits = habits or Habits()
  rng = np.random.default_rng(seed)
  triples = list(
    itertools.product(range(len(BRANDS)), range(len(KINDS)), range(3))
  )
  process = PurchaseProcess(habits, np.array(triples))
  items = [_item(number, *triple) for number, triple in enumerate(triples)]
  reviews: list[Review] = []
  for user in range(users):
    taste = rng.choice(len(process.prior_T), p=process.prior_T)
    day = int(rng.integers(0, 700))
    owned: list[int] = []
    for _ in range(rng.integers(6, 13)):
      chance_I = process.next_TxI(owned[-1] if owned else None)[taste].copy()
      chance_I[owned] = 0.0
      bought = int(rng.choice(len(items), p=chance_I / chance_I.sum()))
      owned.append(bought)
      day += int(rng.integers(3, 40))
      reviews.append(_review(rng, user, items[bought], triples[bought], day))
  planted = {
    "habits": dataclasses.asdict(habits),
    "attributes": {
      item.item_id: list(map(int, triple))
      for item, triple in zip(items, triples, strict=True)
    },
  }
  return SyntheticShop(items=items, reviews=reviews, planted=planted)


def _item(number: int, brand: int, kind: int, finish: int) -> Item:
  department = DEPARTMENTS[kind * len(DEPARTMENTS) // len(KINDS)]
  return Item(
    item_id=f"S{number:04d}",
    title=f"{BRANDS[brand]} {KINDS[kind]} {FINISHES[finish]}",
    categories=("Outdoor", department, KINDS[kind]),
  )


def _review(
  rng: np.random.Generator,
  user: int,
  item: Item,
  triple: tuple[int, int, int],
  day: int,
) -> Review:
  brand, kind, finish = triple
  words = {
    "brand": BRANDS[brand],
    "kind": KINDS[kind].lower(),
    "finish": FINISHES[finish].lower(),
  }
  sentences = [
    choices[rng.integers(len(choices))].format(**words)
    for choices in (_OPENINGS, _TASTES, _VERDICTS)
  ]
  return Review(
    user_id=f"U{user:05d}",
    item_id=item.item_id,
    timestamp=1_600_000_000 + 86_400 * day,
    rating=float(rng.integers(3, 6)),
    summary=sentences[2].rstrip("."),
    text=" ".join(sentences),
  )


def _zipf(count: int, skew: float) -> Float[np.ndarray, " count"]:
  weights = np.arange(1, count + 1, dtype=float) ** -skew
  return weights / weights.sum()


def _loyal(
  share: Float[np.ndarray, " value"], loyalty: float, favourite_T: list[int]
) -> Float[np.ndarray, "taste value"]:
  """A purchase has the favourite value, or else any, by its share."""
  favourite_TxV = np.eye(len(share))[favourite_T]
  return loyalty * favourite_TxV + (1 - loyalty) * share
