"""Tests for instructrec_jax/scoring/packing.py."""

import dataclasses

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import packing


def test_a_batch_holds_every_token_in_its_segment(requests, vocabulary):
  tokenized = packing.tokenize(requests[:5], vocabulary)
  batch = packing.to_batch(tokenized, rows=8, shape=(256, 256))
  for row, request in enumerate(tokenized):
    segments = batch["decoder_segment_ids"][row]
    for number, candidate in enumerate(request.candidates, start=1):
      mine = segments == number
      assert batch["decoder_target_tokens"][row][mine].tolist() == candidate
      shifted = batch["decoder_input_tokens"][row][mine].tolist()
      assert shifted == [0, *candidate[:-1]]
      assert candidate[-1] == 1
  assert not batch["encoder_input_tokens"][5:].any()


def test_every_stream_has_at_most_eight_shapes(requests, vocabulary):
  tokenized = packing.tokenize(requests, vocabulary)
  rng = np.random.default_rng(0)
  many = [
    dataclasses.replace(
      tokenized[0],
      instruction=[5] * int(rng.integers(1, 700)),
      width=int(rng.integers(1, 1500)),
    )
    for _ in range(30_000)
  ]
  shapes = packing.plan_shapes(many)
  assert len(shapes) <= packing.MAX_SHAPES
  assert len(packing.plan_shapes(many[:100])) <= packing.MAX_SHAPES
  for request in many[:2000]:
    length, width = packing.choose_shape(request, shapes)
    assert len(request.instruction) <= length
    assert request.width <= width


def test_a_short_homogeneous_stream_needs_one_shape(requests, vocabulary):
  tokenized = packing.tokenize(requests, vocabulary)
  shapes = packing.plan_shapes(tokenized)
  assert len({packing.choose_shape(r, shapes) for r in tokenized}) == 1


def test_a_request_beyond_all_shapes_is_named(vocabulary):
  request = RankingRequest(
    request_id="r7", instruction="tent " * 9000, candidates=("tent",)
  )
  with pytest.raises(InputError, match="request r7: 9001 tokens"):
    packing.tokenize([request], vocabulary)
