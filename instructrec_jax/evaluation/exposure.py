"""What gets recommended: popularity, coverage, concentration, head and tail.

Candidates with equal scores have no order. As in `metrics`, what is counted is
an expected value: an item that shares the last of k places with another is
recommended half a time.

Popularity is an item's percentile by training purchases: the share of the
catalogue that is bought less, items bought equally often counted by half. Its
mean over the catalogue is one half, whatever the shop.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from instructrec_jax.evaluation.positions import GroupMean, group_means
from instructrec_jax.records import RankingRequest


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

  Args:
    scores: one array a request; higher wins.
    k: length of the list.

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
