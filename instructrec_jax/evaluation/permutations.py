"""Other orders of the candidates in the prompt, and averages over them.

A reranking instruction (T3) lists its candidates, and a model's scores depend
on that order: Hou et al. (2024, arXiv 2305.08845), Tang et al. (2024, arXiv
2310.07712).
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.render import SEPARATOR, ends_sentence
from instructrec_jax.records import Ranker, RankingRequest


class PermutedRanker:
  """Averages a ranker's scores over several orders of the prompt's candidates.

  The first order is the stored one; the others depend on the seed and the
  request's id alone, so a request's scores do not depend on its batch, and the
  first orders of two runs agree whatever their numbers of permutations.

  Attributes:
    name: the ranker's, with the number of orders.
  """

  def __init__(self, ranker: Ranker, *, permutations: int, seed: int = 0):
    """Wraps a ranker.

    Args:
      ranker: scores each order, e.g. by log-likelihood.
      permutations: orders of each request; 1 changes nothing.
      seed: of the orders.

    Raises:
      InputError: there is not at least one order.
    """
    if permutations < 1:
      raise InputError(f"permutations is {permutations}: at least 1 is needed.")
    self.name = ranker.name
    if permutations > 1:
      self.name += f", {permutations} orders"
    self._ranker = ranker
    self._permutations = permutations
    self._seed = seed

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the means over all orders, in the requests' own order."""
    return [scores.mean(0) for scores in self.score_orders(requests)]

  def score_orders(
    self, requests: Sequence[RankingRequest]
  ) -> list[Float[np.ndarray, "orders candidates"]]:
    """Returns each order's scores, in the requests' own candidate order.

    Requests whose instruction does not list the candidates have one order.
    """
    scores = [
      np.asarray(row, np.float64)[None] for row in self._ranker.score(requests)
    ]
    listing = [
      index
      for index, request in enumerate(requests)
      if len(request.candidates) > 1
      and listed_candidates(request) == len(request.candidates)
    ]
    further = {index: [scores[index]] for index in listing}
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
        own_order = np.empty((1, len(order)))
        own_order[0, order] = row
        further[i].append(own_order)
    for index, rows in further.items():
      scores[index] = np.concatenate(rows)
    return scores


def kendall_tau(
  scores: Sequence[Float[np.ndarray, "orders candidates"]],
) -> float:
  """Returns how well the rankings of different orders agree: 1 is perfectly.

  Tau-b (Kendall, 1945) of every two orders of a request, averaged over its
  pairs of orders, then over requests. Where one order ties all candidates tau
  does not exist, and that pair is left out.

  Args:
    scores: of `PermutedRanker.score_orders`.

  Returns:
    The mean, or NaN if no request has two orders that can be compared.
  """
  means = []
  for scores_KxC in scores:
    first, second = np.triu_indices(scores_KxC.shape[1], k=1)
    # The product of two orders' signs is 1 for a pair of candidates that they
    # rank alike, -1 for one that they rank differently.
    signs_KxP = np.sign(scores_KxC[:, first] - scores_KxC[:, second])
    untied_K = np.sqrt((signs_KxP**2).sum(1))
    ranking = untied_K > 0
    signs_KxP = signs_KxP[ranking] / untied_K[ranking, None]
    tau_KxK = signs_KxP @ signs_KxP.T
    if len(tau_KxK) > 1:
      means.append(tau_KxK[np.triu_indices(len(tau_KxK), k=1)].mean())
  return float(np.mean(means)) if means else float("nan")


def request_rng(
  request: RankingRequest, *, seed: int, stream: int = 0
) -> np.random.Generator:
  """Returns a generator that depends on the request's id, not on its place."""
  digest = hashlib.sha256(request.request_id.encode("utf-8")).digest()
  return np.random.default_rng(
    [seed, stream, int.from_bytes(digest[:8], "little")]
  )


def listed_candidates(
  request: RankingRequest, *, first: int | None = None
) -> int:
  """Returns how many candidates the instruction lists, exactly once: T3.

  Args:
    request: of any task form.
    first: tried if the instruction does not list all candidates.

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

  Args:
    request: its instruction lists the first `listed` candidates exactly once.
    chosen: indices of candidates.
    listed: all of them if None.
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


def _list(request: RankingRequest, count: int) -> str:
  return SEPARATOR.join(request.candidates[:count])


def _begins_sentence(text: str) -> bool:
  return text[:1] == " " and not text[1:2].islower()
