"""What lies behind a metric: positions, popularity, and the requests' limits.

Position bias: stored candidate lists put the target into a uniformly drawn
slot, so a ranker that ignores positions hits equally often in all of them.

Exposure: popularity, coverage and concentration of what is recommended.
Candidates with equal scores have no order. As in `metrics`, what is counted is
an expected value: an item that shares the last of k places with another is
recommended half a time. Popularity is an item's percentile by training
purchases: the share of the catalogue that is bought less, items bought equally
often counted by half. Its mean over the catalogue is one half, whatever the
shop.

Limits: no ranker can tell a target from a negative that answers the same query.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int

from instructrec_jax.evaluation.metrics import (
  bootstrap_means,
  percentile_interval,
)
from instructrec_jax.records import RankingRequest


@dataclasses.dataclass(frozen=True, slots=True)
class GroupMean:
  """The mean of a metric over one group of the requests.

  `group` is its number from 0, `requests` how many are in it, `low` and `high`
  the ends of the 95% bootstrap interval.
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


def position_bias(
  hits: Float[np.ndarray, " requests"],
  slots: Int[np.ndarray, " requests"],
  num_slots: int,
) -> PositionBias:
  """Returns how much `hits` depend on the target's slot, and the p-value."""
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

  The bootstrap resamples each group's users on their own.
  """
  means = []
  for group in range(num_groups):
    of_group = values[groups == group]
    if not len(of_group):
      continue
    low, high = percentile_interval(
      bootstrap_means(of_group[:, None], seed=seed)
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


def same_query(
  queries: Sequence[str],
  targets: Sequence[int],
  negatives: Sequence[Sequence[int] | Int[np.ndarray, " negatives"]],
  *,
  item_queries: Sequence[str],
) -> Bool[np.ndarray, " requests"]:
  """Returns which requests have a negative that their own query asks for, too.

  Args:
    queries: of each request.
    targets: the item number that each is for.
    negatives: the other candidates' item numbers.
    item_queries: a query of each item of the catalogue, or "".
  """
  asks_for: dict[str, set[int]] = collections.defaultdict(set)
  for query, item in zip(queries, targets, strict=True):
    asks_for[query].add(int(item))
  for item, query in enumerate(item_queries):
    if query in asks_for:
      asks_for[query].add(item)
  return np.array(
    [
      bool(query) and not asks_for[query].isdisjoint(map(int, others))
      for query, others in zip(queries, negatives, strict=True)
    ],
    bool,
  )


class Exposure:
  """Adds up, batch by batch, what a ranker puts into its first k places."""

  def __init__(
    self, counts: Int[np.ndarray, " items"], *, ks: Sequence[int] = (1, 10)
  ):
    """Starts with nothing recommended.

    Args:
      counts: training purchases of each item of the catalogue.
      ks: lengths of the lists that are looked at.
    """
    self._popularity = popularity(counts)
    self._expected = {k: np.zeros(len(counts)) for k in ks}
    # log P(never recommended), if ties are broken anew in each request.
    self._log_absent = {k: np.zeros(len(counts)) for k in ks}
    self._shown = np.zeros(len(counts))

  def add(
    self,
    requests: Sequence[RankingRequest],
    scores: Sequence[Float[np.ndarray, " candidates"]],
  ) -> None:
    """Counts a batch: requests with `candidate_items`, and their scores."""
    if not requests:
      return
    items = np.concatenate([request.candidate_items for request in requests])
    size = len(self._shown)
    self._shown += np.bincount(items, minlength=size)
    for k, expected in self._expected.items():
      places = expected_places(scores, k=k)
      expected += np.bincount(items, weights=places, minlength=size)
      with np.errstate(divide="ignore"):
        log_absent = np.log1p(-places)
      self._log_absent[k] += np.bincount(
        items, weights=log_absent, minlength=size
      )

  def summary(self) -> dict[str, float]:
    """Returns these figures for each k.

    "popularity@k": mean percentile of what is recommended; compare
    "popularity_candidates", the same of all that could have been.
    "coverage@k": the share of the catalogue that is recommended to anybody.
    "gini@k": of the items' numbers of recommendations, over the whole
    catalogue: 0 if all get as many, towards 1 if one gets all.
    """
    figures = {"popularity_candidates": self._mean_popularity(self._shown)}
    for k, expected in self._expected.items():
      figures |= {
        f"popularity@{k}": self._mean_popularity(expected),
        f"coverage@{k}": float(-np.expm1(self._log_absent[k]).mean()),
        f"gini@{k}": gini(expected),
      }
    return figures

  def _mean_popularity(self, weights: np.ndarray) -> float:
    return float(weights @ self._popularity / weights.sum())


def popularity(
  counts: Int[np.ndarray, " items"],
) -> Float[np.ndarray, " items"]:
  """Returns each item's percentile, between 0 and 1."""
  ordered = np.sort(counts)
  below = np.searchsorted(ordered, counts, side="left")
  up_to = np.searchsorted(ordered, counts, side="right")
  return (below + up_to) / (2 * len(counts))


def head(
  counts: Int[np.ndarray, " items"], *, share: float = 0.5
) -> Bool[np.ndarray, " items"]:
  """Marks the most popular items, which make up `share` of all purchases.

  The head is as small as it can be without separating items that are bought
  equally often; the rest is the tail. By halves of the purchases, and not by a
  number of items, head and tail matter alike to the shop, and a random
  training purchase is as likely to come from one as from the other.
  """
  ordered = np.sort(counts)[::-1]
  reached = np.flatnonzero(ordered.cumsum() >= share * counts.sum())[0]
  return counts >= ordered[reached]


def gini(amounts: Float[np.ndarray, " items"]) -> float:
  """Returns half the relative mean difference: 0 is equal, near 1 is one's."""
  ordered = np.sort(amounts)
  weights = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
  return float(weights @ ordered / (len(ordered) * ordered.sum()))


def by_head_and_tail(
  hits: Float[np.ndarray, " requests"],
  target_items: Int[np.ndarray, " requests"],
  counts: Int[np.ndarray, " items"],
  *,
  share: float = 0.5,
  seed: int = 0,
) -> dict[str, GroupMean]:
  """Returns a metric's mean over "head" and over "tail" targets.

  Args:
    hits: of each request, e.g. "hr@1" of `metrics.ranking_metrics`.
    target_items: item number of each request's target.
    counts: training purchases of each item.
    share: of purchases that the head makes up; see `head`.
    seed: of the bootstrap.
  """
  in_tail = (~head(counts, share=share))[target_items].astype(int)
  means = group_means(hits, in_tail, 2, seed=seed)
  return {("head", "tail")[mean.group]: mean for mean in means}


def by_popularity(
  hits: Float[np.ndarray, " requests"],
  target_items: Int[np.ndarray, " requests"],
  counts: Int[np.ndarray, " items"],
  *,
  seed: int = 0,
) -> list[GroupMean]:
  """Returns a metric's mean by decile of the target's popularity.

  Deciles are of the catalogue: group 9 is the tenth of the items that is
  bought most, which most targets come from. Those without targets are left
  out.

  Args: as `by_head_and_tail`.
  """
  deciles = (popularity(counts)[target_items] * 10).astype(int)
  return group_means(hits, deciles, 10, seed=seed)


def expected_places(
  scores: Sequence[Float[np.ndarray, " candidates"]], *, k: int
) -> Float[np.ndarray, " all_candidates"]:
  """Returns each candidate's chance to be among its request's first k.

  Returns:
    The chances of all requests' candidates, one request after the other.
  """
  lengths = np.array([len(of_request) for of_request in scores])
  request = np.repeat(np.arange(len(lengths)), lengths)
  flat = np.concatenate(scores)
  order = np.lexsort((-flat, request))
  ordered = flat[order]
  # Tied groups of a request, best first, one request after the other.
  begins = np.diff(request[order], prepend=-1) > 0
  begins[1:] |= ordered[1:] != ordered[:-1]
  group = np.cumsum(begins) - 1
  first = np.flatnonzero(begins)
  tied = np.bincount(group)
  better = first - (np.cumsum(lengths) - lengths)[request[order][first]]
  chances = np.empty(len(flat))
  chances[order] = np.clip((k - better) / tied, 0, 1)[group]
  return chances
