"""HR@k, NDCG@k and MRR of rankings that have one right answer each.

Candidates with equal scores have no order, so a metric is its expected value
over all orders of the tied candidates, in closed form. Input order never
matters, and a ranker that scores everything alike gets exactly what random
guessing gets.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from instructrec_jax.errors import InputError


def ranking_metrics(
  scores: Sequence[Float[np.ndarray, " candidates"]],
  targets: Sequence[int],
  *,
  ks: Sequence[int] = (1, 3, 5, 10),
) -> dict[str, Float[np.ndarray, " requests"]]:
  """Returns "hr@k" and "ndcg@k" for each k, and "mrr", one value a request.

  With one relevant item, NDCG@k is 1 / log2(1 + rank) up to rank k, else 0.

  Args:
    scores: one array a request, in candidate order; higher wins.
    targets: index of the right answer among each request's candidates.
    ks: cut-offs; one beyond the number of candidates is fine.

  Raises:
    InputError: a score is NaN, a request has no candidates, or its target is
      not one of them.
  """
  better, tied = _ranks(scores, targets)
  # gain[r] sums what ranks 1..r contribute, so a tied group's mean gain is a
  # difference of two entries.
  ranks = np.arange(1, (better + tied).max(initial=0) + 1)
  hits = np.concatenate([[0], np.ones(len(ranks)).cumsum()])
  discounted = np.concatenate([[0], (1 / np.log2(1 + ranks)).cumsum()])
  reciprocal = np.concatenate([[0], (1 / ranks).cumsum()])

  def expected(gain: np.ndarray, k: int) -> np.ndarray:
    first = np.minimum(better, k)
    last = np.minimum(better + tied, k)
    return (gain[last] - gain[first]) / tied

  metrics = {f"hr@{k}": expected(hits, k) for k in ks}
  metrics |= {f"ndcg@{k}": expected(discounted, k) for k in ks}
  return metrics | {"mrr": expected(reciprocal, len(ranks))}


def _ranks(
  scores: Sequence[np.ndarray], targets: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Candidates above each target, and tied with it (itself included)."""
  if not scores:
    return np.zeros(0, np.int64), np.ones(0, np.int64)
  counts = np.array([len(request_scores) for request_scores in scores])
  target = np.asarray(targets)
  bad = np.flatnonzero((target < 0) | (target >= counts))
  if bad.size:
    raise InputError(
      f"request {bad[0]}: target {target[bad[0]]} is not one of its "
      f"{counts[bad[0]]} candidates."
    )
  starts = counts.cumsum() - counts
  flat = np.concatenate(scores)
  nan = np.flatnonzero(np.isnan(flat))
  if nan.size:
    request = np.searchsorted(starts, nan[0], side="right") - 1
    raise InputError(
      f"request {request}: a score is NaN, so it cannot be ranked; check the "
      "model's weights."
    )
  of_target = np.repeat(flat[starts + target], counts)
  better = np.add.reduceat(flat > of_target, starts, dtype=np.int64)
  tied = np.add.reduceat(flat == of_target, starts, dtype=np.int64)
  return better, tied
