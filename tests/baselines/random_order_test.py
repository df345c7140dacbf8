"""Tests for instructrec_jax/baselines/random_order.py."""

from instructrec_jax.baselines.random_order import RandomRanker
from instructrec_jax.records import RankingRequest


def test_all_candidates_are_tied():
  requests = [RankingRequest("a", "", ("x", "y")), RankingRequest("b", "", ())]
  assert [s.tolist() for s in RandomRanker().score(requests)] == [[0, 0], []]
