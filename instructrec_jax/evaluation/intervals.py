"""How sure a mean metric is: percentile bootstrap over users.

U users, M columns (a ranker's metric each), R resamples. All columns share
the same resamples, so a difference of two columns is a paired difference.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Resamples drawn at once: 32 x 50,000 users are 13 MB of counts.
_CHUNK = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
  """A paired difference of two means.

  Attributes:
    value: first minus second.
    low: lower end of its 95% interval.
    high: upper end of its 95% interval.
    p: two-sided bootstrap p-value; with R resamples never below 2 / (R + 1).
  """

  value: float
  low: float
  high: float
  p: float


def bootstrap_means(
  values_UxM: Float[np.ndarray, "users columns"],
  *,
  seed: int,
  resamples: int = 1000,
) -> Float[np.ndarray, "resamples columns"]:
  """Returns the column means of `resamples` draws of U users with replacement.

  Efron (1979). Memory stays at a few chunks of counts, whatever `resamples`.
  """
  users = len(values_UxM)
  rng = np.random.default_rng(seed)
  means_RxM = np.empty((resamples, values_UxM.shape[1]))
  for start in range(0, resamples, _CHUNK):
    size = min(_CHUNK, resamples - start)
    counts_RxU = np.stack(
      [
        np.bincount(rng.integers(users, size=users), minlength=users)
        for _ in range(size)
      ]
    )
    means_RxM[start : start + size] = counts_RxU @ values_UxM / users
  return means_RxM


def percentile_interval(
  means_RxM: Float[np.ndarray, "resamples columns"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
  """Returns the lower and upper ends that hold `level` of the resamples."""
  tail = (1 - level) / 2
  low, high = np.quantile(means_RxM, [tail, 1 - tail], axis=0)
  return low, high


def paired_difference(
  value: float, differences_R: Float[np.ndarray, " resamples"]
) -> Difference:
  """Returns the interval and the p-value of a difference of two columns.

  p inverts the percentile interval: it is twice the smaller share of resamples
  on either side of zero, counting the observed sample as one of them.

  Args:
    value: the observed difference.
    differences_R: one column of `bootstrap_means` minus another.
  """
  low, high = percentile_interval(differences_R[:, None])
  smaller = min((differences_R <= 0).sum(), (differences_R >= 0).sum())
  p = min(1.0, 2 * (1 + smaller) / (1 + len(differences_R)))
  return Difference(float(value), float(low[0]), float(high[0]), float(p))


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
  """Returns p-values that hold for all tests together; Holm (1979).

  Calling those below 5% significant errs in any of them in at most 5% of the
  cases, however the tests depend on each other.
  """
  p = np.asarray(p_values, np.float64)
  order = np.argsort(p)
  # The smallest of m must pass m times its p, the next one m - 1 times, ...
  stepped = p[order] * np.arange(len(p), 0, -1)
  adjusted = np.empty_like(p)
  adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
  return adjusted
