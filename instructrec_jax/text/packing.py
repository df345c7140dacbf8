"""Greedy bin packing of examples into rows, within a window.

An example has two lengths and must fit a row in both. A row takes the example
that comes nearest to filling its free space, until none fits: the norm-based
greedy of Panigrahy et al., "Heuristics for vector bin packing" (2011).
benchmarks/input_pipeline.py compares it with SeqIO's packing.
"""

from collections.abc import Sequence

import numpy as np


def pack_lengths(
  encoder_lengths: Sequence[int],
  decoder_lengths: Sequence[int],
  *,
  encoder_length: int,
  decoder_length: int,
) -> list[list[int]]:
  """Packs one window of examples.

  Takes the tokens of each example's input and target, and a row's capacity for
  each. Returns rows of indices into the lengths, every index once.

  Raises:
    ValueError: an example is longer than a row.
  """
  capacity = np.array([encoder_length, decoder_length])
  lengths = np.array([encoder_lengths, decoder_lengths], int).T
  if (lengths > capacity).any():
    raise ValueError("an example is longer than a row")
  # Examples of equal lengths are interchangeable.
  shapes, shape_of = np.unique(lengths, axis=0, return_inverse=True)
  waiting: list[list[int]] = [[] for _ in shapes]
  for example in reversed(range(len(lengths))):
    waiting[shape_of[example]].append(example)
  fractions = shapes / capacity
  left = np.arange(len(shapes))
  rows: list[list[int]] = []
  while len(left):
    row, used, fitting = [], np.zeros(2, int), left
    while len(fitting):
      free = 1 - used / capacity
      nearest = fitting[((free - fractions[fitting]) ** 2).sum(1).argmin()]
      row.append(waiting[nearest].pop())
      if not waiting[nearest]:
        left, fitting = left[left != nearest], fitting[fitting != nearest]
      used += shapes[nearest]
      fitting = fitting[(used + shapes[fitting] <= capacity).all(1)]
    rows.append(row)
  return rows
