"""Metrics with their uncertainty: HR, NDCG, MRR; AUC and calibration; tests.

Candidates with equal scores have no order, so a ranking metric is its expected
value over all orders of the tied candidates, in closed form. Input order never
matters, and a ranker that scores everything alike gets exactly what random
guessing gets.

Pointwise instructions (T0) ask whether a user will like one candidate. Their
margin is log P(Yes) - log P(No), so sigmoid(margin) is P(Yes) where no other
answer is possible; labels are 1 for a target and 0 for a negative.

Intervals are percentile bootstraps over users: U users, M columns (a ranker's
metric each), R resamples. All columns share the same resamples, so a
difference of two columns is a paired difference.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from instructrec_jax.errors import InputError

KS = (1, 3, 5, 10)
# Of a bootstrap: p-values down to 2 / 10,001.
RESAMPLES = 10_000
# Resamples drawn at once: 32 x 50,000 users are 13 MB of counts.
_CHUNK = 32
# Of P(Yes), in a calibration error.
_BINS = 15
# Bounds: separable labels would want zero, useless margins infinity.
_TEMPERATURES = (0.01, 100.0)


def ranking_metrics(
  scores: Sequence[Float[np.ndarray, " candidates"]],
  targets: Sequence[int],
  *,
  ks: Sequence[int] = KS,
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
  return metrics_of_ranks(*target_ranks(scores, targets), ks=ks)


def target_ranks(
  scores: Sequence[Float[np.ndarray, " candidates"]], targets: Sequence[int]
) -> tuple[Int[np.ndarray, " requests"], Int[np.ndarray, " requests"]]:
  """Returns how many candidates score above the target, and how many as it.

  The target itself is one of the latter, so its rank is above + 1 to above +
  tied.

  Raises:
    InputError: as of `ranking_metrics`.
  """
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
  above = np.add.reduceat(flat > of_target, starts, dtype=np.int64)
  tied = np.add.reduceat(flat == of_target, starts, dtype=np.int64)
  return above, tied


def metrics_of_ranks(
  above: Int[np.ndarray, " requests"],
  tied: Int[np.ndarray, " requests"],
  *,
  ks: Sequence[int] = KS,
) -> dict[str, Float[np.ndarray, " requests"]]:
  """Returns the metrics of `ranking_metrics` from those of `target_ranks`."""
  # gain[r] sums what ranks 1..r contribute, so a tied group's mean gain is a
  # difference of two entries.
  ranks = np.arange(1, (above + tied).max(initial=0) + 1)
  hits = np.concatenate([[0], np.ones(len(ranks)).cumsum()])
  discounted = np.concatenate([[0], (1 / np.log2(1 + ranks)).cumsum()])
  reciprocal = np.concatenate([[0], (1 / ranks).cumsum()])

  def expected(gain: np.ndarray, k: int) -> np.ndarray:
    first = np.minimum(above, k)
    last = np.minimum(above + tied, k)
    return (gain[last] - gain[first]) / tied

  metrics = {f"hr@{k}": expected(hits, k) for k in ks}
  metrics |= {f"ndcg@{k}": expected(discounted, k) for k in ks}
  return metrics | {"mrr": expected(reciprocal, len(ranks))}


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
  """A paired difference of two means, first minus second.

  `low` and `high` are the ends of its 95% interval; `p` is the two-sided
  bootstrap p-value, with R resamples never below 2 / (R + 1).
  """

  value: float
  low: float
  high: float
  p: float


def bootstrap_means(
  values_UxM: Float[np.ndarray, "users columns"],
  *,
  seed: int,
  resamples: int = RESAMPLES,
) -> Float[np.ndarray, "resamples columns"]:
  """Returns the column means of `resamples` draws of U users with replacement.

  Efron (1979). Memory stays at a few chunks of counts, whatever `resamples`.
  """
  users, columns = values_UxM.shape
  if columns == 1:
    # Users of one value are drawn together: seconds become milliseconds.
    distinct_D, counts_D = np.unique(values_UxM, return_counts=True)
    if len(distinct_D) <= users / 8:
      rng = np.random.default_rng(seed)
      drawn = rng.multinomial(users, counts_D / users, size=resamples)
      return (drawn @ distinct_D / users)[:, None]
  means = [
    counts_RxU @ values_UxM / users
    for counts_RxU in bootstrap_counts(users, seed=seed, resamples=resamples)
  ]
  return np.concatenate(means)


def bootstrap_counts(
  users: int, *, seed: int, resamples: int = RESAMPLES
) -> Iterator[Float[np.ndarray, "some users"]]:
  """Yields how often each user is drawn, a chunk of resamples at a time."""
  rng = np.random.default_rng(seed)
  for start in range(0, resamples, _CHUNK):
    yield np.stack(
      [
        np.bincount(rng.integers(users, size=users), minlength=users)
        for _ in range(min(_CHUNK, resamples - start))
      ]
      # A product of floats is twice as fast as one of whole numbers.
    ).astype(np.float64)


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
  `differences_R` is one column of `bootstrap_means` minus another.
  """
  low, high = percentile_interval(differences_R[:, None])
  # What is equal may differ in the last bit of a sum.
  smaller = min((sign * differences_R <= 1e-12).sum() for sign in (1, -1))
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


def pointwise_metrics(
  margins: Float[np.ndarray, " n"],
  labels: Int[np.ndarray, " n"],
  *,
  temperature: float = 1.0,
) -> dict[str, float]:
  """Returns "auc", "log_loss" and "ece", and the last two after scaling.

  Args:
    margins: log P(Yes) - log P(No).
    labels: 1 or 0.
    temperature: of `fit_temperature` on validation, for "log_loss_scaled" and
      "ece_scaled"; AUC does not depend on it.

  Raises:
    InputError: a margin is not finite, or one of the two labels is missing.
  """
  scaled = margins / temperature
  return {
    "auc": auc(margins, labels),
    "log_loss": log_loss(margins, labels),
    "log_loss_scaled": log_loss(scaled, labels),
    "ece": expected_calibration_error(margins, labels),
    "ece_scaled": expected_calibration_error(scaled, labels),
  }


def auc(
  margins: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> float:
  """Returns the chance that a liked item's margin exceeds another's.

  Equal margins count one half (Mann and Whitney, 1947). It compares items of
  all users, as pointwise models are usually judged, not within each user.

  Raises:
    InputError: a margin is not finite, or one of the two labels is missing.
  """
  _check(margins, labels)
  values, place = np.unique(margins, return_inverse=True)
  yes = np.bincount(place, weights=labels, minlength=len(values))
  no = np.bincount(place, minlength=len(values)) - yes
  if not yes.any() or not no.any():
    raise InputError(
      "AUC compares liked items with others, but all labels are "
      f"{int(yes.any())}; give both targets and negatives."
    )
  # Twice the won pairs, which is whole and thus exact.
  twice = (yes * (2 * (no.cumsum() - no) + no)).sum()
  return float(twice / (2 * yes.sum() * no.sum()))


def bootstrap_pointwise(
  margins: Float[np.ndarray, " n"],
  labels: Int[np.ndarray, " n"],
  counts_RxN: Float[np.ndarray, "resamples n"],
  *,
  temperature: float | None = None,
) -> dict[str, Float[np.ndarray, " resamples"]]:
  """Returns the figures of `pointwise_metrics` of each resample.

  Args:
    margins: as of `pointwise_metrics`.
    labels: 1 or 0.
    counts_RxN: of `bootstrap_counts`.
    temperature: None if margins are no log odds: AUC alone is returned. It is
      NaN where a resample has one label alone.
  """
  _check(margins, labels)
  order = np.argsort(margins, kind="stable")
  # The first of each run of equal margins.
  starts = np.flatnonzero(np.diff(margins[order], prepend=-np.inf))
  sorted_RxN = counts_RxN[:, order]
  yes = np.add.reduceat(sorted_RxN * labels[order], starts, axis=1)
  no = np.add.reduceat(sorted_RxN, starts, axis=1) - yes
  twice = (yes * (2 * (no.cumsum(axis=1) - no) + no)).sum(axis=1)
  with np.errstate(invalid="ignore"):
    figures = {"auc": twice / (2 * yes.sum(axis=1) * no.sum(axis=1))}
  if temperature is None:
    return figures
  for suffix, scaled in (("", margins), ("_scaled", margins / temperature)):
    losses = np.logaddexp(0, np.where(labels, -scaled, scaled))
    figures[f"log_loss{suffix}"] = counts_RxN @ losses / len(margins)
    chances = scipy.special.expit(scaled)
    place = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    gaps_NxB = (chances - labels)[:, None] * (place[:, None] == range(_BINS))
    gaps = np.abs(counts_RxN @ gaps_NxB).sum(axis=1)
    figures[f"ece{suffix}"] = gaps / len(margins)
  return figures


def log_loss(
  margins: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> float:
  """Returns the mean of -log P(label) in nats.

  Raises:
    InputError: a margin is not finite.
  """
  _check(margins, labels)
  # log(1 + exp(-margin of the label)), without overflow.
  return float(np.logaddexp(0, np.where(labels, -margins, margins)).mean())


def expected_calibration_error(
  margins: Float[np.ndarray, " n"],
  labels: Int[np.ndarray, " n"],
  *,
  bins: int = _BINS,
) -> float:
  """Returns the mean distance between P(Yes) and the share of Yes in a bin.

  Bins are equally wide in P(Yes), and each counts by its examples: Guo et al.
  (2017, arXiv 1706.04599), but of P(Yes) and not of the likelier answer, so
  that too many Yes and too many No cannot cancel.

  Raises:
    InputError: a margin is not finite.
  """
  _check(margins, labels)
  chances = scipy.special.expit(margins)
  place = np.minimum((chances * bins).astype(int), bins - 1)
  gaps = np.bincount(place, weights=chances - labels, minlength=bins)
  return float(np.abs(gaps).sum() / len(margins))


def fit_temperature(
  margins: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> float:
  """Returns the T that minimises the log loss of margins / T.

  The loss is convex in 1 / T, so the sign of its slope tells on which side the
  minimum lies. T stays between 0.01 (labels are separable) and 100 (margins
  tell nothing, or the opposite); where all margins are zero it is 1.

  Args:
    margins: of validation, not of what is reported.
    labels: 1 or 0.

  Raises:
    InputError: a margin is not finite.
  """
  _check(margins, labels)
  if not margins.any():
    return 1.0
  low, high = np.log(_TEMPERATURES)
  # 40 halvings of log T leave an error below 1e-11.
  for _ in range(40):
    middle = (low + high) / 2
    scaled = margins / np.exp(middle)
    slope = (scaled * (scipy.special.expit(scaled) - labels)).sum()
    if slope > 0:  # the loss grows with 1 / T: too sharp
      low = middle
    else:
      high = middle
  return float(np.exp((low + high) / 2))


def _check(
  margins: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> None:
  if not len(margins) or not np.isfinite(margins).all():
    raise InputError(
      "margins must be finite, and at least one; check the model's weights."
    )
  if len(labels) != len(margins) or not np.isin(labels, (0, 1)).all():
    raise InputError(
      f"{len(margins)} margins need as many labels of 0 or 1; "
      f"there are {len(labels)}."
    )
