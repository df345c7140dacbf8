"""What is bought together, in few dimensions: the ranker `svd`, and vectors of
a vocabulary's pieces that a T5 of random weights can start from.

Positive pointwise mutual information of two items within a user's training
interactions, factored by a truncated SVD: Levy & Goldberg, "Neural word
embedding as implicit matrix factorization" (2014), with the context
distribution smoothed as in Levy et al. (2015). Nothing held out is counted.

Key to shapes. I: items, P: pieces, D: width, H: items of a history, C:
candidates.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float32, Int64

from instructrec_jax.baselines.popularity import training_interactions
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import Sequences, Splits
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import RankingRequest
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

# As many as the paper shows the model.
_HISTORY = 20
# Chosen on games_2018's validation targets: a history's item weighs so much
# less than the next one, and a cosine so many nats.
_DECAY = 0.8
_SHARPNESS = 10.0
WIDTH = 64
"""Of items' vectors; chosen there, too: 128 features overfit."""
_SMOOTHING = 0.75
# Of the regression of items' vectors on their titles' pieces; there, too.
_RIDGE = 1.0
# Purchases after which an item's own vector counts as much as its words.
_TRUSTED = 10.0
# Of the purchases of a title that is one piece, what its words are said for.
_SPELLED = 0.1


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
    bought = _purchases(sequences, num_items, splits)
    vectors = factored(_ppmi(bought.T @ bought), width)
    items, _ = training_interactions(sequences, splits)
    return cls(_unit(vectors), np.bincount(items, minlength=num_items))

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    return [self._score(request) for request in requests]

  def _score(self, request: RankingRequest) -> np.ndarray:
    history_H = list(request.history_items[-_HISTORY:])
    candidates_C = list(request.candidate_items)
    weights_H = _DECAY ** np.arange(len(history_H))[::-1]
    taste_D = _unit((weights_H @ self._vectors[history_H])[None])[0]
    cosines_C = self._vectors[candidates_C] @ taste_D
    products = (len(history_H) + len(candidates_C)) * self._vectors.shape[1]
    self.flops += 2.0 * products
    return _SHARPNESS * cosines_C + self._log_counts[candidates_C]


@dataclasses.dataclass(frozen=True)
class PieceVectors:
  """What a vocabulary's pieces tell of the items whose titles have them.

  Attributes:
    parts_PxD: vectors whose sum over a title's pieces is about its item's: a
      brand's name has much of it, a comma next to nothing.
    means_PxD: the mean vector of the purchases whose titles have the piece.
    counts_P: purchases that are said with it.
  """

  parts_PxD: Float32[np.ndarray, "pieces width"]
  means_PxD: Float32[np.ndarray, "pieces width"]
  counts_P: Int64[np.ndarray, " pieces"]


def piece_vectors(
  folder: DatasetFolder,
  vocabulary: Vocabulary,
  *,
  rows: int,
  width: int = WIDTH,
) -> PieceVectors:
  """Spreads items' vectors over the pieces of their titles.

  The parts are a ridge regression of items' unit vectors on which pieces their
  titles have, an item weighing the log of its training purchases and one. A
  title that is one piece is read in its words there; its piece then gets the
  item's own vector and what its words add up to, the former weighing
  n / (n + 10) with n purchases, so that a title that few bought is known by its
  words. Pieces that no title has get zeros. The end of a sequence is bought
  with every title, and has no vector.

  Args:
    folder: whose training interactions and titles count.
    vocabulary: of the pieces.
    rows: of the result, at least the vocabulary's ids.
    width: of the vectors.
  """
  titles = display_titles(folder.items)
  bought = _purchases(folder.sequences, len(titles), folder.splits)
  purchases_I = np.asarray(bought.sum(0)).ravel()
  items_IxD = _unit(factored(_ppmi(bought.T @ bought), width))
  written = vocabulary.encode(titles)
  is_whole_I = np.array(
    [
      len(ids) == 1 and vocabulary.spell(title) != ids
      for title, ids in zip(titles, written, strict=True)
    ]
  )
  spelled = [
    vocabulary.spell(title) if is_whole else ids
    for title, ids, is_whole in zip(titles, written, is_whole_I, strict=True)
  ]
  pieces = _indicator([sorted({*ids} - {EOS_ID}) for ids in spelled], rows)
  weights = scipy.sparse.diags_array(np.log1p(purchases_I))
  normal = pieces.T @ weights @ pieces + _RIDGE * scipy.sparse.eye_array(rows)
  sums = pieces.T @ (weights @ items_IxD)
  parts_PxD = np.stack(
    [
      scipy.sparse.linalg.cg(normal, sums[:, k], rtol=1e-4, maxiter=60)[0]
      for k in range(width)
    ],
    axis=1,
  )
  own_I = (purchases_I / (purchases_I + _TRUSTED))[:, None]
  items_IxD = _unit(own_I * items_IxD + (1 - own_I) * (pieces @ parts_PxD))
  totals = pieces.T @ (purchases_I[:, None] * items_IxD)
  counts = np.asarray(pieces.T @ purchases_I)
  means_PxD = totals / np.maximum(counts, 1)[:, None]
  # Words count fully where titles are written in them.
  said_I = purchases_I * np.where(is_whole_I, _SPELLED, 1)
  whole = _indicator(
    [ids if w else [] for ids, w in zip(written, is_whole_I, strict=True)], rows
  )
  counts = np.ceil(pieces.T @ said_I + whole.T @ purchases_I).astype(np.int64)
  # Of items with one title; of one that nobody bought, its words'.
  totals = whole.T @ ((purchases_I + 1e-6)[:, None] * items_IxD)
  is_whole_P = np.asarray(whole.sum(0)).ravel() > 0
  parts_PxD[is_whole_P] = means_PxD[is_whole_P] = _unit(totals[is_whole_P])
  counts[EOS_ID] = int(bought.sum())
  return PieceVectors(
    parts_PxD.astype(np.float32), means_PxD.astype(np.float32), counts
  )


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


def _purchases(
  sequences: Sequences, num_items: int, splits: Splits
) -> scipy.sparse.csr_array:
  """Returns [users, items]: 1 where a user bought an item in training."""
  items, users = training_interactions(sequences, splits)
  shape = (len(sequences), num_items)
  ones = np.ones(len(items), np.float32)
  bought = scipy.sparse.csr_array((ones, (users, items)), shape=shape)
  bought.data[:] = 1
  return bought


def _indicator(
  rows: Sequence[Sequence[int]], columns: int
) -> scipy.sparse.csr_array:
  ends = np.cumsum([0, *map(len, rows)])
  indices = np.array([i for row in rows for i in row], np.int64)
  ones = np.ones(len(indices), np.float32)
  return scipy.sparse.csr_array(
    (ones, indices, ends), shape=(len(rows), columns)
  )


def _ppmi(together: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
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


def _unit(vectors: np.ndarray) -> np.ndarray:
  lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.maximum(lengths, 1e-9)
