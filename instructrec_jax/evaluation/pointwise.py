"""How well "Yes" or "No" answers tell liked items from others: T0.

A pointwise instruction asks whether a user will like one candidate. Its margin
is log P(Yes) - log P(No), so sigmoid(margin) is the chance of Yes where no
other answer is possible, and labels are 1 for a target and 0 for a negative.
"""

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from instructrec_jax.errors import InputError

# Sharpest and flattest: where the labels are separable no temperature is low
# enough, and where margins tell nothing, none is high enough.
_TEMPERATURES = (0.01, 100.0)


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
  bins: int = 15,
) -> float:
  """Returns how far chances of Yes are from the shares of Yes, on average.

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
    if _too_sharp(margins / np.exp(middle), labels):
      low = middle
    else:
      high = middle
  return float(np.exp((low + high) / 2))


def _too_sharp(
  scaled: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> bool:
  """Whether the log loss grows with 1 / T."""
  chances = scipy.special.expit(scaled)
  return bool((scaled * (chances - labels)).sum() > 0)


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
