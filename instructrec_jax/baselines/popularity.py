"""The non-personal baseline: what everybody buys."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.data.folder import Sequences
from instructrec_jax.records import RankingRequest


class PopularityRanker:
  """Ranks by how often an item was bought, in training interactions only."""

  name = "popularity"

  def __init__(self, counts: np.ndarray):
    """Takes the number of purchases of each item, indexed by item number."""
    self.counts = counts

  @classmethod
  def fit(cls, sequences: Sequences, *, num_items: int) -> "PopularityRanker":
    """Counts each user's items before the validation item."""
    items, _ = training_interactions(sequences)
    return cls(np.bincount(items, minlength=num_items))

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the candidates' purchase counts for each request."""
    return [
      self.counts[list(request.candidate_items)].astype(np.float64)
      for request in requests
    ]


def training_interactions(
  sequences: Sequences,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the items and users of the training interactions, in order.

  Leave-one-out holds out the last two items of each user.
  """
  lengths = np.diff(sequences.offsets)
  users = np.repeat(np.arange(len(lengths)), lengths)
  ends = np.repeat(sequences.offsets[1:], lengths)
  training = np.arange(len(sequences.items)) < ends - 2
  return sequences.items[training], users[training]
