"""Tests for instructrec_jax/baselines/sequence_batches.py."""

import numpy as np

from instructrec_jax.baselines.sequence_batches import (
  Example,
  left_padded,
  pack,
)


def test_packing_loses_nothing_and_mixes_nothing():
  rng = np.random.default_rng(0)
  examples = [
    Example(rng.integers(1, 99, n), rng.integers(0, 99, n))
    for n in rng.integers(1, 9, 60)
  ]
  found = []
  for batch in pack(examples, rows=4, length=8):
    predicted = np.zeros(batch.tokens.size, np.int64)
    real = batch.weights == 1
    predicted[batch.positions[real]] = batch.targets[real]
    for segment in np.unique(batch.segments[batch.segments > 0]):
      inside = batch.segments == segment
      # In one row, and the distances count down to the end.
      assert inside.any(axis=1).sum() == 1
      count = inside.sum()
      assert batch.distances[inside].tolist() == [*range(count)][::-1]
      found.append((batch.tokens[inside], predicted[inside.reshape(-1)]))
    assert not batch.tokens[batch.segments == 0].any()
  assert len(found) == len(examples)
  for (tokens, targets), example in zip(found, examples, strict=True):
    np.testing.assert_array_equal(tokens, example.tokens)
    np.testing.assert_array_equal(targets, example.targets)


def test_histories_are_padded_on_their_left():
  rows = left_padded([np.array([5]), np.array([1, 2, 3, 4])], rows=3, length=3)
  assert rows.tolist() == [[0, 0, 5], [2, 3, 4], [0, 0, 0]]
