import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from instructrec_jax.text.packing import pack_lengths


@hypothesis.settings(deadline=None)
@hypothesis.given(
  st.lists(st.tuples(st.integers(1, 50), st.integers(1, 12)), max_size=80)
)
def test_every_example_has_one_place_in_which_it_fits(lengths):
  encoder_lengths = [a for a, _ in lengths]
  decoder_lengths = [b for _, b in lengths]
  rows = pack_lengths(
    encoder_lengths, decoder_lengths, encoder_length=50, decoder_length=12
  )
  assert sorted(sum(rows, [])) == list(range(len(lengths)))
  for row in rows:
    assert 0 < sum(encoder_lengths[i] for i in row) <= 50
    assert 0 < sum(decoder_lengths[i] for i in row) <= 12
  # Of any two rows, one could not have taken the other's examples whole.
  loads = [
    (sum(encoder_lengths[i] for i in row), sum(decoder_lengths[i] for i in row))
    for row in rows
  ]
  for a, first in enumerate(loads):
    for second in loads[:a]:
      assert first[0] + second[0] > 50 or first[1] + second[1] > 12


def test_targets_limit_a_row_too():
  assert (
    len(pack_lengths([1] * 6, [4] * 6, encoder_length=9, decoder_length=8)) == 3
  )


def test_rows_of_instructions_are_full():
  # Lengths as games_2018 has them: inputs of 182 tokens on average.
  rng = np.random.default_rng(0)
  inputs = np.clip(rng.gamma(2.6, 70, 8192), 30, 512).astype(int).tolist()
  targets = np.clip(rng.gamma(3.0, 2.3, 8192), 2, 64).astype(int).tolist()
  rows = pack_lengths(inputs, targets, encoder_length=512, decoder_length=64)
  assert sum(inputs) / len(rows) / 512 > 0.95


def test_rows_are_full_where_inputs_and_targets_are_scarce_alike():
  rng = np.random.default_rng(0)
  inputs = np.clip(rng.gamma(1.5, 100, 4096), 20, 512).astype(int)
  # Some answers are as long as can be: texts, where others are titles.
  targets = np.where(rng.random(4096) < 0.1, 55, rng.integers(2, 25, 4096))
  rows = pack_lengths(inputs, targets, encoder_length=512, decoder_length=64)
  bound = max(inputs.sum() / 512, targets.sum() / 64)
  assert len(rows) < 1.15 * bound


def test_too_long_an_example_is_an_error():
  with pytest.raises(ValueError, match="longer than a row"):
    pack_lengths([9], [1], encoder_length=8, decoder_length=8)
  with pytest.raises(ValueError, match="longer than a row"):
    pack_lengths([1], [9], encoder_length=8, decoder_length=8)


def test_nothing_makes_no_rows():
  assert pack_lengths([], [], encoder_length=8, decoder_length=8) == []
