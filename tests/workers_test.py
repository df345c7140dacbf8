"""Tests for instructrec_jax/workers.py."""

import pytest

from instructrec_jax import workers


def test_work_ahead_is_in_order_and_no_more_than_one_ahead():
  made = []

  def numbers():
    for number in range(5):
      made.append(number)
      yield number

  seen = []
  for number in workers.ahead(numbers()):
    seen.append(number)
    assert len(made) <= len(seen) + 1
  assert seen == made == list(range(5))


def test_an_error_comes_where_its_item_would():
  def numbers():
    yield 1
    raise ValueError("two")

  iterator = workers.ahead(numbers())
  assert next(iterator) == 1
  with pytest.raises(ValueError, match="two"):
    next(iterator)


def test_there_is_a_core():
  assert workers.cores() >= 1
