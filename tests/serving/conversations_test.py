"""Conversations: in Python, over HTTP by a plain client, and what is kept."""

import json
import urllib.error
import urllib.request

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.conversation import MAX_TURNS, Turn
from instructrec_jax.instructions.dialogues import Shopper
from instructrec_jax.serving.app import create_app
from instructrec_jax.serving.conversations import (
  Conversations,
  UnknownConversation,
)
from instructrec_jax.serving.server import running


@pytest.fixture(scope="module")
def url(recommender):
  with running(create_app(recommender)) as url:
    yield f"{url}/v1/chat/recommend"


def post(url: str, **body) -> tuple[int, dict]:
  asked = urllib.request.Request(
    url, json.dumps(body).encode(), {"Content-Type": "application/json"}
  )
  try:
    with urllib.request.urlopen(asked, timeout=60) as answer:
      return answer.status, json.loads(answer.read())
  except urllib.error.HTTPError as error:
    return error.code, json.loads(error.read())


def test_what_is_said_holds_whatever_the_model_finds(recommender):
  # Of a model that has learned nothing: what holds is the rules'.
  for seed in range(4):
    shopper, turns, shown = Shopper(seed), [], ()
    while shopper.left:
      turns.append(Turn(shopper.says(shown)))
      reply = recommender.converse(turns, k=5)
      shown = reply.shown
      turns[-1] = Turn(turns[-1].words, shown)
      assert not {*shopper.refused} & {*shown}
      if not reply.given_up:
        kind = shopper.target.split()[1]
        brand, *_, finish = zip(*(t.split() for t in shown), strict=True)
        same = [f"{b} {kind} {f}" for b, f in zip(brand, finish, strict=True)]
        allowed = [t for t in same if t not in shopper.refused]
        assert all(map(shopper.holds, allowed))


def test_what_comes_near_is_told(recommender, url):
  # The whole of what is allowed is shown: tents of Alder's and the rest.
  turns = [Turn("a tent")]
  turns.append(Turn("Only from Alder.", recommender.converse(turns, k=5).shown))
  reply = recommender.converse(turns, k=100)
  assert reply.scarce == ("tent",)
  assert {*reply.near} == {t for t in reply.shown if "Tent" not in t}
  assert 0 < len(reply.near) < len(reply.shown)
  assert {*reply.shown[-len(reply.near) :]} == {*reply.near}
  _, first = post(url, query="a tent", top_n=5)
  _, answer = post(
    url,
    query="Only from Alder.",
    top_n=100,
    conversation=first["conversation"],
  )
  assert answer["scarce"] == ["tent"]
  assert {*answer["near"]} == {*reply.near}
  _, answer = post(url, query="cheaper", conversation=first["conversation"])
  assert answer["unread"] == "cheaper"


def test_what_was_taken_is_the_history(recommender):
  first, second = recommender.titles[:2]
  turns = [
    Turn("a tent", (first, second)),
    Turn("I'll take the second, and now a rope"),
  ]
  reply = recommender.converse(turns, history=[first], k=480)
  assert f"{first}; {second}" in reply.recommendation.composed.instruction
  assert not {first, second} & {*reply.shown}
  assert all("Rope" in title for title in reply.shown)


def test_the_oldest_narrowing_goes_where_all_is_too_long(recommender):
  shown = recommender.titles[:3]
  turns = [Turn("a tent", shown)]
  said = [f"to go with a {title}" for title in recommender.titles[:200]]
  turns += [Turn(words, shown) for words in said[:95]]
  composed = recommender.converse(turns, k=1).recommendation.composed
  count = recommender.vocabulary.count_tokens(composed.instruction)
  assert count < recommender.input_length
  assert "a tent" in composed.instruction
  assert said[94] in composed.instruction
  assert said[0] not in composed.instruction
  with pytest.raises(InputError, match="too long"):
    recommender.converse([Turn("tent " * 2000)])


def test_a_conversation_over_http(url, recommender):
  status, first = post(url, query="a tent", top_n=3)
  assert (status, first["turn"]) == (200, 1)
  name = first["conversation"]
  titles = [each["document"]["text"] for each in first["results"]]
  status, second = post(
    url,
    query="In green, please.",
    conversation=name,
    refused=titles[:1],
    top_n=100,
  )
  assert (status, second["turn"], second["conversation"]) == (200, 2, name)
  assert second["required"] == [["green"]]
  assert second["refused"] == titles[:1]
  shown = [each["document"]["text"] for each in second["results"]]
  assert shown and titles[0] not in shown
  assert all("Green" in title for title in shown)
  for each in second["results"]:
    assert recommender.titles[each["index"]] == each["document"]["text"]
  # A turn that is refused is not kept, and loses nothing.
  status, problem = post(url, query="", conversation=name, chosen=["No such"])
  assert status == 422 and "'No such' is no title" in problem["message"]
  status, third = post(url, query="not the first", conversation=name)
  assert (third["turn"], third["required"]) == (3, [["green"]])
  assert third["refused"] == [titles[0], shown[0]]
  assert "in green" in third["instruction"].lower()


def test_turns_that_are_told_need_no_memory(url):
  said = ["a tent", "in green", "not the first", "", "cheaper"]
  turns, name = [], None
  for words in said:
    # Without words, a button.
    refused = [] if words else [turns[-1]["shown"][0]]
    now = {"query": words, "refused": refused}
    _, kept = post(url, **now, conversation=name, top_n=5)
    _, told = post(url, **now, turns=turns, top_n=5)
    name = kept.pop("conversation")
    assert "conversation" not in told and kept["turn"] == len(turns) + 1
    assert {**kept, "id": ""} == {**told, "id": ""}
    shown = [each["document"]["text"] for each in told["results"]]
    assert shown and not {*told["refused"]} & {*shown}
    turns.append({**now, "shown": shown})
  first, button = turns[1]["shown"][0], turns[3]["refused"][0]
  assert told["refused"] == [first, button]
  assert told["wish"] in told["instruction"]


def test_other_languages_are_the_models_to_read(url):
  status, answer = post(url, query="Zelt für den Regen, bitte")
  assert status == 200
  assert "den Regen" in answer["instruction"]
  status, answer = post(url, query="もっと安いもの")
  assert status == 422
  assert "nothing to go by" in answer["message"]


@pytest.mark.parametrize(
  ("body", "status", "said"),
  [
    ({"query": "x", "conversation": "nobody"}, 404, "no such conversation"),
    ({"query": "x" * 5000}, 422, "query"),
    ({"query": "tent", "turns": [{"said": "x"}]}, 422, "turns[0]: there is no"),
    (
      {"query": "a", "turns": [{"shown": ["No such"]}]},
      422,
      "shown: 'No such'",
    ),
    ({"query": "a", "turns": [], "conversation": "b"}, 422, "but not both"),
    ({"query": "tent", "refused": "Alder"}, 422, "refused"),
    ({"query": "tent", "top_n": 0}, 422, "top_n"),
  ],
)
def test_bad_bodies_are_told(url, body, status, said):
  got, answer = post(url, **body)
  assert got == status
  assert said in answer["message"]


def test_the_longest_silent_conversation_goes():
  kept = Conversations(most=2)
  names = [kept.keep(None, [Turn("a")]) for _ in range(2)]
  kept.turns(names[0])
  kept.keep(None, [Turn("b")])
  assert kept.turns(names[0]) == (Turn("a"),)
  with pytest.raises(UnknownConversation):
    kept.turns(names[1])
  # Two turns at once: the second is told, and the first is kept.
  kept.keep(names[0], [Turn("a"), Turn("b")])
  with pytest.raises(InputError, match="answered meanwhile"):
    kept.keep(names[0], [Turn("a"), Turn("c")])
  kept.keep(names[0], [Turn("a")] * MAX_TURNS)
  with pytest.raises(InputError, match="begin another"):
    kept.turns(names[0])
