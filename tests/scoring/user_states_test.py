"""Tests for instructrec_jax/scoring/user_states.py."""

import dataclasses

import jax
import numpy as np
import pytest

from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.user_states import UserStates

LARGE = 1 << 20
TITLES = ("tent", "green tent", "kayak", "paddle rope", "pump", "saddle")


@pytest.fixture(scope="module")
def model(config, params, vocabulary):
  return {"config": config, "params": params, "vocabulary": vocabulary}


@pytest.fixture(scope="module")
def plain(model):
  return T5Ranker(**model)


@pytest.fixture(scope="module")
def requests(requests):
  return requests[:12]


@pytest.fixture(scope="module")
def others(requests):
  """The same instructions with other candidates."""
  return [
    dataclasses.replace(request, candidates=TITLES[number % 5 :])
    for number, request in enumerate(requests)
  ]


def assert_equal(found, expected):
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_known_instructions_are_not_encoded_and_score_the_same(
  model, plain, requests, others, monkeypatch
):
  states = UserStates(LARGE)
  ranker = T5Ranker(**model, user_states=states)
  assert_equal(ranker.score(requests), plain.score(requests))
  assert (states.hits, states.misses) == (0, len(requests))
  with monkeypatch.context() as patched:
    patched.setattr(ranker, "_encode", None)
    assert_equal(ranker.score(others), plain.score(others))
    assert states.hits == len(requests)
    # Alone, and in another order.
    for request in others[:3]:
      assert_equal(ranker.score([request]), plain.score([request]))
    assert_equal(ranker.score(others[::-1]), plain.score(others[::-1]))


def test_known_and_new_instructions_are_scored_together(
  model, plain, requests, others
):
  states = UserStates(LARGE)
  ranker = T5Ranker(**model, user_states=states)
  ranker.score(requests[::2])
  assert_equal(ranker.score(others), plain.score(others))
  assert (states.hits, states.misses) == (len(others) // 2, len(others))


def test_the_last_used_are_kept_within_the_limit():
  """Instructions of 4, 2 and 1 tokens; the last is asked for each time."""
  states, rng = UserStates(4 * 3 * 16), np.random.default_rng(0)
  lengths = np.array([[4, 2, 0], [1, 0, 0]])
  for number in range(6):
    tokens = np.full((2, 8), 10 + number, np.int32)
    tokens[1] = 9
    encoded = rng.normal(size=(2, 8, 3)).astype(np.float32)
    encoded[1] = 7
    assert states.find(tokens, lengths) is None
    states.keep(tokens, lengths, encoded)
    found = states.find(tokens, lengths)
    assert found is not None
    np.testing.assert_array_equal(found[0, :6], encoded[0, :6])
    assert (found[1, 0] == 7).all() and not found[1, 1:].any()
    # Two rounds take 13 tokens, a third one's 4 would be too many.
    kept = [np.full(2, 10 + n, np.int32) in states for n in range(number + 1)]
    assert kept == [n > number - 3 for n in range(number + 1)]
    assert np.full(1, 9, np.int32) in states
    assert states.num_bytes <= states.limit
  assert (states.hits, states.misses) == (3 * 6, 3 * 6)


def test_what_never_fits_drops_no_other():
  states = UserStates(4 * 3 * 4)
  for length in (3, 5):
    tokens = np.full((1, 8), length, np.int32)
    states.keep(tokens, np.array([[length]]), np.ones((1, 8, 3), np.float32))
  assert np.full(3, 3, np.int32) in states
  assert np.full(5, 5, np.int32) not in states


def test_nothing_is_kept_where_nothing_fits(model, plain, requests):
  states = UserStates(1)
  ranker = T5Ranker(**model, user_states=states)
  for _ in range(2):
    assert_equal(ranker.score(requests), plain.score(requests))
  assert (states.hits, states.misses) == (0, 24) and not states.num_bytes


def test_states_of_other_parameters_are_not_used(model, requests):
  ranker = T5Ranker(**model, user_states=UserStates(LARGE))
  ranker.score(requests)
  params = jax.tree.map(lambda leaf: leaf * 1.5, model["params"])
  ranker.set_params(params)
  other = T5Ranker(**{**model, "params": params})
  assert_equal(ranker.score(requests), other.score(requests))


def test_search_and_ranker_share_states(model, plain, requests, monkeypatch):
  states = UserStates(LARGE)
  ranker = T5Ranker(**model, user_states=states)
  search = CatalogueSearch(TITLES, **model, batch=4, user_states=states)
  searched = CatalogueSearch(TITLES, **model, batch=4)
  texts = [request.instruction for request in requests]
  found, expected = search.top(texts[:6], 3), searched.top(texts[:6], 3)
  assert (states.hits, states.misses) == (0, 6)
  monkeypatch.setattr(search, "_encode", None)
  for again in (found, search.top(texts[:6], 3)):
    for one, other in zip(again, expected, strict=True):
      assert one.titles == other.titles
      np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
  whole = [RankingRequest(text, text, TITLES) for text in texts]
  assert_equal(ranker.score(whole), plain.score(whole))
  assert (states.hits, states.misses) == (12, 12)
  (one,), (other,) = search.top(texts[8:9], 3), searched.top(texts[8:9], 3)
  assert one.titles == other.titles


def test_states_are_split_over_data_devices(
  all_devices, model, plain, requests
):
  from instructrec_jax import mesh as mesh_lib

  states = UserStates(LARGE)
  mesh = mesh_lib.make_mesh("2x2", devices=jax.devices()[:4])
  ranker = T5Ranker(**model, mesh=mesh, user_states=states)
  for _ in range(2):
    assert_equal(ranker.score(requests), plain.score(requests))
  assert states.hits == len(requests)
