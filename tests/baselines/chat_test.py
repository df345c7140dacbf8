"""Tests for instructrec_jax/baselines/chat.py."""

import dataclasses
import types

import numpy as np
import pytest

from instructrec_jax.baselines.chat import (
  ChatOptions,
  ChatRanker,
  conduct,
  read_ranking,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.records import RankingRequest
from instructrec_jax.teacher.chat import ChatAnswer, Status

TITLES = ("Red Kite", "7 Wonders", "Tent, Large", "2. Edition")


def read(text, *, titles=TITLES, status=Status.ANSWERED):
  return read_ranking(text, titles, status=status)


def test_a_full_list_gives_every_place():
  answer = read("Tent, Large\nRed Kite\n2. Edition\n7 Wonders\n")
  np.testing.assert_array_equal(answer.scores, [-1, -3, 0, -2])
  assert answer.complete and answer.lines == 4
  assert answer.illegal == answer.duplicates == 0


@pytest.mark.parametrize(
  "line",
  [
    "1. 7 Wonders",
    "2) 7 WONDERS",
    "[3]  7  wonders ",
    "- 7 Wonders",
    "(4) 7 wonders",
  ],
)
def test_case_white_space_and_numbering_do_not_matter(line):
  answer = read(line)
  assert answer.scores.argmax() == 1 and answer.illegal == 0


@pytest.mark.parametrize(
  "line",
  [
    "7 Wonders!",
    "7 Wonder",
    "7 Wonders, Large",
    "Wonders",
    "7Wonders",
    "Here is my ranking:",
    "Red Kite; 7 Wonders",
    '"Red Kite"',
    "Tent,",
  ],
)
def test_nothing_else_is_taken_for_a_title(line):
  answer = read(line)
  assert answer.illegal == 1
  assert len(set(answer.scores)) == 1


def test_a_title_that_begins_with_a_number_is_itself():
  answer = read("2. Edition\n2. 2. Edition\n1. Red Kite")
  np.testing.assert_array_equal(answer.scores, [-1, -4, -4, 0])
  assert answer.duplicates == 1 and answer.illegal == 0


def test_what_is_not_named_ties_behind_what_is():
  answer = read("7 Wonders\nBlue Kite\n7 wonders\nRed Kite")
  np.testing.assert_array_equal(answer.scores, [-1, 0, -4, -4])
  assert (answer.illegal, answer.duplicates) == (1, 1)
  assert not answer.complete
  # Third or fourth, as likely as not.
  metrics = ranking_metrics([answer.scores], [2], ks=(1, 2, 3, 4))
  found = [metrics[f"hr@{k}"][0] for k in (1, 2, 3, 4)]
  assert found == [0, 0, 0.5, 1]


def test_candidates_of_one_title_share_its_place():
  answer = read("B\nA", titles=("A", "B", "b "))
  np.testing.assert_array_equal(answer.scores, [-1, 0, 0])
  assert answer.complete and answer.duplicates == 0


def test_the_last_line_of_a_cut_answer_may_be_half_a_title():
  answer = read("Tent, Large\nRed Kite", status=Status.TRUNCATED)
  np.testing.assert_array_equal(answer.scores, [-4, -4, 0, -4])


@pytest.mark.parametrize("status", [Status.REFUSED, Status.FAILED])
def test_what_is_no_answer_names_nothing(status):
  answer = read("Red Kite", status=status)
  assert len(set(answer.scores)) == 1 and answer.lines == 0


@pytest.fixture
def folder(tmp_path):
  return DatasetFolder.open(
    prepare(format="synthetic", users=40, min_count=0, out=tmp_path / "d").path
  )


def requests(count=6):
  rng = np.random.default_rng(0)
  return [
    RankingRequest(
      request_id=f"sequential-{user}",
      instruction="Bought: Axe. Take one of these: "
      + "; ".join(titles)
      + ". Which?",
      candidates=titles,
      target=user % 4,
    )
    for user in range(count)
    for titles in [tuple(f"T{i}" for i in rng.permutation(90)[:4])]
  ]


def listed(question):
  """The candidates of a question, in its order."""
  lines = question.user.split("Candidates:\n")[1].splitlines()
  return [line.partition(". ")[2] for line in lines]


class Transport:
  """Answers what is not known by `reply`, at most `most` in a call."""

  def __init__(self, reply, most=99):
    self.reply, self.most, self.sent = reply, most, []

  def __call__(self, questions, store):
    for question in questions:
      if question.key in store.answered_keys() or len(self.sent) == self.most:
        continue
      self.sent.append(question)
      status, text = self.reply(question)
      answer = ChatAnswer(question.key, status, text=text)
      store.put(question, answer, teacher="test")
    stopped = "the cap is reached" if len(self.sent) == self.most else ""
    return types.SimpleNamespace(stopped=stopped)


def alphabetical(question):
  return Status.ANSWERED, "\n".join(sorted(listed(question)))


def ranker(folder, send, *, seed=0, **options):
  options = ChatOptions(model="m", send=send, **options)
  return ChatRanker(options, folder, seed=seed)


def test_the_answers_order_is_the_ranking_whatever_the_prompts(folder):
  for scores, request in zip(
    ranker(folder, Transport(alphabetical)).score(requests()),
    requests(),
    strict=True,
  ):
    order = [request.candidates[i] for i in np.argsort(-scores)]
    assert order == sorted(request.candidates)


def test_prompts_have_their_own_order_and_no_mark_of_the_target(folder):
  def ask(seed, batch):
    asked = ranker(folder, None, seed=seed)
    return [asked.question(request) for request in batch]

  batch = requests(30)
  first = ask(0, batch)
  assert [q.key for q in ask(0, batch[::-1])] == [q.key for q in first][::-1]
  assert [q.key for q in ask(1, batch)] != [q.key for q in first]
  places = []
  for question, request in zip(first, batch, strict=True):
    assert sorted(listed(question)) == sorted(request.candidates)
    assert request.instruction.split(":")[0] in question.user
    # Listed once, and in one order.
    assert "; ".join(request.candidates) not in question.user
    places.append(listed(question).index(request.candidates[0]))
  assert set(places) == {0, 1, 2, 3}
  blind = [dataclasses.replace(r, target=(r.target + 1) % 4) for r in batch]
  assert [q.key for q in ask(0, blind)] == [q.key for q in first]
  assert "response_format" not in first[0].body()


def test_rankings_paid_for_by_the_first_version_are_found(folder):
  request = RankingRequest(
    request_id="sequential-3",
    instruction="Bought: Axe. Take one of these: Red Kite; Tent. Which?",
    candidates=("Red Kite", "Tent"),
    target=0,
  )
  options = ChatOptions(model="gpt-4o-mini", send=None)
  assert ChatRanker(options, folder, seed=0).question(request).key == (
    "7459b9d5a7ac8482195ece8e12d649ee166e647b920bfc48380953cf184e6658"
  )


def test_nothing_is_asked_twice_whatever_the_answer_was(folder):
  def poor(question):
    number = len(listed(question)[0])
    return [
      (Status.REFUSED, "no"),
      (Status.TRUNCATED, "T1\nT"),
      (Status.MALFORMED, ""),
      (Status.ANSWERED, "I do not know."),
    ][number % 4]

  send = Transport(poor)
  first = ranker(folder, send).rank(requests())
  again = ranker(folder, send).rank(requests())
  assert len(send.sent) == len(requests())
  np.testing.assert_array_equal(first[0].scores, again[0].scores)
  # All is known: no key, no server.
  ranker(folder, None).rank(requests())


def test_a_cap_keeps_what_was_answered(folder):
  send = Transport(alphabetical, most=2)
  with pytest.raises(InputError, match="cap is reached: 4 of 6 requests to m"):
    ranker(folder, send).rank(requests())
  rest = Transport(alphabetical)
  assert len(ranker(folder, rest).rank(requests())) == 6
  assert len(rest.sent) == 4


def test_the_estimate_is_of_what_is_not_answered(folder):
  asked = ranker(folder, Transport(alphabetical))
  assert asked.estimate(requests()).requests == 6
  asked.rank(requests(2))
  assert asked.estimate(requests()).requests == 4


def test_conduct_counts_what_went_wrong():
  answers = [
    read("Red Kite\n7 Wonders\nTent, Large\n2. Edition"),
    read("Red Kite\nOf course!\nRed Kite"),
    read("Red Kite\nTe", status=Status.TRUNCATED),
    read("I cannot.", status=Status.REFUSED),
    read("", status=Status.FAILED),
    read("", status=Status.MALFORMED),
  ]
  assert conduct(answers) == {
    "lines": 8,
    "illegal": 1 / 8,
    "duplicates": 1,
    "incomplete": 5,
    "refused": 1,
    "truncated": 1,
    "failed": 2,
    "short": 1,
  }


def test_at_least_one_request_is_asked(folder):
  with pytest.raises(InputError, match="--chat-limit is 0"):
    ranker(folder, None, limit=0)
