"""What towers are trained on: who asked for what, and which item it was."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32

from instructrec_jax.data.splits import Sequences, Targets

# A person who is in no sequence: products are searched by nobody in particular.
NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Searches:
  """N searches; without a query, they are what a user bought next.

  Attributes:
    users: user numbers, or `NOBODY`.
    positions: how many items of the user's sequence came before.
    queries: what was asked for, in words.
    items: the item numbers that were meant.
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
    """Returns targets as searches without words."""
    items = targets.items(sequences)
    queries = [""] * len(items)
    return cls(targets.users, targets.positions, queries, items)

  @classmethod
  def concatenate(cls, parts: Sequence["Searches"]) -> "Searches":
    """Returns the searches of all parts, of which there is at least one."""
    return cls(
      users=np.concatenate([part.users for part in parts]),
      positions=np.concatenate([part.positions for part in parts]),
      queries=[query for part in parts for query in part.queries],
      items=np.concatenate([part.items for part in parts]),
    )

  def take(self, rows: Int[np.ndarray, " rows"]) -> "Searches":
    """Returns some of them, in the order given."""
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
  """Returns item number + 1 of what users had last before their positions.

  Args:
    sequences: of all users.
    users: user numbers, or `NOBODY`.
    positions: how many items count as had.
    length: rows are padded with 0 on the left, or cut there.
  """
  starts_N = sequences.offsets[np.maximum(users, 0)]
  places_NxL = starts_N[:, None] + positions[:, None] - length
  places_NxL = places_NxL + np.arange(length)
  there_NxL = (places_NxL >= starts_N[:, None]) & (users[:, None] >= 0)
  tokens_NxL = np.zeros(there_NxL.shape, np.int32)
  tokens_NxL[there_NxL] = sequences.items[places_NxL[there_NxL]] + 1
  return tokens_NxL
