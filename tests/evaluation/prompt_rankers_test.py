"""Tests for instructrec_jax/evaluation/prompt_rankers.py."""

import collections
import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.prompt_rankers import (
  LabelRanker,
  PermutedRanker,
  SharedScores,
  TournamentRanker,
  lettered,
  listed_candidates,
  with_candidates,
)
from instructrec_jax.instructions.render import SEPARATOR, Slots, render
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker

from .conftest import FakeModel

TITLES = ("Mario Bros.", "Who, me?", "Zelda", "Doom II", "Go!", "Chess")


class ReadingRanker:
  """Scores what the prompt says: a title's worth, and a bias of its place."""

  name = "reader"

  def __init__(self, bias=0.0):
    self.bias = bias
    self.read = []

  def score(self, requests):
    self.read.append(list(requests))
    return [np.array(self._score(request)) for request in requests]

  def _score(self, request):
    prompt = request.instruction
    places = {
      title: place
      for place, title in enumerate(
        sorted(set(request.candidates), key=prompt.index)
      )
    }
    return [
      sum(map(ord, t)) + self.bias * places[t] for t in request.candidates
    ]


def ask(titles, *, request_id="r1", before="Choose: ", after=". Which one?"):
  if titles[-1][-1] in ".!?":
    after = after.removeprefix(".")  # as `render` does
  return RankingRequest(
    request_id=request_id,
    instruction=before + SEPARATOR.join(titles) + after,
    candidates=tuple(titles),
    target=1,
    candidate_items=tuple(TITLES.index(title) for title in titles),
  )


def test_one_order_is_the_ranker_itself():
  requests = [ask(TITLES), ask(TITLES[:2])]
  ranker = PermutedRanker(ReadingRanker(bias=3.0), permutations=1)
  for got, plain in zip(
    ranker.score(requests), ReadingRanker(3.0).score(requests), strict=True
  ):
    np.testing.assert_array_equal(got, plain)
  assert ranker.name == "reader"


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  st.permutations(TITLES), st.integers(2, 6), st.integers(0, 2**40)
)
def test_orders_do_not_matter_to_a_ranker_that_ignores_them(
  titles, count, seed
):
  requests = [ask(titles[:count])]
  permuted = PermutedRanker(ReadingRanker(), permutations=4, seed=seed)
  np.testing.assert_array_equal(
    permuted.score(requests), ReadingRanker().score(requests)
  )


def test_the_first_order_is_stored_and_each_prompt_lists_its_candidates():
  reader = ReadingRanker()
  PermutedRanker(reader, permutations=5).score([ask(TITLES)])
  seen = [requests[0] for requests in reader.read]
  assert seen[0] == ask(TITLES)
  assert len({request.candidates for request in seen}) > 1
  for request in seen:
    assert request == dataclasses.replace(
      ask(request.candidates), target=request.candidates.index(TITLES[1])
    )


def test_averaging_removes_the_bias_of_places():
  one, many = (
    PermutedRanker(ReadingRanker(bias=60.0), permutations=k) for k in (1, 400)
  )
  worth = np.array([sum(map(ord, title)) for title in TITLES])

  def error(ranker):
    off = ranker.score([ask(TITLES)])[0] - worth
    return np.abs(off - off.mean()).max()

  assert error(one) == 150
  assert error(many) < 20


def test_scores_do_not_depend_on_the_batch():
  first, other = ask(TITLES), ask(TITLES[:3], request_id="r2")
  ranker = PermutedRanker(ReadingRanker(bias=7.0), permutations=3, seed=1)
  alone = ranker.score([first])[0]
  np.testing.assert_array_equal(ranker.score([other, first])[1], alone)
  again = PermutedRanker(ReadingRanker(bias=7.0), permutations=3, seed=2)
  assert (again.score([first])[0] != alone).any()


def test_each_request_has_orders_of_its_own():
  reader = ReadingRanker()
  requests = [ask(TITLES, request_id=f"r{number}") for number in range(5)]
  PermutedRanker(reader, permutations=2).score(requests)
  assert len({request.candidates for request in reader.read[1]}) > 1


def test_more_permutations_begin_with_the_same_orders():
  few, more = ReadingRanker(), ReadingRanker()
  PermutedRanker(few, permutations=2).score([ask(TITLES)])
  PermutedRanker(more, permutations=5).score([ask(TITLES)])
  assert len(more.read) == 5 and more.read[:2] == few.read


def test_requests_that_list_nothing_are_scored_once():
  reader = ReadingRanker()
  bare = dataclasses.replace(
    ask(TITLES), instruction="Go! Chess Doom II Zelda Who, me? Mario Bros."
  )
  PermutedRanker(reader, permutations=3).score([bare, ask(TITLES[:2])])
  assert [len(requests) for requests in reader.read] == [2, 1, 1]
  assert reader.read[0][0] == bare


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  st.permutations(TITLES),
  st.permutations(range(len(TITLES))),
  st.sampled_from([". Which one?", ".", "; choose.", ", or none?"]),
)
def test_reordering_and_back_restores_the_request(titles, order, after):
  request = ask(titles, after=after)
  moved = with_candidates(request, np.array(order))
  assert moved.instruction == ask(moved.candidates, after=after).instruction
  assert moved.candidates[moved.target] == request.candidates[request.target]
  assert with_candidates(moved, np.argsort(order)) == request


def test_reordering_equals_rendering_anew_for_every_template_of_ours():
  forms = [
    form
    for template in load_templates()
    for form in template.forms
    if "candidates" in form.slots
  ]
  assert len(forms) > 5
  words = Slots(history=("Uno",), preference="They play.", query="a gift")

  def filled(form, titles):
    slots = dataclasses.replace(words, candidates=titles)
    text = render(form, slots, count_tokens=len, budget=10_000).text
    return dataclasses.replace(ask(titles), instruction=text)

  for form in forms:
    for order in (range(6), [5, 4, 3, 2, 1, 0], [2, 3, 0, 4, 5, 1]):
      moved = with_candidates(filled(form, TITLES), np.array(order))
      anew = filled(form, moved.candidates)
      assert moved.instruction == anew.instruction, form.name
      back = with_candidates(moved, np.argsort(order))
      assert back.instruction == filled(form, TITLES).instruction, form.name


def test_a_part_of_the_candidates_may_lack_the_target():
  part = with_candidates(ask(TITLES), np.array([4, 2]))
  assert part.instruction == "Choose: Go!; Zelda. Which one?"
  assert (part.candidates, part.target) == (("Go!", "Zelda"), None)
  assert part.candidate_items == (4, 2)


def test_which_candidates_an_instruction_lists():
  request = ask(TITLES)
  shown = dataclasses.replace(request, instruction=ask(TITLES[:2]).instruction)
  assert listed_candidates(request) == 6
  assert listed_candidates(shown) == 0
  assert listed_candidates(shown, first=2) == 2
  # It goes on with the next one, so two are not all that it lists.
  more = dataclasses.replace(request, instruction=ask(TITLES[:4]).instruction)
  assert listed_candidates(more, first=2) == 0
  twice = dataclasses.replace(request, instruction=request.instruction * 2)
  assert listed_candidates(twice) == 0


def test_no_order_at_all_is_refused():
  with pytest.raises(InputError, match="at least 1"):
    PermutedRanker(ReadingRanker(), permutations=0)


HUNDRED = tuple(f"Title {number:02d}" for number in range(100))


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
    instruction=f"One of {SEPARATOR.join(HUNDRED[:shown])}. Which?",
    candidates=HUNDRED[:count],
    target=target,
    candidate_items=tuple(range(count)),
  )


def test_ten_groups_of_ten_then_a_final_each_with_its_own_prompt():
  ranker = WorthRanker(np.arange(100))
  TournamentRanker(ranker).score([hundred()])
  groups, (final,) = ranker.calls
  assert [len(group.candidates) for group in groups] == [10] * 10
  seen = [title for group in groups for title in group.candidates]
  assert sorted(seen) == sorted(HUNDRED) and seen != list(HUNDRED)
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


def test_shared_scores_are_those_of_the_model_and_forgotten_after_a_round():
  model = FakeModel(lambda r, name: name == "sum")
  shared = SharedScores(model, ("sum", "mean"))
  by_sum, by_mean = shared.ranker("sum"), shared.ranker("mean")
  requests = [
    RankingRequest(str(n), "Rank.", ("a", "b", "c"), target=n % 3)
    for n in range(5)
  ]
  for _ in range(2):
    model.seen.clear()
    for ranker, name in ((by_sum, "sum"), (by_mean, "mean")):
      expected = FakeModel(lambda r, name: name == "sum").score_all(
        requests, [name]
      )[name]
      # In parts, as wrappers ask.
      found = ranker.score(requests[:2]) + ranker.score(requests[1:])[1:]
      assert np.array_equal(found, expected)
    assert len(model.seen) == 5
