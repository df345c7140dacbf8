"""Tests for instructrec_jax/serving/recommender.py."""

import math

import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.recommend import recommend
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.serving.recommender import Recommender

WISH = "I want something scary for tonight"


def test_the_ranking_is_the_models(recommender, model_dir):
  candidates = recommender.titles[3:9]
  answer = recommender.rank(
    WISH, candidates=candidates, history=recommender.titles[:2]
  )
  assert answer.composed.label == "<P1,I1,T3>"
  request = RankingRequest(
    request_id="1",
    instruction=answer.composed.instruction,
    candidates=candidates,
  )
  (scores,) = T5Ranker.load(model_dir).score([request])
  by_title = {each.title: each.log_likelihood for each in answer.ranking}
  np.testing.assert_allclose(
    [by_title[title] for title in candidates], scores, rtol=1e-5
  )
  likelihoods = [each.log_likelihood for each in answer.ranking]
  assert likelihoods == sorted(likelihoods, reverse=True)
  assert math.isclose(sum(each.probability for each in answer.ranking), 1)


def test_requests_may_be_scored_many_at_a_time(recommender):
  candidates = recommender.titles[3:9]
  wishes = [WISH, "Rope, Climbing", "I like calm boats"]
  composed = [recommender.compose(w, candidates=candidates) for w in wishes]
  scores = recommender.ranker.score(
    [recommender.request(each, each.candidates) for each in composed]
  )
  for wish, each, of_each in zip(wishes, composed, scores, strict=True):
    together = recommender.ranking(each.candidates, of_each)
    alone = recommender.rank(wish, candidates=candidates).ranking
    assert [one.title for one in together] == [one.title for one in alone]
    np.testing.assert_allclose(
      [one.log_likelihood for one in together],
      [one.log_likelihood for one in alone],
      rtol=1e-5,
    )


def test_the_top_of_the_catalogue_is_exact(recommender):
  history = recommender.titles[10:12]
  found = recommender.recommend(WISH, history=history, k=20)
  every = recommend(
    WISH,
    ranker=recommender.ranker,
    vocabulary=recommender.vocabulary,
    history=history,
    catalogue=recommender.titles,
  )
  assert found.composed == every.composed
  best = every.ranking[:20]
  assert [each.title for each in found.ranking] == [r.title for r in best]
  np.testing.assert_allclose(
    [each.log_likelihood for each in found.ranking],
    [each.log_likelihood for each in best],
    rtol=1e-4,
  )
  everything = recommender.recommend(WISH, history=history, k=10_000)
  left = {each.title for each in everything.ranking}
  assert left == set(recommender.titles) - set(history)


def test_a_denied_word_is_a_thousand_times_less_likely(recommender):
  """And the top of the catalogue is as exact as ever."""
  word = recommender.titles[3].split()[-1]
  wish = f"a tent, not {word.lower()}"
  (has_word,) = {True} & {word in title.split() for title in recommender.titles}
  assert has_word
  said = {"history": recommender.titles[10:12], "instruction": wish}
  (raw,) = recommender.ranker.score(
    [recommender.request(recommender.compose(**said), recommender.titles)]
  )
  wanted = {
    title: score - np.log(1000) * (word in title.split())
    for title, score in zip(recommender.titles, raw, strict=True)
    if title not in said["history"]
  }
  best = sorted(wanted, key=lambda title: -wanted[title])
  for k in (1, 5, len(best)):
    found = recommender.recommend(**said, k=k)
    assert found.composed.denied == (word.lower(),)
    assert [each.title for each in found.ranking] == best[:k]
    assert sum(each.probability for each in found.ranking) == pytest.approx(1)
  ranked = recommender.rank(wish, candidates=recommender.titles[:9])
  np.testing.assert_allclose(
    [each.log_likelihood for each in ranked.ranking],
    sorted((each.log_likelihood for each in ranked.ranking), reverse=True),
  )


def test_composing_is_that_of_ask(recommender):
  said = {
    "history": recommender.titles[:2],
    "preference": "I like calm boats",
    "context": "for tonight",
    "kind": "vague",
  }
  asked = recommend(WISH, vocabulary=recommender.vocabulary, **said)
  assert recommender.compose(WISH, **said) == asked.composed
  named = recommender.compose("Rope", template="B02", kind="specific")
  assert named.form.template.name == "B02"


def test_a_model_without_a_catalogue_says_so(model_dir):
  bare = Recommender.load(str(model_dir), step=7)
  assert bare.name == "tiny" and bare.titles == ()
  with pytest.raises(InputError, match="no catalogue to recommend from"):
    bare.recommend(WISH)


@pytest.mark.parametrize(
  ("call", "says"),
  [
    (lambda r: r.rank(WISH, candidates=[]), "nothing to rank"),
    (lambda r: r.rank("", candidates=["Rope"]), "nothing to go by"),
    (lambda r: r.recommend(""), "nothing to go by"),
    (lambda r: r.recommend(WISH, k=0), "at least 1 is needed"),
    (lambda r: r.rank(WISH, candidates=["!"]), "is no title"),
    (lambda r: r.compose(WISH, kind="odd"), "of kind 'odd'"),
    (lambda r: r.compose(WISH, template="Q99"), "no template 'Q99'"),
    (lambda r: r.compose("scary " * 600), "too long"),
  ],
)
def test_what_cannot_be_answered_is_one_sentence(recommender, call, says):
  with pytest.raises(InputError, match=says):
    call(recommender)
