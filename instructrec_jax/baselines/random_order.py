"""The floor: a ranker that knows nothing."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.records import RankingRequest


class RandomRanker:
  """Scores all candidates alike.

  Metrics of ties are expectations over their orders, so its rows are the exact
  expectation of a random order, without sampling noise.
  """

  name = "random"

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns zeros for each request."""
    return [np.zeros(len(request.candidates)) for request in requests]
