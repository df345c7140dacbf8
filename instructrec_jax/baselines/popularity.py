"""Baselines that do not read the user: random order and popularity."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import Sequences, Splits
from instructrec_jax.records import RankingRequest


class RandomRanker:
  """Scores all candidates alike.

  Metrics of ties are expectations over their orders, so these are exactly the
  expected metrics of a random order, without sampling noise.
  """

  name = "random"
  num_parameters = 0
  flops = 0.0

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns zeros for each request."""
    return [np.zeros(len(request.candidates)) for request in requests]


class PopularityRanker:
  """Ranks by how often an item was bought, in training interactions only."""

  name = "popularity"
  flops = 0.0

  def __init__(self, counts: np.ndarray):
    """Takes the number of purchases of each item, indexed by item number."""
    self.counts = counts
    self.num_parameters = len(counts)

  @classmethod
  def fit(
    cls, sequences: Sequences, *, num_items: int, splits: Splits
  ) -> "PopularityRanker":
    """Counts training interactions, of users without test targets too."""
    items, _ = training_interactions(sequences, splits)
    return cls(np.bincount(items, minlength=num_items))

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the candidates' purchase counts for each request."""
    return [
      self.counts[list(request.candidate_items)].astype(np.float64)
      for request in requests
    ]


def training_interactions(
  sequences: Sequences, splits: Splits
) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
  """Returns the items and users of all training interactions."""
  training = splits.training_mask(sequences)
  users = np.repeat(np.arange(len(sequences)), sequences.lengths)
  return sequences.items[training], users[training]


def training_counts(folder: DatasetFolder) -> Int64[np.ndarray, " items"]:
  """Returns how often each item is bought in training interactions."""
  items, _ = training_interactions(folder.sequences, folder.splits)
  return np.bincount(items, minlength=len(folder.items))
