"""Encoder states of instructions that were read before, for other candidates.

The encoder reads an instruction alone, so that its states are those of every
request with the same instruction, whatever the candidates are.

Key to shapes. S: shards of a batch, or its rows; B: instructions of a shard,
N: tokens of a shard, D: emb_dim.
"""

import collections
import threading
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Shaped

_Tokens = Int[np.ndarray, "shards tokens"]
_Lengths = Int[np.ndarray, "shards instructions"]
_States = Shaped[np.ndarray, "shards tokens embed"]


class UserStates:
  """States in the host's memory, by instruction; the last used are kept.

  Several threads may use it.

  Attributes:
    limit: bytes of states that are kept at most.
    num_bytes: that are kept.
    hits: instructions whose states were here when a batch needed them.
    misses: instructions that the encoder has read.
  """

  def __init__(self, limit: int):
    """Starts empty."""
    self.limit = limit
    self.num_bytes = self.hits = self.misses = 0
    self._states: collections.OrderedDict[bytes, np.ndarray] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def __contains__(self, tokens: np.ndarray) -> bool:
    """Whether an instruction's states are here; int32 ids with their end."""
    return tokens.tobytes() in self._states

  def find(self, tokens_SxN: _Tokens, lengths_SxB: _Lengths) -> _States | None:
    """Returns a batch's states; None unless those of all its instructions are.

    Args:
      tokens_SxN: int32 ids of each shard's instructions, end to end.
      lengths_SxB: of each instruction; 0 is none.
    """
    prompts = list(_prompts(tokens_SxN, lengths_SxB))
    with self._lock:
      known = [self._states[key] for *_, key in prompts if key in self._states]
      if not known or len(known) < len(prompts):
        self.misses += len(prompts)
        return None
      self.hits += len(prompts)
      for *_, key in prompts:
        self._states.move_to_end(key)
    encoded_SxNxD = np.zeros(
      (*tokens_SxN.shape, known[0].shape[-1]), known[0].dtype
    )
    for (shard, place, _), states in zip(prompts, known, strict=True):
      encoded_SxNxD[shard, place] = states
    return encoded_SxNxD

  def keep(
    self, tokens_SxN: _Tokens, lengths_SxB: _Lengths, encoded_SxNxD: _States
  ) -> None:
    """Keeps the states of a batch's instructions, and drops the oldest."""
    for shard, place, key in _prompts(tokens_SxN, lengths_SxB):
      # Of its own, or it would keep the whole batch.
      states = encoded_SxNxD[shard, place].copy()
      if states.nbytes > self.limit:
        # It would drop all others, and then itself.
        continue
      with self._lock:
        if key not in self._states:
          self.num_bytes += states.nbytes
        self._states[key] = self._states.pop(key, states)
        while self.num_bytes > self.limit:
          _, dropped = self._states.popitem(last=False)
          self.num_bytes -= dropped.nbytes


def _prompts(
  tokens_SxN: _Tokens, lengths_SxB: _Lengths
) -> Iterator[tuple[int, slice, bytes]]:
  """Yields the shard, the place in it and the key of each instruction."""
  for shard, (tokens, lengths) in enumerate(
    zip(tokens_SxN, lengths_SxB, strict=True)
  ):
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends, strict=True):
      if end > start:
        yield shard, slice(start, end), tokens[start:end].tobytes()
