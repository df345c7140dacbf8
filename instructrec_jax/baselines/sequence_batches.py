"""Many short histories in rows of one length, none of them padded apart.

Users have some six items and rows have room for fifty, so several histories
share a row; a segment number keeps them from seeing each other. Item numbers
are shifted by one: token 0 is padding. B: rows, L: tokens a row, P: tokens
whose item is to be told.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

PADDING = 0

# P is rounded up to a multiple of it: few shapes, so few compilations.
_ROUND = 256


class Example(NamedTuple):
  """One history as the model reads it.

  Attributes:
    tokens: what is read, oldest first.
    targets: the token to tell at each place, or `PADDING` for none.
  """

  tokens: Int32[np.ndarray, " length"]
  targets: Int32[np.ndarray, " length"]


class Batch(NamedTuple):
  """Rows of histories, and what to tell about them.

  Attributes:
    tokens: item number + 1; `PADDING` where there is none.
    segments: which history of its row a token belongs to; 0 is none.
    distances: how many tokens of the same history follow.
    places: of the P tokens, in the rows one after the other.
    targets: what to tell at each place.
    weights: 1 for each place, 0 where the list is filled up.
  """

  tokens: Int32[np.ndarray, "B L"]
  segments: Int32[np.ndarray, "B L"]
  distances: Int32[np.ndarray, "B L"]
  places: Int32[np.ndarray, " P"]
  targets: Int32[np.ndarray, " P"]
  weights: Float32[np.ndarray, " P"]


def pack(
  examples: Iterable[Example], *, rows: int, length: int
) -> Iterator[Batch]:
  """Yields batches of histories in the order in which they come.

  Args:
    examples: none longer than `length`.
    rows: B.
    length: L.
  """
  batch, row, used = _empty(rows, length), 0, 0
  for segment, (tokens, targets) in enumerate(examples, start=1):
    if used + len(tokens) > length:
      row, used = row + 1, 0
    if row == rows:
      yield _finish(*batch)
      batch, row = _empty(rows, length), 0
    place = slice(used, used + len(tokens))
    # Tokens, segments, distances, targets.
    batch[0][row, place] = tokens
    batch[1][row, place] = segment
    batch[2][row, place] = np.arange(len(tokens))[::-1]
    batch[3][row, place] = targets
    used += len(tokens)
  if used:
    yield _finish(*batch)


def left_padded(
  histories: Sequence[np.ndarray], *, rows: int, length: int
) -> Int32[np.ndarray, "B L"]:
  """Returns one history a row, its last tokens at the row's end.

  Args:
    histories: tokens, at most `rows` of them; what is too long loses its
      beginning.
    rows: B; rows without a history are padding.
    length: L.
  """
  tokens_BxL = np.full((rows, length), PADDING, np.int32)
  for row, history in zip(tokens_BxL, histories, strict=False):
    recent = history[-length:]
    row[length - len(recent) :] = recent
  return tokens_BxL


def _empty(rows: int, length: int) -> list[np.ndarray]:
  return [np.zeros((rows, length), np.int32) for _ in range(4)]


def _finish(
  tokens: np.ndarray,
  segments: np.ndarray,
  distances: np.ndarray,
  targets: np.ndarray,
) -> Batch:
  places = np.flatnonzero(targets).astype(np.int32)
  filling = -len(places) % _ROUND
  return Batch(
    tokens,
    segments,
    distances,
    places=np.pad(places, (0, filling)),
    targets=np.pad(
      targets.reshape(-1)[places], (0, filling), constant_values=1
    ),
    weights=np.pad(np.ones(len(places), np.float32), (0, filling)),
  )
