"""Requests like those to come, so that they find all shapes compiled."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.serving.schemas import (
  MOST_DOCUMENTS,
  MOST_HISTORY,
  MOST_RECOMMENDED,
)

# (candidates, requests that wait): the paper's ten, and a shelf of a hundred.
_TYPICAL = ((10, 16), (10, 4), (10, 1), (100, 8), (100, 1))
# Items of histories, and how often all of them.
_HAD = (0, 3, 6, 12)
_EACH = 8
_LARGE = ((MOST_HISTORY, 10), (MOST_HISTORY, MOST_DOCUMENTS))
# So many titles fill an encoder by steps.
_HISTORIES = (0, 8, 16, 32, 64, 128)
_WORDS = "something of this kind"


def warm_up(recommender: Recommender) -> None:
  """Compiles what answering takes, for many requests at a time and for one."""
  titles = recommender.titles or _made_up_titles(recommender)
  rng = np.random.default_rng(0)
  ranker = recommender.ranker
  for offered, together in _TYPICAL:
    if typical := list(_typical(recommender, titles, offered, rng)):
      ranker.add_shape(typical, together=together)
      ranker.score(typical[:together])
  for had, offered in _LARGE:
    ranker.score(_requests(recommender, titles, range(had + offered), had))
  if recommender.titles:
    # For instructions of every length, as many titles as may be.
    for had in _HISTORIES:
      with contextlib.suppress(InputError):
        recommender.recommend(
          _WORDS, history=recommender.titles[:had], k=MOST_RECOMMENDED
        )


def _typical(
  recommender: Recommender,
  titles: tuple[str, ...],
  offered: int,
  rng: np.random.Generator,
) -> Iterator[RankingRequest]:
  for _ in range(_EACH):
    for had in _HAD:
      numbers = rng.choice(len(titles), had + offered)
      yield from _requests(recommender, titles, numbers, had)


def _requests(
  recommender: Recommender, titles: tuple[str, ...], numbers: Any, had: int
) -> list[RankingRequest]:
  """Returns a request of some titles, or none if no template is for it."""
  drawn = [titles[number % len(titles)] for number in numbers]
  # Numbered, since a small catalogue may have too few.
  candidates = [f"{title} {place}" for place, title in enumerate(drawn[had:])]
  try:
    composed = recommender.compose(
      _WORDS, history=drawn[:had], candidates=candidates
    )
  except InputError:
    return []
  return [recommender.request(composed, composed.candidates)]


def _made_up_titles(recommender: Recommender) -> tuple[str, ...]:
  vocabulary = recommender.vocabulary
  rng = np.random.default_rng(0)
  ids = rng.integers(3, vocabulary.num_pieces, (200, 8))
  titles = (f"Item {n} {vocabulary.decode(row)}" for n, row in enumerate(ids))
  return tuple(titles)
