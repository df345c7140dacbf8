"""Training data of towers: users, queries and the items they meant."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from instructrec_jax.data.splits import Sequences, Targets

# The user of a search without one, as in product search.
NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Searches:
  """N searches; with empty queries, next-item prediction.

  Attributes:
    users: user numbers, or `NOBODY`.
    positions: length of the user's history at the search.
    queries: their text.
    items: the target item numbers.
  """

  users: Int32[np.ndarray, " n"]
  positions: Int32[np.ndarray, " n"]
  queries: Sequence[str]
  items: Int32[np.ndarray, " n"]

  def __len__(self) -> int:
    """Returns N."""
    return len(self.items)

  @classmethod
  def of_targets(cls, targets: Targets, sequences: Sequences) -> "Searches":
    """Returns targets as searches without a query."""
    items = targets.items(sequences)
    queries = [""] * len(items)
    return cls(targets.users, targets.positions, queries, items)

  @classmethod
  def concatenate(cls, parts: Sequence["Searches"]) -> "Searches":
    """Returns the searches of all parts, at least one."""
    return cls(
      users=np.concatenate([part.users for part in parts]),
      positions=np.concatenate([part.positions for part in parts]),
      queries=[query for part in parts for query in part.queries],
      items=np.concatenate([part.items for part in parts]),
    )

  def take(self, rows: Int[np.ndarray, " rows"]) -> "Searches":
    """Returns those of the given rows."""
    return Searches(
      users=self.users[rows],
      positions=self.positions[rows],
      queries=[self.queries[int(row)] for row in rows],
      items=self.items[rows],
    )


def recent_tokens(
  sequences: Sequences,
  *,
  users: Int32[np.ndarray, " n"],
  positions: Int32[np.ndarray, " n"],
  length: int,
) -> Int32[np.ndarray, "n length"]:
  """Returns the last tokens of users' histories: item number + 1.

  Args:
    sequences: of all users.
    users: user numbers, or `NOBODY`.
    positions: lengths of the histories.
    length: rows are padded with 0 or truncated on the left.
  """
  starts_N = sequences.offsets[np.maximum(users, 0)]
  index_NxL = starts_N[:, None] + positions[:, None] - length
  index_NxL = index_NxL + np.arange(length)
  mask_NxL = (index_NxL >= starts_N[:, None]) & (users[:, None] >= 0)
  tokens_NxL = np.zeros(mask_NxL.shape, np.int32)
  tokens_NxL[mask_NxL] = sequences.items[index_NxL[mask_NxL]] + 1
  return tokens_NxL
