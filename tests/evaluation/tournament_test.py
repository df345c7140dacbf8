"""Tests for instructrec_jax/evaluation/tournament.py."""

import collections
import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.permutations import PermutedRanker
from instructrec_jax.evaluation.tournament import TournamentRanker
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.records import RankingRequest

TITLES = tuple(f"Title {number:02d}" for number in range(100))


class WorthRanker:
  """Scores items by a table; notes the prompts it is given."""

  name = "worth"

  def __init__(self, worth):
    self.worth = np.asarray(worth, np.float32)
    self.calls = []

  def score(self, requests):
    self.calls.append(list(requests))
    return [self.worth[list(r.candidate_items)] for r in requests]


def hundred(request_id="r1", *, target=0, shown=10, count=100):
  return RankingRequest(
    request_id=request_id,
    instruction=f"One of {SEPARATOR.join(TITLES[:shown])}. Which?",
    candidates=TITLES[:count],
    target=target,
    candidate_items=tuple(range(count)),
  )


def test_ten_groups_of_ten_then_a_final_each_with_its_own_prompt():
  ranker = WorthRanker(np.arange(100))
  TournamentRanker(ranker).score([hundred()])
  groups, (final,) = ranker.calls
  assert [len(group.candidates) for group in groups] == [10] * 10
  seen = [title for group in groups for title in group.candidates]
  assert sorted(seen) == sorted(TITLES) and seen != list(TITLES)
  for game in (*groups, final):
    listed = SEPARATOR.join(game.candidates)
    assert game.instruction == f"One of {listed}. Which?"
  # The larger number wins.
  assert final.candidates == tuple(max(group.candidates) for group in groups)


def test_finalists_by_their_final_scores_and_all_others_tied_below():
  worth = np.random.default_rng(0).permutation(100)
  ranker = WorthRanker(worth)
  (scores,) = TournamentRanker(ranker).score([hundred()])
  finalists = list(ranker.calls[1][0].candidate_items)
  np.testing.assert_array_equal(scores[finalists], worth[finalists])
  others = np.delete(scores, finalists)
  assert len(others) == 90 and len(set(others)) == 1
  assert np.isfinite(others).all() and others[0] < scores[finalists].min()


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 99), st.integers(0, 2**32))
def test_metrics_are_the_papers_at_every_k_to_ten(target, seed):
  rng = np.random.default_rng(seed)
  ranker = WorthRanker(rng.permutation(100))
  scores = TournamentRanker(ranker, seed=seed).score([hundred()])
  metrics = ranking_metrics(scores, [target])
  finalists = ranker.calls[1][0].candidate_items
  if target not in finalists:
    assert all(
      value == 0 for name, (value,) in metrics.items() if name != "mrr"
    )
  else:
    rank = 1 + sum(
      ranker.worth[item] > ranker.worth[target] for item in finalists
    )
    for k in (1, 3, 5, 10):
      assert metrics[f"hr@{k}"] == (rank <= k)
      assert metrics[f"ndcg@{k}"] == pytest.approx(
        (rank <= k) / np.log2(1 + rank)
      )


def test_the_best_of_all_is_always_first():
  requests = [hundred(f"r{number}") for number in range(20)]
  scores = TournamentRanker(WorthRanker(np.arange(100))).score(requests)
  assert all(of_request.argmax() == 99 for of_request in scores)
  # With one total order, HR@10 is the chance of meeting none of one's betters.
  eleventh = [of_request[89] > of_request.min() for of_request in scores]
  assert 0 < np.mean(eleventh) < 1


def test_neighbours_in_the_batch_do_not_matter():
  first, other = hundred("r1"), hundred("r2")
  ranker = TournamentRanker(WorthRanker(np.arange(100)), seed=3)
  alone = ranker.score([first])[0]
  batch = ranker.score([other, first])
  np.testing.assert_array_equal(batch[1], alone)
  assert (batch[0] != alone).any()
  reseeded = TournamentRanker(WorthRanker(np.arange(100)), seed=4)
  assert (reseeded.score([first])[0] != alone).any()


def test_a_tied_group_is_won_by_anybody():
  requests = [hundred(f"r{number}") for number in range(300)]
  ranker = WorthRanker(np.zeros(100))
  scores = np.stack(TournamentRanker(ranker).score(requests))
  assert (np.sum(scores == 0, axis=1) == 10).all()
  groups, finals = ranker.calls
  places = collections.Counter(
    group.candidate_items.index(winner)
    for number, final in enumerate(finals)
    for group, winner in zip(
      groups[10 * number : 10 * number + 10],
      final.candidate_items,
      strict=True,
    )
  )
  assert len(places) == 10
  assert max(places.values()) < 1.3 * min(places.values())
  hits = ranking_metrics(list(scores), [0] * 300)
  assert hits["hr@10"].mean() == pytest.approx(0.1, abs=0.06)


def test_a_prompt_that_lists_all_hundred_serves_as_well():
  scores = [
    TournamentRanker(WorthRanker(np.arange(100))).score([request])[0]
    for request in (hundred(), hundred(shown=100))
  ]
  np.testing.assert_array_equal(*scores)


def test_few_candidates_are_all_in_the_final():
  ranker = WorthRanker(np.arange(100))
  (scores,) = TournamentRanker(ranker).score([hundred(count=10)])
  np.testing.assert_array_equal(scores, np.arange(10))
  assert ranker.calls[-1] == [hundred(count=10)]


def test_uneven_numbers_make_nearly_equal_groups():
  ranker = WorthRanker(np.arange(100))
  (scores,) = TournamentRanker(ranker).score([hundred(count=35)])
  sizes = [len(group.candidates) for group in ranker.calls[0]]
  assert sorted(sizes) == [8, 9, 9, 9]
  assert np.sum(scores == scores.min()) == 31


def test_permutations_go_inside_the_tournament():
  inner = PermutedRanker(WorthRanker(np.arange(100)), permutations=3)
  ranker = TournamentRanker(inner)
  np.testing.assert_array_equal(
    ranker.score([hundred()])[0],
    TournamentRanker(WorthRanker(np.arange(100))).score([hundred()])[0],
  )
  assert ranker.name == "worth, 3 orders, tournament"


def test_what_cannot_be_a_tournament_is_refused():
  ranker = TournamentRanker(WorthRanker(np.arange(100)))
  bare = dataclasses.replace(hundred(), instruction="What next?")
  with pytest.raises(InputError, match="r1: its instruction lists neither"):
    ranker.score([bare])
  with pytest.raises(InputError, match="100 candidates are more than 9 groups"):
    TournamentRanker(WorthRanker(np.arange(100)), group_size=9).score(
      [hundred(shown=9)]
    )
  with pytest.raises(InputError, match="r1: a score is not finite"):
    TournamentRanker(WorthRanker(np.full(100, np.nan))).score([hundred()])
  with pytest.raises(InputError, match="at least 2"):
    TournamentRanker(WorthRanker([]), group_size=1)
