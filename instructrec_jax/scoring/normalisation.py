"""What a candidate's token log-probabilities are made into: its score.

The paper sums them (section 2.3.2), which favours short candidates; every
remedy favours something else, so which one is best is for validation to say.
"""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.batching import Batch

# What `pmi` reads in place of an instruction: nothing but its end.
NULL_INSTRUCTION = ""
# A token at least so probable tells nothing about its candidate.
GHOST_THRESHOLD = 0.99


class Normalisation(enum.StrEnum):
  """How the candidates' scores are made comparable."""

  SUM = "sum"
  """log P(candidate | instruction), its end included: the paper's."""
  MEAN = "mean"
  """`SUM` per token; the end counts as one."""
  BYTE = "byte"
  """`SUM` per UTF-8 byte of the candidate as given; the end has none."""
  PMI = "pmi"
  """`SUM` less log P(candidate | the empty instruction), its prior."""
  CATALOGUE_PRIOR = "catalogue_prior"
  """`PMI` plus the log of one and the title's purchases in training: Bayes'
  rule with the catalogue's own prior in place of the model's. Needs their
  counts, which the model folder keeps; a title without any has none."""
  GHOST_FREE = "ghost_free"
  """The mean over tokens with P < 0.99, so that a title whose rest follows
  from its beginning gains nothing by it (D3, arXiv 2406.14900). Without such
  tokens it is 0; where two candidates part, only one token can be a ghost, so
  0 is no tie (that needs a threshold above one half)."""

  @classmethod
  def parse(cls, name: str) -> "Normalisation":
    """Returns the one of this name.

    Raises:
      InputError: there is none.
    """
    try:
      return cls(name)
    except ValueError:
      raise InputError(
        f"there is no normalisation {name!r}: name one of {', '.join(cls)}."
      ) from None

  @property
  def of_tokens(self) -> "Normalisation":
    """What must be known of the tokens to compute it."""
    by_token = (Normalisation.MEAN, Normalisation.GHOST_FREE)
    return self if self in by_token else Normalisation.SUM


BOUNDED = (
  Normalisation.SUM,
  Normalisation.MEAN,
  Normalisation.CATALOGUE_PRIOR,
)
"""Those of which it is known what a title's beginning bounds."""


def check_counted(
  normalisation: Normalisation, title_counts: Mapping[str, int] | None
) -> None:
  """Raises InputError if counts of titles are needed and missing."""
  if normalisation is Normalisation.CATALOGUE_PRIOR and not title_counts:
    raise InputError(
      "the normalisation catalogue_prior needs the titles' purchases, which "
      "`instructrec pack` writes and `train` keeps in the model folder "
      "(title_counts.json): pack the dataset again, or choose another one."
    )


def log_prior(title: str, title_counts: Mapping[str, int]) -> float:
  """Returns the log of one and a title's purchases."""
  return math.log1p(title_counts.get(title, 0))


def check_ghost_threshold(threshold: float) -> None:
  """Raises InputError unless 0 < threshold <= 1."""
  if not 0 < threshold <= 1:
    raise InputError(
      f"ghost_threshold is {threshold}: a probability above 0 is needed."
    )


def check_finite(log_likelihoods: np.ndarray) -> None:
  """Raises InputError if a log-likelihood is NaN or infinite."""
  if not np.isfinite(log_likelihoods).all():
    raise InputError(
      "the model's log-likelihoods are no numbers (NaN): check its weights."
    )


class Reduced:
  """Numbers of candidates, reduced from the log-probabilities of their tokens.

  By reduction, `columns` has a float64 array for each request, in the order of
  its candidates.
  """

  def __init__(
    self,
    requests: Sequence[RankingRequest],
    reductions: Iterable[Normalisation],
    *,
    ghost_threshold: float,
  ):
    """Allocates columns for values of `Normalisation.of_tokens`."""
    ends = np.cumsum([len(request.candidates) for request in requests])
    total = int(ends[-1]) if len(ends) else 0
    self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    self._flat = {name: np.empty(total) for name in reductions}
    self.columns = {
      name: np.split(column, ends[:-1]) if len(ends) else []
      for name, column in self._flat.items()
    }
    self._ghost = np.log(ghost_threshold)

  def add(self, batch: Batch, log_likelihoods_SxE: Any) -> None:
    """Writes each candidate's reduced tokens to all of its places.

    Raises:
      InputError: a log-likelihood is NaN or infinite.
    """
    if not len(batch.lengths):
      return
    values = np.asarray(log_likelihoods_SxE, np.float64).ravel()[batch.edges]
    check_finite(values)
    places = self._starts[batch.slots[:, 0]] + batch.slots[:, 1]
    for name, column in self._flat.items():
      reduced = self._reduce(name, values, batch.lengths)
      column[places] = reduced[batch.slot_candidates]

  def _reduce(
    self, name: Normalisation, values: np.ndarray, lengths: np.ndarray
  ) -> np.ndarray:
    """Reduces the tokens of candidates that are stored end to end."""
    starts = np.cumsum(lengths) - lengths
    if name is not Normalisation.GHOST_FREE:
      sums = np.add.reduceat(values, starts)
      return sums / lengths if name is Normalisation.MEAN else sums
    kept = values < self._ghost
    sums = np.add.reduceat(np.where(kept, values, 0), starts)
    return sums / np.maximum(np.add.reduceat(kept, starts, dtype=int), 1)


def byte_lengths(request: RankingRequest) -> list[int]:
  """Returns each candidate's length in UTF-8."""
  # An empty text, which is but its end, counts as one byte.
  return [max(len(text.encode()), 1) for text in request.candidates]
