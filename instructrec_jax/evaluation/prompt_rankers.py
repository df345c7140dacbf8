"""Rankers that wrap a model which reads prompts.

- `PermutedRanker` averages its scores over orders of the listed candidates.
- `TournamentRanker` ranks a hundred candidates ten at a time (Table 10).
- `LabelRanker` scores letters in place of titles.
- `SharedScores` scores once for several normalisations.

A reranking instruction (T3) lists its candidates, and a model's scores depend
on that order: Hou et al. (2024, arXiv 2305.08845), Tang et al. (2024, arXiv
2310.07712).
"""

import dataclasses
import hashlib
import string
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Int

from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.instructions.render import SEPARATOR, ends_sentence
from instructrec_jax.records import Ranker, RankingRequest

# Requests whose groups are scored together: bounds a tournament's memory.
_REQUESTS_AT_ONCE = 1024


class PermutedRanker:
  """Averages a ranker's scores over several orders of the prompt's candidates.

  The first order is the stored one; the others depend on the seed and the
  request's id alone, so a request's scores do not depend on its batch, and the
  first orders of two runs agree whatever their numbers of permutations.
  """

  def __init__(self, ranker: Ranker, *, permutations: int, seed: int = 0):
    """Wraps a ranker; one order changes nothing."""
    check_counts(permutations=permutations)
    self.name = ranker.name
    if permutations > 1:
      self.name += f", {permutations} orders"
    self._ranker = ranker
    self._permutations = permutations
    self._seed = seed

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns means over all orders, float64, in the requests' own order.

    Requests whose instruction does not list the candidates have one order.
    """
    scores = [
      [np.asarray(row, np.float64)] for row in self._ranker.score(requests)
    ]
    listing = [
      index
      for index, request in enumerate(requests)
      if len(request.candidates) > 1
      and listed_candidates(request) == len(request.candidates)
    ]
    for number in range(1, self._permutations):
      orders = [
        request_rng(requests[i], seed=self._seed, stream=number).permutation(
          len(requests[i].candidates)
        )
        for i in listing
      ]
      permuted = [
        with_candidates(requests[i], order)
        for i, order in zip(listing, orders, strict=True)
      ]
      for i, order, row in zip(
        listing, orders, self._ranker.score(permuted), strict=True
      ):
        own_order = np.empty(len(order))
        own_order[order] = row
        scores[i].append(own_order)
    return [np.mean(rows, axis=0) for rows in scores]


class TournamentRanker:
  """Lets a ranker choose within groups, then rank the groups' winners.

  The paper's section 3.3.2, Table 10: "We randomly divide the one hundred
  candidate items into ten equal groups and instruct the model to select the
  most potential item from each group. The resulting ten items would be then
  reranked, leading to the final ranking."

  Only the ten finalists have a rank; the paper leaves those below undefined.
  Here all of them share one lowest score, so that their expected HR@k and
  NDCG@k are exactly zero up to k = 10 (the number of finalists), and HR@10 is
  the share of targets that win their group. MRR, which the paper does not
  report, takes the ranks below as uniformly random.

  The division depends on the seed and the request's id alone. To average over
  orders within groups and final, wrap a `PermutedRanker`.
  """

  def __init__(self, ranker: Ranker, *, group_size: int = 10, seed: int = 0):
    """Wraps a ranker.

    Args:
      ranker: sees `group_size` candidates at a time.
      group_size: the most in a group, and in the final.
      seed: of the groups, and of the winner where the ranker ties.
    """
    if group_size < 2:
      raise InputError(f"group_size is {group_size}: at least 2 is needed.")
    self.name = f"{ranker.name}, tournament"
    self._ranker = ranker
    self._group_size = group_size
    self._seed = seed

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the finalists' scores in the final; all others tie below them.

    A request of no more than `group_size` candidates is all final.

    Raises:
      InputError: an instruction lists neither all candidates nor the first
        `group_size` of them, there are more than `group_size` groups, or a
        score is not finite.
    """
    return [
      scores
      for start in range(0, len(requests), _REQUESTS_AT_ONCE)
      for scores in self._score(requests[start : start + _REQUESTS_AT_ONCE])
    ]

  def _score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    rngs = [request_rng(request, seed=self._seed) for request in requests]
    groups = [
      (index, group)
      for index, request in enumerate(requests)
      for group in self._groups(request, rngs[index])
    ]
    winners = [[] for _ in requests]
    for (index, group), scores in zip(
      groups, self._score_subsets(requests, groups), strict=True
    ):
      best = np.flatnonzero(scores == scores.max())
      winners[index].append(group[rngs[index].choice(best)])
    finals = [
      (index, np.array(winners[index] or np.arange(len(request.candidates))))
      for index, request in enumerate(requests)
    ]
    results = []
    for (index, finalists), scores in zip(
      finals, self._score_subsets(requests, finals), strict=True
    ):
      lowest = scores.min() - 1
      results.append(np.full(len(requests[index].candidates), lowest))
      results[-1][finalists] = scores
    return results

  def _groups(
    self, request: RankingRequest, rng: np.random.Generator
  ) -> list[np.ndarray]:
    """Divides the candidates; no groups if all of them fit the final."""
    size = self._group_size
    count = len(request.candidates)
    if count > size**2:
      raise InputError(
        f"request {request.request_id}: {count} candidates are more than "
        f"{size} groups of {size}; rank fewer or enlarge the groups."
      )
    if count <= size:
      return []
    return np.array_split(rng.permutation(count), -(-count // size))

  def _score_subsets(
    self,
    requests: Sequence[RankingRequest],
    subsets: Sequence[tuple[int, np.ndarray]],
  ) -> list[np.ndarray]:
    """Scores each (request, candidates) with a prompt of its own."""
    listed = [
      listed_candidates(request, first=self._group_size) for request in requests
    ]
    if 0 in listed:
      request = requests[listed.index(0)]
      raise InputError(
        f"request {request.request_id}: its instruction lists neither all "
        f"{len(request.candidates)} candidates nor the first "
        f"{self._group_size}, so it cannot list a tournament's groups; build "
        "it from a reranking template."
      )
    results = self._ranker.score(
      [
        with_candidates(requests[index], chosen, listed=listed[index])
        for index, chosen in subsets
      ]
    )
    scores = [np.asarray(result, np.float64) for result in results]
    for (index, _), values in zip(subsets, scores, strict=True):
      if not np.isfinite(values).all():
        raise InputError(
          f"request {requests[index].request_id}: a score is not finite, so "
          "its group has no winner; check the model's weights."
        )
    return scores


class LabelRanker:
  """Scores the letters of candidates in place of their titles.

  The instruction's list of candidates is lettered, so that the answer is one
  token: for models that were trained so, such as Flan-T5 on multiple choice. A
  model of this package's templates answers with titles.
  """

  def __init__(self, ranker: Ranker):
    """Takes the ranker that scores letters, as `T5Ranker`."""
    self.name = f"{ranker.name} (labels)"
    self.ranker = ranker

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the log-likelihood of each candidate's letter.

    Raises:
      InputError: a request's instruction does not list its candidates, or has
        more of them than there are letters.
    """
    return self.ranker.score(list(map(lettered, requests)))


class NormalisingRanker(Ranker, Protocol):
  """Computes several normalisations in one pass, as `T5Ranker`."""

  @property
  def normalisations(self) -> Sequence[str]:
    """Those that it can compute."""
    ...

  def score_all(
    self, requests: Sequence[RankingRequest], normalisations: Iterable[str]
  ) -> dict[str, list[np.ndarray]]:
    """Returns by normalisation what `score` would return."""
    ...


class SharedScores:
  """Caches a batch's scores under several normalisations.

  `PermutedRanker` and `TournamentRanker` ask once for every normalisation,
  largely for the same prompts. A batch ends when the first of the `ranker`s
  asks again after another.
  """

  def __init__(self, model: NormalisingRanker, normalisations: Sequence[str]):
    """Takes the model, and what to compute whenever it scores."""
    self._model = model
    self._normalisations = [str(name) for name in normalisations]
    self._cache: dict[RankingRequest, dict[str, np.ndarray]] = {}
    self._first: Ranker | None = None
    self._last: Ranker | None = None

  def ranker(self, normalisation: str) -> Ranker:
    """Returns the model under one normalisation."""
    ranker = _Normalised(self, str(normalisation))
    self._first = self._first or ranker
    return ranker

  def score(
    self,
    requests: Sequence[RankingRequest],
    normalisation: str,
    *,
    by: Ranker,
  ) -> list[np.ndarray]:
    """Scores what is not yet cached of this batch."""
    if by is self._first and self._last is not by:
      self._cache.clear()
    self._last = by
    new = [r for r in dict.fromkeys(requests) if r not in self._cache]
    if new:
      scores = self._model.score_all(new, self._normalisations)
      for index, request in enumerate(new):
        self._cache[request] = {n: scores[n][index] for n in scores}
    return [self._cache[request][normalisation] for request in requests]


class _Normalised:
  def __init__(self, shared: SharedScores, normalisation: str):
    self.name = f"model ({normalisation})"
    self._shared = shared
    self._normalisation = normalisation

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    return self._shared.score(requests, self._normalisation, by=self)


def request_rng(
  request: RankingRequest, *, seed: int, stream: int = 0
) -> np.random.Generator:
  """Returns a generator that depends on the request's id, not on its batch."""
  digest = hashlib.sha256(request.request_id.encode("utf-8")).digest()
  return np.random.default_rng(
    [seed, stream, int.from_bytes(digest[:8], "little")]
  )


def listed_candidates(
  request: RankingRequest, *, first: int | None = None
) -> int:
  """Returns how many candidates the instruction lists, exactly once: T3.

  Returns:
    Their number, `first`, or 0 if it lists neither all nor just those.
  """
  text, everything = request.instruction, len(request.candidates)
  if text.count(_list(request, everything)) == 1:
    return everything
  if first and text.count(_list(request, first)) == 1:
    return 0 if _list(request, first + 1) in text else first
  return 0


def with_candidates(
  request: RankingRequest,
  chosen: Int[np.ndarray, " chosen"],
  *,
  listed: int | None = None,
) -> RankingRequest:
  """Returns the request for some of its candidates, in the order given.

  `render` leaves out the full stop after a title that ends a sentence by
  itself ("... Super Mario Bros."); where the last title changes, so does that.

  Its instruction lists the first `listed` (None: all) exactly once.
  """
  old = _list(request, listed or len(request.candidates))
  picked = chosen.tolist()
  candidates = tuple(request.candidates[index] for index in picked)
  new = SEPARATOR.join(candidates)
  before, after = request.instruction.split(old)
  if ends_sentence(new):
    after = after.removeprefix(".")
  elif ends_sentence(old) and (not after or _begins_sentence(after)):
    after = "." + after
  items = request.candidate_items
  has_target = request.target in picked
  return dataclasses.replace(
    request,
    instruction=before + new + after,
    candidates=candidates,
    target=picked.index(request.target) if has_target else None,
    candidate_items=tuple(items[i] for i in picked) if items else (),
  )


def lettered(request: RankingRequest) -> RankingRequest:
  """Returns the request with letters as its candidates.

  Raises:
    InputError: see `LabelRanker.score`.
  """
  titles, letters = request.candidates, string.ascii_uppercase
  if len(titles) > len(letters):
    raise InputError(
      f"request {request.request_id}: {len(titles)} candidates; there are "
      f"letters for {len(letters)}."
    )
  before, found, after = request.instruction.partition(SEPARATOR.join(titles))
  if not found:
    raise InputError(
      f"request {request.request_id}: its instruction does not list its "
      "candidates, so that they cannot be lettered: ask with a T3 template."
    )
  labels = tuple(letters[: len(titles)])
  listed = SEPARATOR.join(map(": ".join, zip(labels, titles, strict=True)))
  return dataclasses.replace(
    request, instruction=before + listed + after, candidates=labels
  )


def _list(request: RankingRequest, count: int) -> str:
  return SEPARATOR.join(request.candidates[:count])


def _begins_sentence(text: str) -> bool:
  return text[:1] == " " and not text[1:2].islower()
