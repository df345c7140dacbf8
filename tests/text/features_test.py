import chex
import numpy as np
import pytest

from instructrec_jax.text import features


def test_a_packed_row_by_hand():
  expanded = features.expand_packed(
    np.array([[7, 8, 1, 9, 1, 0]]),
    np.array([[1, 1, 1, 2, 2, 0]]),
    np.array([[4, 1, 5, 6, 1, 0]]),
    np.array([[1, 1, 2, 2, 2, 0]]),
  )
  expected = {
    "encoder_input_tokens": [[7, 8, 1, 9, 1, 0]],
    "encoder_segment_ids": [[1, 1, 1, 2, 2, 0]],
    "encoder_positions": [[0, 1, 2, 0, 1, 0]],
    "decoder_input_tokens": [[0, 4, 0, 5, 6, 0]],
    "decoder_target_tokens": [[4, 1, 5, 6, 1, 0]],
    "decoder_loss_weights": [[1, 1, 1, 1, 1, 0]],
    "decoder_segment_ids": [[1, 1, 2, 2, 2, 0]],
    "decoder_positions": [[0, 1, 0, 1, 2, 0]],
  }
  assert tuple(expanded) == features.FEATURES == tuple(expected)
  for name, values in expected.items():
    np.testing.assert_array_equal(expanded[name], values, name)
    weights = name == "decoder_loss_weights"
    assert expanded[name].dtype == (np.float32 if weights else np.int32)


def _seqio_features(examples, *, lengths, pack):
  """What SeqIO's converter makes of (inputs, targets), stacked by name."""
  seqio = pytest.importorskip("seqio")
  import tensorflow as tf

  spec = tf.TensorSpec([None], tf.int32)
  dataset = tf.data.Dataset.from_generator(
    lambda: ({"inputs": a, "targets": b} for a, b in examples),
    output_signature={"inputs": spec, "targets": spec},
  )
  converter = seqio.EncDecFeatureConverter(pack=pack)
  rows = list(converter(dataset, lengths).as_numpy_iterator())
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def examples():
  rng = np.random.default_rng(0)
  return [
    tuple(
      [*rng.integers(3, 99, rng.integers(0, longest)).tolist(), 1]
      for longest in (20, 6)
    )
    for _ in range(60)
  ]


LENGTHS = {"inputs": 32, "targets": 12}


def test_packed_rows_have_seqios_features(examples):
  theirs = _seqio_features(examples, lengths=LENGTHS, pack=True)
  ours = features.expand_packed(
    theirs["encoder_input_tokens"],
    theirs["encoder_segment_ids"],
    theirs["decoder_target_tokens"],
    theirs["decoder_segment_ids"],
  )
  assert theirs["encoder_segment_ids"].max() >= 3
  chex.assert_trees_all_equal(ours, theirs)


def test_padded_rows_have_seqios_features(examples):
  theirs = _seqio_features(examples, lengths=LENGTHS, pack=False)
  inputs = features.pad([a for a, _ in examples], LENGTHS["inputs"])
  targets = features.pad([b for _, b in examples], LENGTHS["targets"])
  ours = features.expand_packed(inputs, inputs > 0, targets, targets > 0)
  # Without segments, the first padding reads the end before it.
  ours["decoder_input_tokens"] = features.shift_right(
    targets, np.ones_like(targets)
  )
  # SeqIO leaves segments and positions to the model if nothing is packed.
  assert set(theirs) < set(ours)
  chex.assert_trees_all_equal({name: ours[name] for name in theirs}, theirs)


def test_a_cut_keeps_the_end():
  assert features.with_eos([5, 6], limit=3) == [5, 6, 1]
  assert features.with_eos([5, 6, 7], limit=3) == [5, 6, 1]
  assert features.with_eos([], limit=3) == [1]
