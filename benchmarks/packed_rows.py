"""Examples in packed rows, as training takes them."""

import numpy as np

from instructrec_jax.text import features
from instructrec_jax.text.packing import pack_lengths

# Tokens of a row's instructions and of its answers.
LENGTHS = (512, 64)
Example = tuple[list[int], list[int]]
"""Ids of an instruction and of its answer."""


def pack(examples: list[Example]) -> list[list[int]]:
  """Returns which examples share a row."""
  return pack_lengths(
    [len(inputs) for inputs, _ in examples],
    [len(targets) for _, targets in examples],
    encoder_length=LENGTHS[0],
    decoder_length=LENGTHS[1],
  )


def to_batch(
  examples: list[Example], rows: list[list[int]], *, count: int
) -> dict[str, np.ndarray]:
  """Returns T5X's features of so many rows; those that are left are empty."""
  rows = rows + [[] for _ in range(count - len(rows))]
  arrays = []
  for side, length in enumerate(LENGTHS):
    tokens = [[i for n in row for i in examples[n][side]] for row in rows]
    segments = [
      [place for place, n in enumerate(row, 1) for _ in examples[n][side]]
      for row in rows
    ]
    arrays += [features.pad(tokens, length), features.pad(segments, length)]
  return features.expand_packed(*arrays)
