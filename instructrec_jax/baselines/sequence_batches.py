"""Packs short histories into rows of one length.

Users have some six items and a row holds fifty, so several histories share a
row, kept apart in attention by segment numbers. Tokens are item numbers plus
one; token 0 is padding. B: rows, L: tokens a row, P: positions to predict.
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
    targets: the token to predict at each position, or `PADDING` for none.
  """

  tokens: Int32[np.ndarray, " length"]
  targets: Int32[np.ndarray, " length"]


class Batch(NamedTuple):
  """Rows of histories, and the items to predict.

  Attributes:
    tokens: item number + 1; `PADDING` where there is none.
    segments: the number of the token's history; 0 is padding.
    distances: how many tokens of the same history follow.
    positions: of the P predictions, in the flattened rows.
    targets: the token to predict at each position.
    weights: 1 for each position, 0 for padding.
  """

  tokens: Int32[np.ndarray, "B L"]
  segments: Int32[np.ndarray, "B L"]
  distances: Int32[np.ndarray, "B L"]
  positions: Int32[np.ndarray, " P"]
  targets: Int32[np.ndarray, " P"]
  weights: Float32[np.ndarray, " P"]


def pack(
  examples: Iterable[Example], *, rows: int, length: int
) -> Iterator[Batch]:
  """Yields batches of histories, in order.

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
    columns = slice(used, used + len(tokens))
    # Tokens, segments, distances, targets.
    batch[0][row, columns] = tokens
    batch[1][row, columns] = segment
    batch[2][row, columns] = np.arange(len(tokens))[::-1]
    batch[3][row, columns] = targets
    used += len(tokens)
  if used:
    yield _finish(*batch)


def left_padded(
  histories: Sequence[np.ndarray], *, rows: int, length: int
) -> Int32[np.ndarray, "B L"]:
  """Returns one history a row, its last tokens at the row's end.

  Args:
    histories: tokens, at most `rows` of them; long ones are truncated on the
      left.
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
  positions = np.flatnonzero(targets).astype(np.int32)
  padding = (0, -len(positions) % _ROUND)
  return Batch(
    tokens,
    segments,
    distances,
    positions=np.pad(positions, padding),
    targets=np.pad(targets.reshape(-1)[positions], padding, constant_values=1),
    weights=np.pad(np.ones(len(positions), np.float32), padding),
  )
