"""Tests for instructrec_jax/serving/recommender.py."""

import asyncio
import collections
import concurrent.futures
import math
import time

import numpy as np
import polars as pl
import pytest

import instructrec_jax as ir
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import Turn
from instructrec_jax.instructions.recommend import Recommendation, recommend
from instructrec_jax.instructions.render import reasoned_preference
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.serving.model_export import export
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


def test_an_instruction_is_encoded_once_for_all_candidates(
  recommender, model_dir, shop
):
  """C02 does not list them; without kept states the scores are the same."""
  plain = recommender
  recommender = Recommender.load(
    model_dir, dataset=shop, user_state_bytes=1 << 26
  )
  states = recommender.user_states
  assert plain.user_states is None and states is not None
  said = {"history": recommender.titles[40:44], "template": "C02"}
  first = recommender.rank(WISH, candidates=recommender.titles[:6], **said)
  hits, misses = states.hits, states.misses
  for begin in (6, 9):
    candidates = recommender.titles[begin : begin + 7]
    found = recommender.rank(WISH, candidates=candidates, **said)
    assert found.composed.instruction == first.composed.instruction
    expected = plain.rank(WISH, candidates=candidates, **said)
    assert [e.title for e in found] == [e.title for e in expected]
    np.testing.assert_allclose(
      [each.log_likelihood for each in found],
      [each.log_likelihood for each in expected],
      rtol=1e-6,
    )
  assert (states.hits, states.misses) == (hits + 2, misses)
  with pytest.raises(InputError, match="user_state_bytes is -1"):
    Recommender.load(model_dir, user_state_bytes=-1)


def test_a_reasoned_ranking_is_that_behind_the_models_own_words(
  recommender, model_dir
):
  history, candidates = recommender.titles[:2], recommender.titles[3:9]
  found = recommender.rank(candidates=candidates, history=history, reason=True)
  assert found.composed.form.template.response == "reasoned_item"
  ((answer,),) = recommender.generate([found.composed.instruction])
  assert found.reasoning == reasoned_preference(answer.text) != ""
  assert found.to_json()["reasoning"] == found.reasoning
  before = (
    f"The history shows this taste: {found.reasoning}. What suits it:".replace(
      "..", "."
    )
  )
  request = RankingRequest(
    "1", found.composed.instruction, candidates, said=before
  )
  (scores,) = T5Ranker.load(model_dir).score([request])
  by_title = {each.title: each.log_likelihood for each in found.ranking}
  np.testing.assert_allclose(
    [by_title[title] for title in candidates], scores, rtol=1e-5
  )
  # Of the whole catalogue, too.
  best = recommender.recommend(history=history, k=480, reason=True)
  assert best.reasoning == found.reasoning
  by_title = {each.title: each.log_likelihood for each in best.ranking}
  np.testing.assert_allclose(
    [by_title[title] for title in candidates], scores, rtol=1e-4
  )
  plain = recommender.recommend(history=history, k=480)
  assert not plain.reasoning
  assert plain.ranking != best.ranking


def test_beside_a_wish_the_taste_is_told_in_the_instruction(recommender):
  history, candidates = recommender.titles[:2], recommender.titles[3:9]
  asked = recommender.prepare(history=history, reason=True)
  for found in (
    recommender.rank(WISH, candidates=candidates, history=history, reason=True),
    recommender.recommend(WISH, history=history, k=5, reason=True),
    recommender.rank(
      WISH, candidates=candidates, history=history, reason=True, template="C10"
    ),
  ):
    assert found.reasoning == asked.reasoning
    told = recommender.compose(
      WISH,
      candidates=found.composed.candidates,
      history=history,
      preference=found.reasoning,
      template=found.composed.form.template.name,
    )
    assert found.composed == told


def test_there_must_be_something_to_reason_about(recommender):
  with pytest.raises(InputError, match="nothing to reason about"):
    recommender.recommend(WISH, reason=True)
  with pytest.raises(InputError, match="leave out either"):
    recommender.recommend(
      history=recommender.titles[:1], preference="I like tents", reason=True
    )


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
    assert 0 < sum(each.probability for each in found.ranking) <= 1
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


def test_lists_of_numpy_and_polars_are_lists(recommender):
  titles = [*recommender.titles[3:9]]
  expected = recommender.rank(WISH, candidates=titles, history=titles[:2])
  for kind in (tuple, np.array, pl.Series):
    found = recommender.rank(
      WISH, candidates=kind(titles), history=kind(titles[:2])
    )
    assert found.composed == expected.composed
    assert found.titles == expected.titles


def test_what_is_no_list_or_no_text_is_one_sentence(recommender):
  frame = pl.DataFrame({"title": recommender.titles[:3]})
  with pytest.raises(InputError, match="candidates is a table: give one col"):
    recommender.rank(WISH, candidates=frame)
  with pytest.raises(InputError, match="the preference is nan: a text is"):
    recommender.recommend(WISH, preference=float("nan"))
  alike = recommender.rank(WISH, candidates=iter(frame["title"]), history=None)
  expected = recommender.rank(WISH, candidates=frame["title"])
  assert alike.titles == expected.titles


def test_many_wishes_are_answered_as_each_is(recommender):
  titles = recommender.titles
  frame = pl.DataFrame(
    {
      "instruction": [WISH, "a calm boat"],
      "history": [titles[:1], titles[1:3]],
      "preference": [None, "blue"],
    }
  )
  own = {"instruction": "a rope", "candidates": titles[6:9]}
  wishes = ["a tent", own, *frame.to_dicts()]
  found = recommender.rank_many(wishes, candidates=titles[3:9])
  alone = {"candidates": titles[3:9]}
  for wish, answer in zip(wishes, found, strict=True):
    said = wish if isinstance(wish, dict) else {"instruction": wish}
    expected = recommender.rank(**{**alone, **said})
    assert answer.composed == expected.composed
    assert answer.titles == expected.titles
    np.testing.assert_allclose(
      [each.log_likelihood for each in answer],
      [each.log_likelihood for each in expected],
      rtol=1e-5,
    )
  found = recommender.recommend_many(["a tent", {"history": titles[:2]}], k=3)
  assert [each.titles for each in found] == [
    recommender.recommend("a tent", k=3).titles,
    recommender.recommend(history=titles[:2], k=3).titles,
  ]
  assert recommender.rank_many([]) == []
  with pytest.raises(InputError, match="wish 1: there is nothing to rank"):
    recommender.rank_many([own, WISH])
  with pytest.raises(InputError, match="wish 1: the instruction is nan"):
    recommender.recommend_many([WISH, float("nan")])
  with pytest.raises(InputError, match="one wish: a list"):
    recommender.recommend_many(WISH)
  with pytest.raises(InputError, match="wishes are a table"):
    recommender.rank_many(frame, candidates=titles[3:9])
  with pytest.raises(TypeError, match=r"rank\(\) .*did you mean history"):
    recommender.rank_many([{**own, "histroy": []}])


def test_answers_can_be_awaited_all_at_once(recommender):
  titles = recommender.titles[3:9]

  async def ask():
    return await asyncio.gather(
      *(recommender.arecommend(wish, k=2) for wish in (WISH, "a boat") * 2),
      recommender.arank(WISH, candidates=titles),
    )

  *found, ranked = asyncio.run(ask())
  expected = [recommender.recommend(w, k=2).titles for w in (WISH, "a boat")]
  assert [each.titles for each in found] == expected * 2
  assert ranked.titles == recommender.rank(WISH, candidates=titles).titles


def test_threads_wait_for_each_other(recommender, monkeypatch):
  search, inside, most = recommender._search.top, [], []

  def slow(*args, **kwargs):
    inside.append(None)
    most.append(len(inside))
    time.sleep(0.05)
    found = [*search(*args, **kwargs)]
    inside.pop()
    return found

  monkeypatch.setattr(recommender._search, "top", slow)
  calls = [
    lambda: recommender.recommend(WISH),
    lambda: recommender.converse([Turn(WISH)]),
    lambda: recommender.explain(WISH, words=1),
  ]
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    for done in [pool.submit(call) for call in calls * 2]:
      done.result()
  assert most == [1] * 6


def test_item_ids_go_in_and_come_out(recommender, shop):
  items = DatasetFolder.open(shop).items
  by_title = collections.defaultdict(list)
  for item in items:
    by_title[item.title].append(item.item_id)
  had, offered = items[:2], items[2:8]
  ids = [item.item_id for item in offered]
  found = recommender.rank(
    WISH, history=[i.item_id for i in had], candidates=ids, by_id=True
  )
  titles = [item.title for item in offered]
  alike = recommender.rank(
    WISH, history=[i.title for i in had], candidates=titles
  )
  assert found.composed == alike.composed and found.titles == alike.titles
  for each in found:
    assert [*each.item_ids] == by_title[each.title]
  best = recommender.recommend(WISH, k=3)
  assert best.item_ids == [by_title[title][0] for title in best.titles]
  with pytest.raises(InputError, match="no item 'B00'"):
    recommender.rank(WISH, candidates=["B00"], by_id=True)


def test_an_export_knows_its_item_ids(recommender, model_dir, shop, tmp_path):
  export(model_dir, tmp_path / "export", dataset=shop)
  exported = ir.Recommender.load(tmp_path / "export")
  found = exported.recommend(WISH, k=4)
  assert found.item_ids == recommender.recommend(WISH, k=4).item_ids
  assert len(found.item_ids) == 4


def test_a_recommendation_reads_as_a_list_and_prints_itself(recommender):
  found = recommender.recommend(WISH, k=12)
  assert len(found) == 12 and [*found] == [*found.ranking]
  assert found[0].title == found.titles[0] and len(found[:3]) == 3
  lines = repr(found).splitlines()
  assert lines[0] == found.composed.instruction
  assert found[0].title in lines[1] and lines[-1].strip() == "and 2 more"
  assert recommender.name in repr(recommender)
  assert f"{len(recommender.titles):,} titles" in repr(recommender)


def test_a_recommendation_is_a_frame_of_polars(recommender):
  found = recommender.recommend(WISH, k=3)
  frame = found.to_polars()
  assert frame["title"].to_list() == found.titles
  assert frame["rank"].to_list() == [1, 2, 3]
  assert frame["item_ids"].to_list() == [[*each.item_ids] for each in found]
  none = recommender.compose(WISH)
  assert Recommendation(none, ()).to_polars().columns == frame.columns


def test_a_wrong_argument_is_told_of_the_call_that_was_made(recommender):
  calls = {
    "rank": {"candidates": ["a", "b"]},
    "recommend": {},
    "explain": {"candidates": ["a", "b"]},
  }
  for method, arguments in calls.items():
    says = rf"{method}\(\) .*'histroy'; did you mean history"
    with pytest.raises(TypeError, match=says):
      getattr(recommender, method)(WISH, **arguments, histroy=[])
  with pytest.raises(InputError, match="the candidates is a text"):
    recommender.rank(WISH, candidates="a tent")
  for nothing in ([], np.array([]), None):
    with pytest.raises(InputError, match="nothing to rank"):
      recommender.rank(WISH, candidates=nothing)


def test_probabilities_do_not_depend_on_how_many_are_asked_for(recommender):
  few, many = (recommender.recommend(WISH, k=k).ranking for k in (1, 100))
  assert few[0].probability == pytest.approx(many[0].probability, rel=1e-5)
  assert sum(each.probability for each in many) <= 1


def test_an_explanation_has_its_ranking(recommender):
  found = recommender.explain(WISH, candidates=recommender.titles[:3])
  assert found.ranking == found.recommendation.ranking
