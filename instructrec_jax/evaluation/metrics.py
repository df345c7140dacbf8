"""HR@k, NDCG@k and MRR of rankings that have one right answer each.

Candidates with equal scores have no order, so a metric is its expected value
over all orders of the tied candidates, in closed form. Input order never
matters, and a ranker that scores everything alike gets exactly what random
guessing gets.
"""

from collections.abc import Mapping, Sequence

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


def check_consistency(
  row: Mapping[str, float],
  *,
  requests: int | None = None,
  rounding: float = 0.0,
) -> list[str]:
  """Returns what is arithmetically impossible in a row of mean metrics.

  Between two cut-offs a < b, a share HR@b - HR@a of the requests has its
  target at ranks a + 1 to b. So NDCG@b - NDCG@a lies between that share times
  rank b's discount and that share times rank a + 1's.

  Args:
    row: "hr@k" and "ndcg@k" to mean values; other names are ignored.
    requests: how many were averaged; each HR must then be a whole number of
      them. Leave it out where scores tie: expected values are fractions.
    rounding: how far off printed values may be, e.g. 5e-5 for four decimals.

  Returns:
    One sentence a contradiction; an empty list for a possible row.
  """
  hr = {0: 0.0} | _at_cutoffs(row, "hr@")
  # NDCG@1 is HR@1, which is why papers leave it out.
  ndcg = {k: hr[k] for k in (0, 1) if k in hr} | _at_cutoffs(row, "ndcg@")
  problems = []
  cutoffs = sorted(hr)
  for a, b in zip(cutoffs, cutoffs[1:], strict=False):
    if not hr[a] - 2 * rounding - 1e-9 <= hr[b] <= 1 + rounding + 1e-9:
      problems.append(f"HR@{b} {hr[b]:.4f} is outside [HR@{a}, 1].")
    if requests and abs(hr[b] * requests - round(hr[b] * requests)) > (
      rounding * requests + 1e-6
    ):
      problems.append(f"HR@{b} {hr[b]:.4f} is no multiple of 1/{requests}.")
  cutoffs = sorted(hr.keys() & ndcg.keys())
  for a, b in zip(cutoffs, cutoffs[1:], strict=False):
    share, gain = hr[b] - hr[a], ndcg[b] - ndcg[a]
    low, high = share / np.log2(1 + b), share / np.log2(2 + a)
    slack = 4 * rounding + 1e-9
    if not low - slack <= gain <= high + slack:
      problems.append(
        f"NDCG@{b} - NDCG@{a} is {gain:.4f}; the HRs allow {low:.4f} to "
        f"{high:.4f}."
      )
  return problems


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


def _at_cutoffs(row: Mapping[str, float], prefix: str) -> dict[int, float]:
  return {
    int(name.removeprefix(prefix)): value
    for name, value in row.items()
    if name.startswith(prefix)
  }
