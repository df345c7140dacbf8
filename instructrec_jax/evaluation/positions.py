"""Does it matter where in the prompt the right answer stands?

Stored candidate lists put the target into a uniformly drawn slot, so a ranker
that ignores positions hits equally often in all of them.
"""

import dataclasses

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from instructrec_jax.evaluation import intervals


@dataclasses.dataclass(frozen=True, slots=True)
class GroupMean:
  """The mean of a metric over one group of the requests.

  Attributes:
    group: its number, e.g. the target's slot from 0.
    requests: how many are in it.
    value: their mean.
    low: lower end of its 95% bootstrap interval.
    high: upper end of its 95% bootstrap interval.
  """

  group: int
  requests: int
  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True, slots=True)
class PositionBias:
  """How much a metric differs between positions.

  Attributes:
    spread: the largest mean minus the smallest; positive even by chance.
    chi_square: sum of n (mean - overall mean)^2 over the variance of all
      requests. For hits of 0 and 1 this is Pearson's statistic; ties between
      scores make hits fractions, for which it holds just as well.
    degrees: positions less one.
    p: the chance of so large a chi-square if positions did not matter.
  """

  spread: float
  chi_square: float
  degrees: int
  p: float


def by_position(
  hits: Float[np.ndarray, " requests"],
  slots: Int[np.ndarray, " requests"],
  num_slots: int,
  *,
  seed: int = 0,
) -> list[GroupMean]:
  """Returns HR@1 for each position of the target in the prompt.

  Args:
    hits: "hr@1" of `metrics.ranking_metrics`: expected values under ties.
    slots: the target's index among its candidates, which the prompt lists in
      that order.
    num_slots: candidates of a request.
    seed: of the bootstrap.

  Returns:
    One mean a slot; slots that no target stands in are left out.
  """
  return group_means(hits, slots, num_slots, seed=seed)


def position_bias(
  hits: Float[np.ndarray, " requests"],
  slots: Int[np.ndarray, " requests"],
  num_slots: int,
) -> PositionBias:
  """Returns how much `by_position` differs between slots, and its p-value."""
  counts = np.bincount(slots, minlength=num_slots)
  sums = np.bincount(slots, weights=hits, minlength=num_slots)
  means = sums[counts > 0] / counts[counts > 0]
  counts = counts[counts > 0]
  degrees = len(means) - 1
  variance = hits.var() if len(hits) else 0.0
  # Equal hits have rounding errors for a variance.
  if degrees < 1 or variance < 1e-12:
    return PositionBias(0.0, 0.0, max(degrees, 0), 1.0)
  chi_square = (counts * (means - hits.mean()) ** 2).sum() / variance
  return PositionBias(
    spread=float(means.max() - means.min()),
    chi_square=float(chi_square),
    degrees=degrees,
    p=float(scipy.special.chdtrc(degrees, chi_square)),
  )


def group_means(
  values: Float[np.ndarray, " requests"],
  groups: Int[np.ndarray, " requests"],
  num_groups: int,
  *,
  seed: int = 0,
) -> list[GroupMean]:
  """Returns each group's mean and interval; empty groups are left out.

  Args:
    values: a metric of each request.
    groups: each request's group, below `num_groups`.
    num_groups: how many there are.
    seed: of the bootstrap, which resamples each group's users on their own.
  """
  means = []
  for group in range(num_groups):
    of_group = values[groups == group]
    if not len(of_group):
      continue
    low, high = intervals.percentile_interval(
      intervals.bootstrap_means(of_group[:, None], seed=seed)
    )
    means.append(
      GroupMean(
        group=group,
        requests=len(of_group),
        value=float(of_group.mean()),
        low=float(low[0]),
        high=float(high[0]),
      )
    )
  return means
