"""A hundred candidates, ten at a time: the paper's section 3.3.2, Table 10.

"We randomly divide the one hundred candidate items into ten equal groups and
instruct the model to select the most potential item from each group. The
resulting ten items would be then reranked, leading to the final ranking."

Only the ten finalists have a rank; the paper leaves those below undefined.
Here all of them share one lowest score, so that their expected HR@k and NDCG@k
are exactly zero up to k = 10 (up to the number of finalists, in general), and
HR@10 is the share of targets that win their group. MRR is no figure of the
paper's: it takes the ranks below ten as uniformly random.

The alternative, without a tournament, is to score all hundred candidates
against one instruction, which `scoring.reranker.T5Ranker` does with any request
of a hundred: a matching instruction (T2) lists none of them, and a reranking
instruction (T3) that lists all of them is some 2,000 tokens long, which T5's
relative positions allow though it was trained on 512.
"""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.permutations import (
  listed_candidates,
  request_rng,
  with_candidates,
)
from instructrec_jax.records import Ranker, RankingRequest

# Requests whose groups are scored together: bounds the memory.
_AT_ONCE = 1024


class TournamentRanker:
  """Lets a ranker choose within groups, then rank the groups' winners.

  The division depends on the seed and the request's id alone. To average over
  orders within groups and final, wrap a `PermutedRanker`.

  Attributes:
    name: the ranker's, with "tournament".
  """

  def __init__(self, ranker: Ranker, *, group_size: int = 10, seed: int = 0):
    """Wraps a ranker.

    Args:
      ranker: sees `group_size` candidates at a time.
      group_size: the most in a group, and in the final.
      seed: of the groups, and of who wins where the ranker ties.

    Raises:
      InputError: groups of fewer than two decide nothing.
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
    scores = []
    for start in range(0, len(requests), _AT_ONCE):
      scores += self._score(requests[start : start + _AT_ONCE])
    return scores

  def _score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    rngs = [request_rng(request, seed=self._seed) for request in requests]
    heats = [
      (index, group)
      for index, request in enumerate(requests)
      for group in self._groups(request, rngs[index])
    ]
    winners = [[] for _ in requests]
    for (index, group), scores in zip(
      heats, self._play(requests, heats), strict=True
    ):
      best = np.flatnonzero(scores == scores.max())
      winners[index].append(group[rngs[index].choice(best)])
    finals = [
      (index, np.array(winners[index] or np.arange(len(request.candidates))))
      for index, request in enumerate(requests)
    ]
    results = []
    for (index, finalists), scores in zip(
      finals, self._play(requests, finals), strict=True
    ):
      lowest = scores.min() - 1
      results.append(np.full(len(requests[index].candidates), lowest))
      results[-1][finalists] = scores
    return results

  def _groups(
    self, request: RankingRequest, rng: np.random.Generator
  ) -> list[np.ndarray]:
    """Divides the candidates; none if they all have room in the final."""
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

  def _play(
    self,
    requests: Sequence[RankingRequest],
    games: Sequence[tuple[int, np.ndarray]],
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
        for index, chosen in games
      ]
    )
    scores = [np.asarray(result, np.float64) for result in results]
    for (index, _), values in zip(games, scores, strict=True):
      if not np.isfinite(values).all():
        raise InputError(
          f"request {requests[index].request_id}: a score is not finite, so "
          "nobody wins its group; check the model's weights."
        )
    return scores
