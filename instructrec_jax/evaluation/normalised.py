"""One model's scores under several normalisations: one pass for all of them.

Wrappers that permute or divide candidates ask once for every normalisation,
largely for the same prompts.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from instructrec_jax.records import Ranker, RankingRequest


class NormalisingRanker(Ranker, Protocol):
  """What `scoring.reranker.T5Ranker` is."""

  def score_all(
    self, requests: Sequence[RankingRequest], normalisations: Iterable[str]
  ) -> dict[str, list[np.ndarray]]:
    """Returns by normalisation what `score` would return."""
    ...


class SharedScores:
  """Remembers a round of requests: each normalisation asks in its turn."""

  def __init__(self, model: NormalisingRanker, normalisations: Sequence[str]):
    """Takes the model, and what to compute whenever it scores."""
    self._model = model
    self._normalisations = [str(name) for name in normalisations]
    self._known: dict[RankingRequest, dict[str, np.ndarray]] = {}
    self._rankers: list[Ranker] = []
    self._last: Ranker | None = None

  def ranker(self, normalisation: str) -> Ranker:
    """Returns the model under one normalisation.

    When the first of these rankers asks again after another, a round ends.
    """
    self._rankers.append(_Normalised(self, str(normalisation)))
    return self._rankers[-1]

  def score(
    self,
    requests: Sequence[RankingRequest],
    normalisation: str,
    *,
    by: Ranker,
  ) -> list[np.ndarray]:
    """Scores what is not known from this round."""
    if by is self._rankers[0] and self._last is not by:
      self._known.clear()
    self._last = by
    new = [r for r in dict.fromkeys(requests) if r not in self._known]
    if new:
      scores = self._model.score_all(new, self._normalisations)
      for index, request in enumerate(new):
        self._known[request] = {n: scores[n][index] for n in scores}
    return [self._known[request][normalisation] for request in requests]


class _Normalised:
  def __init__(self, shared: SharedScores, normalisation: str):
    self.name = f"model ({normalisation})"
    self._shared = shared
    self._normalisation = normalisation

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    return self._shared.score(requests, self._normalisation, by=self)
