"""Tests for instructrec_jax/evaluation/labels.py."""

import dataclasses

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.labels import LabelRanker, lettered
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker

REQUEST = RankingRequest(
  request_id="r1",
  instruction="Choose one: tent; kayak; rope. Now.",
  candidates=("tent", "kayak", "rope"),
  target=1,
)


def test_candidates_are_lettered_where_they_are_listed():
  request = lettered(REQUEST)
  assert request.instruction == "Choose one: A: tent; B: kayak; C: rope. Now."
  assert request.candidates == ("A", "B", "C")
  assert request.target == 1


def test_scores_are_those_of_the_letters(tiny_model):
  ranker = T5Ranker.load(tiny_model)
  (values,) = LabelRanker(ranker).score([REQUEST])
  (expected,) = ranker.score([lettered(REQUEST)])
  np.testing.assert_array_equal(values, expected)
  (titles,) = ranker.score([REQUEST])
  assert not np.allclose(values, titles)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"instruction": "Choose one."}, "does not list its candidates"),
    ({"candidates": tuple(map(str, range(27)))}, "letters for 26"),
  ],
)
def test_what_cannot_be_lettered_is_refused(changed, message):
  with pytest.raises(InputError, match=f"request r1: .*{message}"):
    lettered(dataclasses.replace(REQUEST, **changed))
