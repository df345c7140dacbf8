"""Tests for instructrec_jax/scoring/packing.py."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import packing
from instructrec_jax.scoring.packing import Shape


def tokenized(instruction, *candidates):
  """A request of these lengths."""
  return packing.TokenizedRequest(
    index=0,
    instruction=[5] * instruction,
    candidates=[(5,) * length for length in candidates],
    places=[[number] for number in range(len(candidates))],
    width=sum(candidates),
  )


def draw(count, *, instruction, candidates, seed=0):
  """Requests of random lengths up to these."""
  rng = np.random.default_rng(seed)
  return [
    tokenized(
      int(rng.integers(instruction // 2, instruction)),
      *rng.integers(5, 24, candidates).tolist(),
    )
    for _ in range(count)
  ]


def padding(requests, shapes):
  used = sum(len(r.instruction) + r.width for r in requests)
  return 1 - used / sum(
    packing.choose_shape(r, shapes).tokens for r in requests
  )


@pytest.mark.parametrize("shape", [Shape(256, 1, 256), Shape(256, 4, 64)])
def test_a_batch_holds_every_token_in_its_segment(requests, vocabulary, shape):
  pieces = packing.tokenize(requests[:5], vocabulary)
  batch = packing.to_batch(pieces, size=8, shape=shape)
  arrays = batch.features
  for place, (request, rows) in enumerate(zip(pieces, batch.rows, strict=True)):
    for row, members in enumerate(rows):
      segments = arrays["decoder_segment_ids"][place, row]
      for segment, number in enumerate(members, start=1):
        mine = segments == segment
        ids = list(request.candidates[number])
        assert arrays["decoder_target_tokens"][place, row][mine].tolist() == ids
        shifted = arrays["decoder_input_tokens"][place, row][mine].tolist()
        assert shifted == [0, *ids[:-1]]
        assert ids[-1] == 1
    assert sorted(sum(rows, [])) == list(range(len(request.candidates)))
  assert not arrays["encoder_input_tokens"][5:].any()
  assert not arrays["decoder_target_tokens"][5:].any()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_rows_hold_each_candidate_once(lengths):
  rows = packing.pack_rows([(5,) * length for length in lengths], 40)
  assert sorted(sum(rows, [])) == list(range(len(lengths)))
  assert all(sum(lengths[n] for n in row) <= 40 for row in rows)
  # Two rows that are both at most half full would have been one.
  assert sum(sum(lengths[n] for n in row) <= 20 for row in rows) <= 1


def test_repeated_candidates_are_kept_once(vocabulary):
  request = RankingRequest(
    request_id="a", instruction="tent", candidates=("rope", "tent", "rope")
  )
  (piece,) = packing.tokenize([request], vocabulary)
  assert piece.places == [[0, 2], [1]]


def test_many_candidates_become_several_pieces(vocabulary):
  words = ("tent", "rope", "kayak", "pump", "stove", "helmet", "green")
  titles = tuple(map(" ".join, itertools.product(words, repeat=4)))
  request = RankingRequest(
    request_id="a", instruction="tent", candidates=titles
  )
  pieces = packing.tokenize([request], vocabulary)
  assert len(pieces) > 1
  assert {piece.index for piece in pieces} == {0}
  assert all(piece.width <= packing._PIECE for piece in pieces)
  places = sorted(sum((sum(p.places, []) for p in pieces), []))
  assert places == list(range(len(titles)))


def test_every_stream_has_at_most_eight_shapes():
  rng = np.random.default_rng(0)
  shapes = []
  for _ in range(12):
    chunk = [
      tokenized(
        int(rng.integers(1, 2 ** int(rng.integers(2, 12)))),
        *rng.integers(1, 400, int(rng.integers(1, 10))).tolist(),
      )
      for _ in range(300)
    ]
    planned = packing.plan_shapes(chunk, shapes=shapes)
    assert planned[: len(shapes)] == shapes
    shapes = planned
    assert all(packing.choose_shape(r, shapes).holds(r) for r in chunk)
  assert len(shapes) + len(packing._ROOMY) <= packing.MAX_SHAPES


def test_a_short_homogeneous_stream_needs_one_shape():
  users = draw(600, instruction=250, candidates=10)
  shapes = packing.plan_shapes(users)
  assert len(shapes) == 1
  later = draw(600, instruction=250, candidates=10, seed=1)
  assert packing.plan_shapes(later, shapes=shapes) == shapes


def test_one_long_request_does_not_pad_the_others():
  users = draw(600, instruction=250, candidates=10)
  expected = padding(users, packing.plan_shapes(users))
  for outlier in (tokenized(1000, 20), tokenized(100, *[20] * 150)):
    shapes = packing.plan_shapes([*users, outlier])
    assert len(shapes) == 2
    assert padding(users, shapes) < expected + 0.01


def test_requests_of_another_kind_get_their_own_shape():
  ten = packing.plan_shapes(draw(8000, instruction=400, candidates=10))
  assert len(ten) <= 4
  hundred = draw(600, instruction=250, candidates=100)
  both = packing.plan_shapes(hundred, shapes=ten)
  assert len(both) > len(ten)
  assert padding(hundred, both) < 0.3


def test_a_long_stream_is_little_padded():
  many = draw(8000, instruction=400, candidates=10)
  assert padding(many, packing.plan_shapes(many)) < 0.25


def test_a_request_of_one_kind_costs_no_new_shape():
  shapes = packing.plan_shapes(draw(600, instruction=250, candidates=10))
  one = [tokenized(20, 5)]
  assert packing.plan_shapes(one, shapes=shapes) == shapes


@pytest.mark.parametrize("field", ["instruction", "candidates"])
def test_a_request_beyond_all_shapes_is_named(vocabulary, field):
  request = RankingRequest(
    request_id="r7", instruction="tent", candidates=("tent",)
  )
  text = "tent " * 9000
  long = text if field == "instruction" else (text,)
  request = dataclasses.replace(request, **{field: long})
  with pytest.raises(InputError, match="request r7: .*9001"):
    packing.tokenize([request], vocabulary)
