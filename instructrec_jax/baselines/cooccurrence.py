"""The item-to-item baseline: co-occurrence in users' histories."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.baselines.popularity import training_interactions
from instructrec_jax.data.splits import Sequences, Splits
from instructrec_jax.records import RankingRequest

# As many as the paper shows the model.
_HISTORY = 20


class CooccurrenceRanker:
  """Ranks by how many users bought a candidate along with the history.

  A candidate's score is the sum, over the last 20 history items, of the users
  whose training interactions hold both; popularity breaks ties. H history
  items, C candidates.
  """

  name = "cooccurrence"
  flops = 0.0

  def __init__(
    self, *, pairs: np.ndarray, users: np.ndarray, popularity: np.ndarray
  ):
    """Takes the counts.

    Args:
      pairs: sorted keys, smaller item * number of items + larger item.
      users: how many users bought both items of each pair.
      popularity: how many users bought each item.
    """
    # A sentinel, so that every insertion point exists.
    self._pairs = np.append(pairs, np.iinfo(np.int64).max)
    self._users = np.append(users, 0)
    self._popularity = popularity
    self.num_parameters = len(users) + len(popularity)

  @classmethod
  def fit(
    cls, sequences: Sequences, *, num_items: int, splits: Splits
  ) -> "CooccurrenceRanker":
    """Counts item pairs within each user's training interactions."""
    items, users = training_interactions(sequences, splits)
    keys = []
    # Pairs one step apart, then two, up to the longest history.
    for gap in range(1, len(items)):
      same_user = users[gap:] == users[:-gap]
      if not same_user.any():
        break
      keys.append(
        _pair_keys(items[gap:][same_user], items[:-gap][same_user], num_items)
      )
    pairs, counts = np.unique(
      np.concatenate(keys or [np.zeros(0, np.int64)]), return_counts=True
    )
    popularity = np.bincount(items, minlength=num_items)
    return cls(pairs=pairs, users=counts, popularity=popularity)

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    return [self._score(request) for request in requests]

  def _score(self, request: RankingRequest) -> np.ndarray:
    history_H = np.array(request.history_items[-_HISTORY:], np.int64)
    candidates_C = np.array(request.candidate_items, np.int64)
    keys_HxC = _pair_keys(
      history_H[:, None], candidates_C[None], len(self._popularity)
    )
    found_HxC = np.searchsorted(self._pairs, keys_HxC)
    together_HxC = np.where(
      self._pairs[found_HxC] == keys_HxC, self._users[found_HxC], 0
    )
    # Whole numbers far below 2**53, so the tie-break is exact in float64.
    scale = self._popularity.max(initial=0) + 1.0
    return together_HxC.sum(0) * scale + self._popularity[candidates_C]


def _pair_keys(a: np.ndarray, b: np.ndarray, num_items: int) -> np.ndarray:
  return np.minimum(a, b).astype(np.int64) * num_items + np.maximum(a, b)
