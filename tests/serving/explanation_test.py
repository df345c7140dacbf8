"""Tests for instructrec_jax/serving/explanation.py."""

import copy
import itertools
import json
import math

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.serving import explanation
from instructrec_jax.serving.explanation import explain

TITLES = ("Red Kayak", "Long Rope", "Camp Stove")


class Keywords:
  """Likes a title 2 more for each of its words that an instruction has."""

  name = "keywords"

  def __init__(self):
    self.requests = []

  def score(self, requests):
    self.requests += requests
    return [
      np.array(
        [
          2.0 * sum(f"{word}" in _words(r.instruction) for word in t.split())
          for t in r.candidates
        ],
        np.float32,
      )
      for r in requests
    ]


def _words(instruction):
  # What is said, not the candidates that are listed behind it.
  return instruction.split(TITLES[0])[0]


def composed_of(recommender, words, **said):
  return recommender.compose(words, candidates=TITLES, **said)


def explained(composed, recommender, **options):
  ranker = Keywords()
  count = recommender.vocabulary.count_tokens
  return explain(composed, ranker, count_tokens=count, **options), ranker


def test_the_word_that_decides_weighs_what_it_decides(recommender):
  composed = composed_of(recommender, "please find me a Long one")
  found, _ = explained(composed, recommender)
  assert found.recommendation.ranking[0].title == "Long Rope"
  first, *others = found.weights
  assert (first.slot, first.text) == ("query", "Long")
  # Two nats beside two titles of 0, against three alike.
  assert math.isclose(first.weight, 2.0, rel_tol=1e-6)
  assert all(abs(each.weight) < 1e-6 for each in others)
  assert [each.text for each in others] == "please find me a one".split()


def test_what_speaks_for_another_title_weighs_against(recommender):
  composed = composed_of(recommender, "a Long Rope or a Camp thing, please")
  found, _ = explained(composed, recommender)
  weights = {each.text: each.weight for each in found.weights}
  assert weights["Long"] > 0 and weights["Rope"] > 0 and weights["Camp"] < 0
  heavy = [abs(each.weight) for each in found.weights]
  assert heavy == sorted(heavy, reverse=True)


def test_all_parts_are_of_one_template_and_one_call(recommender):
  composed = composed_of(
    recommender,
    "I like calm boats. I want a Rope for tonight",
    history=["Green Tent", "Long Pump"],
  )
  found, ranker = explained(composed, recommender, words=99)
  slots = {each.slot for each in found.weights}
  assert slots == {"query", "preference", "history"}
  texts = [each.text for each in found.weights if each.slot == "history"]
  assert sorted(texts) == ["Green Tent", "Long Pump"]
  full, *others = ranker.requests[: 1 + len(found.weights)]
  assert full.instruction == composed.instruction
  assert len(others) == len(found.weights)
  # A part is gone, nothing else: the literals of the template stay.
  for request in others:
    assert len(request.instruction) < len(full.instruction)
    assert all(s in request.instruction for s in composed.form.segments[2::2])


def test_long_instructions_are_left_out_in_stretches(recommender):
  words = " ".join(map("".join, itertools.product("scarytoned", repeat=2)))
  found, ranker = explained(
    composed_of(recommender, words, kind="vague"), recommender, words=99
  )
  # The parts, and those named together and others.
  assert 1 < len(ranker.requests) <= 3 + explanation.MAX_PARTS
  # None has weight here, so they stand in their order.
  assert " ".join(each.text for each in found.weights) == words


@pytest.mark.parametrize("words", ["Rope", ", Rope"])
def test_an_only_word_is_weighed_against_something(recommender, words):
  found, ranker = explained(composed_of(recommender, words), recommender)
  assert [each.text for each in found.weights] == ["Rope"]
  assert math.isclose(found.weights[0].weight, 2.0, rel_tol=1e-6)
  assert "something" in ranker.requests[1].instruction
  assert found.recommendation.ranking[0].title == "Long Rope"


def test_what_is_named_moves_more_than_what_is_not(recommender):
  words = "please find me a Long strong Rope for a boat"
  found, _ = explained(composed_of(recommender, words), recommender, words=2)
  assert {each.text for each in found.weights} == {"Long", "Rope"}
  # Both together, 4 nats; two others, nothing.
  assert math.isclose(found.deletion.named, 4.0, rel_tol=1e-6)
  assert abs(found.deletion.others) < 1e-6
  # Two words of which each would do weigh little alone, and all together.
  found, _ = explained(
    composed_of(recommender, "a Rope, such a Rope"), recommender
  )
  heaviest = max(each.weight for each in found.weights)
  assert heaviest < 1e-6 or found.deletion.named > heaviest


def test_the_catalogue_shows_the_word_that_found_a_kind(recommender):
  # Of two ropes, the word rope decides nothing; of all titles, it does.
  catalogue = [*TITLES, *(f"Blue thing {n}" for n in range(2000))]
  composed = composed_of(recommender, "a Rope, and Long")
  ropes = ("Long Rope", "Short Rope")
  alone, _ = explained(composed, recommender, titles=ropes)
  whole, ranker = explained(
    composed, recommender, titles=ropes, catalogue=catalogue
  )
  weights = [
    {each.text: each.weight for each in found.weights}
    for found in (alone, whole)
  ]
  assert abs(weights[0]["Rope,"]) < 1e-6
  assert weights[1]["Rope,"] > 1.5
  most = explanation.MAX_OTHERS + len(ropes)
  assert len(ranker.requests[0].candidates) <= most


def test_why_this_and_not_that(recommender):
  composed = composed_of(recommender, "a Long or a Camp thing for the boat")
  found, _ = explained(
    composed, recommender, title="Camp Stove", against="Long Rope"
  )
  weights = {each.text: each.weight for each in found.weights}
  assert (found.title, found.against) == ("Camp Stove", "Long Rope")
  assert math.isclose(weights["Camp"], 2.0) and weights["Long"] == -2.0
  for wrong in ({"title": "Tent"}, {"against": "Tent"}):
    with pytest.raises(InputError, match="none of the titles"):
      explained(composed, recommender, **wrong)
  with pytest.raises(InputError, match="against itself"):
    explained(composed, recommender, title=TITLES[0], against=TITLES[0])


def test_the_catalogues_best_is_explained_without_candidates(recommender):
  best = recommender.recommend("a boat for tonight", k=3)
  found = recommender.explain("a boat for tonight", k=3)
  assert found.title == best.ranking[0].title
  last = recommender.titles[-1]
  found = recommender.explain(
    "a boat for tonight", k=3, against=last, title=best.ranking[1].title
  )
  assert (found.title, found.against) == (best.ranking[1].title, last)


def test_items_that_were_dropped_stay_away(recommender):
  history = [f"Green Tent number {number}" for number in range(40)]
  said = composed_of(recommender, "find me a Rope", history=history)
  count = recommender.vocabulary.count_tokens
  budget = count(said.instruction) // 2
  small = copy.copy(recommender)
  small.input_length = budget
  small = composed_of(small, "find me a Rope", history=history)
  assert small.items_dropped
  found, ranker = explained(small, recommender, words=99, budget=budget)
  assert not any(history[0] in r.instruction for r in ranker.requests)
  assert all(count(r.instruction) < budget for r in ranker.requests)
  # None of them has weight here, so they stand in their order.
  parts = [each.text for each in found.weights if each.slot == "history"]
  assert "; ".join(parts) == "; ".join(history[small.items_dropped :])


def test_the_model_is_asked_the_same_way(recommender):
  titles = recommender.titles[:5]
  said = {"candidates": titles, "history": recommender.titles[7:9]}
  found = recommender.explain("scary things for tonight", **said, words=3)
  ranked = recommender.rank("scary things for tonight", **said)
  assert found.recommendation.composed == ranked.composed
  by_title = [
    {each.title: each.log_likelihood for each in ranking}
    for ranking in (found.recommendation.ranking, ranked.ranking)
  ]
  for title in titles:
    assert math.isclose(by_title[0][title], by_title[1][title], rel_tol=1e-5)
  assert len(found.weights) == 3
  answer = json.loads(json.dumps(found.to_json()))
  assert answer["template"] == "C10"
  assert set(answer["weights"][0]) == {"slot", "text", "weight"}
  assert set(answer["deletion"] or ("named", "others")) == {"named", "others"}


def test_a_choice_needs_two(recommender):
  composed = recommender.compose("scary", candidates=["Rope", " Rope"])
  with pytest.raises(InputError, match="at least 2"):
    explained(composed, recommender)
  with pytest.raises(InputError, match="at least 1 is needed"):
    recommender.explain("scary", candidates=TITLES, words=0)
