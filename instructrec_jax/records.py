"""Records that all parts of the package share.

Items and users are numbered: `item` is a row of a dataset folder's
`items.parquet`, `user` an index in the order of `interactions.parquet`. The
original identifiers are `item_id` and `user_id`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
  """One product; the model reads its title."""

  item_id: str
  title: str
  categories: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Review:
  """One interaction, with its text if the source has one.

  Attributes:
    timestamp: seconds since 1970, or any number that orders a user's reviews.
  """

  user_id: str
  item_id: str
  timestamp: int
  rating: float | None = None
  summary: str = ""
  text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RankingRequest:
  """A model instruction and the candidates to rank for it.

  Attributes:
    request_id: unique within a file of requests.
    instruction: the text that the encoder reads.
    candidates: texts to rank by likelihood, usually item titles.
    target: index into `candidates` of the true answer, None if unknown.
    user: user number, None outside a dataset folder.
    history_items: item numbers of the user's history, oldest first.
    candidate_items: item numbers of `candidates`, in the same order.
    query: the user's search words, for rankers that match text; a model reads
      them in the instruction.
    said: what the answer begins with, such as the model's own reasoning: a
      candidate's likelihood is that of following it.
  """

  request_id: str
  instruction: str
  candidates: tuple[str, ...]
  target: int | None = None
  user: int | None = None
  history_items: tuple[int, ...] = ()
  candidate_items: tuple[int, ...] = ()
  query: str = ""
  said: str = ""


class Ranker(Protocol):
  """Anything that can score the candidates of a request."""

  @property
  def name(self) -> str:
    """The ranker's name in tables."""
    ...

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one float array a request, in candidate order; higher is better.

    Equal scores are ties: metrics average over their orders.
    """
    ...
