"""All users' items in time order, as two arrays."""

import dataclasses

import numpy as np
from jaxtyping import Int32, Int64


@dataclasses.dataclass(frozen=True)
class Sequences:
  """A ragged array: user `u` has `items[offsets[u]:offsets[u + 1]]`.

  Attributes:
    items: item numbers, oldest first, user after user.
    offsets: where each user starts, and the end of the last.
  """

  items: Int32[np.ndarray, " interactions"]
  offsets: Int64[np.ndarray, " users+1"]

  @classmethod
  def from_columns(
    cls,
    *,
    users: Int32[np.ndarray, " interactions"],
    items: Int32[np.ndarray, " interactions"],
    num_users: int,
  ) -> "Sequences":
    """Makes sequences of interactions that are sorted by user and time."""
    lengths = np.bincount(users, minlength=num_users)
    return cls(items=items, offsets=np.concatenate([[0], np.cumsum(lengths)]))

  def __len__(self) -> int:
    """Returns the number of users."""
    return len(self.offsets) - 1

  @property
  def lengths(self) -> Int64[np.ndarray, " users"]:
    """How many items each user has."""
    return np.diff(self.offsets)

  def user(self, user: int) -> Int32[np.ndarray, " length"]:
    """Returns one user's items, oldest first."""
    return self.items[self.offsets[user] : self.offsets[user + 1]]

  def at(
    self,
    *,
    users: Int32[np.ndarray, " n"],
    positions: Int32[np.ndarray, " n"],
  ) -> Int32[np.ndarray, " n"]:
    """Returns the item at a position of each given user."""
    return self.items[self.offsets[users] + positions]
