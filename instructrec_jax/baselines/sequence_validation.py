"""What decides when a sequence encoder has been trained enough."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from instructrec_jax.baselines.trainer import Params
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError

# All users would cost as much time as training does.
_USERS = 5_000
# Whole catalogues are scored: so many users at once.
_BLOCK = 256

Reader = Callable[[Params, list[np.ndarray]], np.ndarray]


class Validation:
  """NDCG@10 of validation targets in the whole catalogue.

  The user's history is left out of the catalogue.
  """

  def __init__(self, folder: DatasetFolder, read: Reader, *, seed: int):
    """Draws the users.

    Args:
      folder: whose validation targets are told.
      read: turns weights and histories into vectors.
      seed: of the draw.

    Raises:
      InputError: there are no validation targets.
    """
    targets, sequences = folder.splits.validation, folder.sequences
    count = len(targets.users)
    if not count:
      raise InputError(
        f"{folder.path}: no user has a validation target, and training "
        "cannot know when to stop; prepare more data."
      )
    rows = np.random.default_rng(seed).permutation(count)[:_USERS]
    self._items = targets.items(sequences)[rows]
    self._histories = [
      sequences.user(user)[:position]
      for user, position in zip(
        targets.users[rows], targets.positions[rows], strict=True
      )
    ]
    self._read = read
    self._num_items = len(folder.items)

  def __call__(self, params: Params) -> float:
    """Returns what weights reach."""
    vectors = self._read(params, self._histories)
    table = np.asarray(params["table"])[1 : self._num_items + 1]
    bias = np.asarray(params["bias"])[1 : self._num_items + 1]
    ranks = []
    for start in range(0, len(vectors), _BLOCK):
      block = slice(start, start + _BLOCK)
      scores = vectors[block] @ table.T + bias
      for row, history in zip(scores, self._histories[block], strict=True):
        row[history] = -np.inf
      ranks.append(ranks_of(scores, self._items[block]))
    return ndcg_at_10(np.concatenate(ranks))


def ndcg_at_10(ranks: Int[np.ndarray, " n"]) -> float:
  """Returns the mean over targets of these ranks, the first being 1."""
  return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean())


def ranks_of(
  scores: Float[np.ndarray, "n items"], wanted: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
  """Returns each wanted item's rank; equal scores count as better ones."""
  of_wanted = np.take_along_axis(scores, wanted[:, None], axis=1)
  # Itself, and all that are not surely worse: weights that have become NaN,
  # or score everything alike, must not look perfect.
  return (~(scores < of_wanted)).sum(axis=1)
