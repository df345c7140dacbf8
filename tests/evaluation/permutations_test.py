"""Tests for instructrec_jax/evaluation/permutations.py."""

import dataclasses
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.permutations import (
  PermutedRanker,
  kendall_tau,
  listed_candidates,
  with_candidates,
)
from instructrec_jax.instructions.render import SEPARATOR, Slots, render
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import RankingRequest

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
  few, more = (
    PermutedRanker(ReadingRanker(bias=7.0), permutations=k).score_orders(
      [ask(TITLES)]
    )[0]
    for k in (2, 5)
  )
  np.testing.assert_array_equal(more[:2], few)


def test_requests_that_list_nothing_are_scored_once():
  reader = ReadingRanker()
  bare = dataclasses.replace(
    ask(TITLES), instruction="Go! Chess Doom II Zelda Who, me? Mario Bros."
  )
  scores = PermutedRanker(reader, permutations=3).score_orders(
    [bare, ask(TITLES[:2])]
  )
  assert [len(requests) for requests in reader.read] == [2, 1, 1]
  assert [orders.shape for orders in scores] == [(1, 6), (3, 2)]


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


def test_kendall_tau_by_hand():
  up, down, swapped = [1, 2, 3], [3, 2, 1], [2, 1, 3]
  assert kendall_tau([np.array([up, up])]) == pytest.approx(1)
  assert kendall_tau([np.array([up, down])]) == pytest.approx(-1)
  assert kendall_tau([np.array([up, swapped])]) == pytest.approx(1 / 3)
  # Pairs of orders: 1, -1, -1; then the mean over requests.
  assert kendall_tau(
    [np.array([up, up, down]), np.array([up, up])]
  ) == pytest.approx((-1 / 3 + 1) / 2)
  # Tau-b of [1, 1, 2]: 2 concordant of sqrt(2 * 3) pairs.
  assert kendall_tau([np.array([[1, 1, 2], up])]) == pytest.approx(
    2 / math.sqrt(6)
  )


def test_kendall_tau_leaves_out_what_cannot_be_compared():
  tied, up = [0, 0, 0], [1, 2, 3]
  assert math.isnan(kendall_tau([np.array([tied, up]), np.array([up])]))
  assert kendall_tau([np.array([tied, up, up])]) == pytest.approx(1)


def test_no_order_at_all_is_refused():
  with pytest.raises(InputError, match="at least 1"):
    PermutedRanker(ReadingRanker(), permutations=0)
