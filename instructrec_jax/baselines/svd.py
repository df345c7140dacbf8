"""What is bought together, in few dimensions: the ranker `svd`.

Positive pointwise mutual information of two items within a user's training
interactions, factored by a truncated SVD: Levy & Goldberg, "Neural word
embedding as implicit matrix factorization" (2014), with the context
distribution smoothed as in Levy et al. (2015). Nothing held out is counted.

Key to shapes. I: items, D: width, H: items of a history, C: candidates.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float32, Int64

from instructrec_jax.baselines.popularity import training_interactions
from instructrec_jax.data.splits import Sequences, Splits
from instructrec_jax.records import RankingRequest

# As many as the paper shows the model.
_HISTORY = 20
# Chosen on games_2018's validation targets: a history's item weighs so much
# less than the next one, and a cosine so many nats.
_DECAY = 0.8
_SHARPNESS = 10.0
WIDTH = 64
"""Of items' vectors; chosen there, too: 128 features overfit."""
_SMOOTHING = 0.75


class SvdRanker:
  """Ranks by the cosine of a candidate and the history, and popularity.

  A candidate's score is 10 times the cosine between its vector and the sum of
  the last 20 history items' vectors, an item weighing .8 of the next, plus the
  log of its training purchases and one.
  """

  name = "svd"

  def __init__(
    self,
    vectors_IxD: Float32[np.ndarray, "items width"],
    counts_I: Int64[np.ndarray, " items"],
  ):
    """Takes unit vectors (or zeros) and training purchases."""
    self._vectors = vectors_IxD
    self._log_counts = np.log1p(counts_I)
    self.num_parameters = vectors_IxD.size + counts_I.size
    self.flops = 0.0

  @classmethod
  def fit(
    cls,
    sequences: Sequences,
    *,
    num_items: int,
    splits: Splits,
    width: int = WIDTH,
  ) -> "SvdRanker":
    """Factors which items the same users bought, in training interactions."""
    bought = purchases(sequences, num_items, splits)
    vectors = factored(ppmi(bought.T @ bought), width)
    items, _ = training_interactions(sequences, splits)
    return cls(unit(vectors), np.bincount(items, minlength=num_items))

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    return [self._score(request) for request in requests]

  def _score(self, request: RankingRequest) -> np.ndarray:
    history_H = list(request.history_items[-_HISTORY:])
    candidates_C = list(request.candidate_items)
    weights_H = _DECAY ** np.arange(len(history_H))[::-1]
    taste_D = unit((weights_H @ self._vectors[history_H])[None])[0]
    cosines_C = self._vectors[candidates_C] @ taste_D
    products = (len(history_H) + len(candidates_C)) * self._vectors.shape[1]
    self.flops += 2.0 * products
    return _SHARPNESS * cosines_C + self._log_counts[candidates_C]


def factored(
  matrix: scipy.sparse.csr_array, width: int
) -> Float32[np.ndarray, "rows width"]:
  """Returns U sqrt(S) of a truncated SVD; zeros beyond the matrix's rank."""
  size = len(matrix.indptr) - 1
  rank = min(width, size - 1)
  vectors = np.zeros((size, width), np.float32)
  if rank > 0 and matrix.nnz:
    # From a start of its own, since the default one is drawn anew each time.
    start = np.random.default_rng(0).normal(size=size)
    u, s, _ = scipy.sparse.linalg.svds(
      matrix.astype(np.float32), k=rank, v0=start.astype(np.float32)
    )
    # What is rounding has no direction.
    vectors[:, :rank] = u * np.sqrt(np.where(s > 1e-5 * s.max(), s, 0))
  return vectors


def purchases(
  sequences: Sequences, num_items: int, splits: Splits
) -> scipy.sparse.csr_array:
  """Returns [users, items]: 1 where a user bought an item in training."""
  items, users = training_interactions(sequences, splits)
  shape = (len(sequences), num_items)
  ones = np.ones(len(items), np.float32)
  bought = scipy.sparse.csr_array((ones, (users, items)), shape=shape)
  bought.data[:] = 1
  return bought


def ppmi(together: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  """Returns the positive pointwise mutual information of counts of pairs."""
  pairs = together.tocoo()
  # Rounding may leave a little where there was no pair.
  kept = (pairs.row != pairs.col) & (pairs.data > 0.5)
  row, column, counts = pairs.row[kept], pairs.col[kept], pairs.data[kept]
  size = len(together.indptr) - 1
  totals = np.bincount(row, counts, minlength=size)
  total = totals.sum()
  smoothed = totals**_SMOOTHING
  smoothed *= total / max(smoothed.sum(), 1e-30)
  information = np.log(counts * total / (totals[row] * smoothed[column]))
  kept = information > 0
  return scipy.sparse.csr_array(
    (information[kept], (row[kept], column[kept])), shape=together.shape
  )


def unit(vectors: np.ndarray) -> np.ndarray:
  """Returns rows of length 1; those of zeros stay."""
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.maximum(lengths, 1e-9)
