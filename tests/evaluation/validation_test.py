"""Tests for instructrec_jax/evaluation/validation.py."""

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import validation
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import write_requests


class LongestWins:
  """A ranker whose scores are the lengths of candidates."""

  made = 0

  def __init__(self, *, config, params, **others):
    type(self).made += 1
    self.set_params(params)

  def set_params(self, params):
    self.sign = params

  def drop_params(self):
    self.sign = None

  def score(self, requests):
    return [
      self.sign * np.array([len(text) for text in request.candidates])
      for request in requests
    ]


def requests_file(folder, *, target):
  path = folder / "requests.parquet"
  write_requests(
    path,
    [
      RankingRequest(
        request_id=str(number),
        instruction="pick",
        candidates=("a", "bbb"),
        target=target,
      )
      for number in range(10)
    ],
  )
  return path


def test_metrics_are_those_of_the_current_parameters(tmp_path, monkeypatch):
  monkeypatch.setattr(validation, "T5Ranker", LongestWins)
  path = requests_file(tmp_path, target=1)
  validate = validation.make_validator(path, limit=4, vocabulary=None)
  assert validate(None, 1)["validation/hr@1"] == 1
  assert validate(None, -1)["validation/hr@1"] == 0
  # What one ranker has compiled serves all calls.
  assert LongestWins.made == 1


@pytest.mark.parametrize(
  ("numbers", "says"),
  [
    ({"limit": 0}, "validation limit is 0: at least 1"),
    ({"limit": 4, "seed": -1}, "seed is -1: at least 0"),
  ],
)
def test_numbers_out_of_range_are_refused(tmp_path, numbers, says):
  path = requests_file(tmp_path, target=1)
  with pytest.raises(InputError, match=says):
    validation.make_validator(path, vocabulary=None, **numbers)


def test_requests_without_target_are_refused(tmp_path):
  path = requests_file(tmp_path, target=None)
  with pytest.raises(InputError, match="needs a target"):
    validation.make_validator(path, limit=4, vocabulary=None)
