"""Leave-one-out: the last item tests, the one before validates.

With n items at positions 0 to n - 1, the test target is at n - 1 (its history
is all before), the validation target at n - 2, training targets are at 1 to
n - 3. A user with fewer than three items cannot be split: all of theirs
trains.
"""

import dataclasses

import numpy as np
from jaxtyping import Int32

from instructrec_jax.data.sequences import Sequences

_MIN_ITEMS = 3


@dataclasses.dataclass(frozen=True)
class Targets:
  """Items to predict from what the same user had before.

  Attributes:
    users: user numbers.
    positions: the targets' places in their users' sequences.
  """

  users: Int32[np.ndarray, " n"]
  positions: Int32[np.ndarray, " n"]

  def items(self, sequences: Sequences) -> Int32[np.ndarray, " n"]:
    """Returns the targets' item numbers."""
    return sequences.at(users=self.users, positions=self.positions)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
  """The three splits; `validation` and `test` have the same users."""

  training: Targets
  validation: Targets
  test: Targets


def leave_one_out(sequences: Sequences) -> LeaveOneOut:
  """Splits every user's sequence; see the module's docstring."""
  lengths = sequences.lengths
  users = np.flatnonzero(lengths >= _MIN_ITEMS).astype(np.int32)
  last = (lengths[users] - 1).astype(np.int32)
  return LeaveOneOut(
    training=_training_targets(sequences),
    validation=Targets(users, last - 1),
    test=Targets(users, last),
  )


def _training_targets(sequences: Sequences) -> Targets:
  lengths = sequences.lengths
  held_out = np.where(lengths >= _MIN_ITEMS, 2, 0)
  users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
  positions = np.arange(len(users)) - sequences.offsets[users]
  training = (positions >= 1) & (positions < (lengths - held_out)[users])
  return Targets(users[training], positions[training].astype(np.int32))
