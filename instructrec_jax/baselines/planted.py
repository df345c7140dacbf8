"""The Bayes-optimal ranker of the synthetic shop.

Under the shop's own purchase process the history gives a posterior over the
shopper's taste, and this the probability of each candidate.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from instructrec_jax import storage
from instructrec_jax.data import synthetic
from instructrec_jax.data.folder import PLANTED_FILE, DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest


class PlantedRanker:
  """Ranks by the exact P(next item | history) of a synthetic shop."""

  name = "planted (ceiling)"

  def __init__(
    self, process: synthetic.PurchaseProcess, catalogue: Sequence[int]
  ):
    """Takes the process and, for each item number, its row in the process."""
    self._process = process
    self._catalogue = np.asarray(catalogue)

  @classmethod
  def load(cls, dataset: pathlib.Path) -> "PlantedRanker":
    """Reads DATASET/planted.json, written by `prepare --format synthetic`.

    Raises:
      InputError: the dataset is not a synthetic shop.
    """
    path = pathlib.Path(dataset) / PLANTED_FILE
    planted = storage.read_json(
      path, {"attributes": {str: list}, "habits": {str: float}}
    )
    items = DatasetFolder.open(dataset).items
    rows = {item_id: row for row, item_id in enumerate(planted["attributes"])}
    try:
      process = synthetic.PurchaseProcess(
        synthetic.Habits(**planted["habits"]),
        np.array(list(planted["attributes"].values())),
      )
      return cls(process, [rows[item.item_id] for item in items])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
      raise InputError(
        f"{path}: damaged, or another shop's ({error}): prepare the shop again."
      ) from None

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns log P(candidate | history) for each request."""
    return [self._score(request) for request in requests]

  def _score(self, request: RankingRequest) -> np.ndarray:
    history = self._catalogue[list(request.history_items)]
    candidates = self._catalogue[list(request.candidate_items)]
    posterior_T = np.log(self._process.prior_T)
    last, owned = None, []
    for bought in history:
      posterior_T += np.log(self._next_TxI(last, owned)[:, bought])
      last = int(bought)
      owned.append(last)
    posterior_T = np.exp(posterior_T - posterior_T.max())
    posterior_T /= posterior_T.sum()
    p_I = posterior_T @ self._next_TxI(last, owned)
    return np.log(p_I[candidates])

  def _next_TxI(self, last: int | None, owned: Sequence[int]) -> np.ndarray:
    """Renormalises without owned items, which are never bought again."""
    p_TxI = self._process.next_TxI(last)
    left_T = p_TxI.sum(1) - p_TxI[:, list(owned)].sum(1)
    return p_TxI / left_T[:, None]
