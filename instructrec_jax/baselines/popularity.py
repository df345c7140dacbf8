"""The non-personal baseline: what everybody buys."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.data.sequences import Sequences
from instructrec_jax.data.splits import leave_one_out
from instructrec_jax.records import RankingRequest


class PopularityRanker:
  """Ranks by how often an item was bought, in training interactions only."""

  name = "popularity"

  def __init__(self, counts: np.ndarray):
    """Takes the number of purchases of each item, indexed by item number."""
    self.counts = counts

  @classmethod
  def fit(cls, sequences: Sequences, *, num_items: int) -> "PopularityRanker":
    """Counts what each user bought before the held-out items."""
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
  """Returns the items and users of all interactions that are not held out."""
  splits = leave_one_out(sequences)
  training = np.ones(len(sequences.items), bool)
  for held_out in (splits.validation, splits.test):
    training[sequences.offsets[held_out.users] + held_out.positions] = False
  users = np.repeat(np.arange(len(sequences)), sequences.lengths)
  return sequences.items[training], users[training]
