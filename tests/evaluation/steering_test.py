"""Steering, of rankers whose obedience is known."""

import dataclasses
import re

import numpy as np
import pytest

from instructrec_jax.baselines.popularity import (
  PopularityRanker,
  training_counts,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import steering
from instructrec_jax.records import RankingRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "shop"
  prepare(format="synthetic", users=80, min_count=2, out=path)
  return DatasetFolder.open(path)


@pytest.fixture(scope="module")
def requests(folder):
  """Searches by the kind of a product, such as "Tent"."""
  found = []
  for number, item in enumerate(folder.items[:30]):
    query = item.title.split()[1]
    found.append(
      RankingRequest(
        str(number),
        f'A shopper searches for "{query}". What fits?',
        (item.title, "another"),
        target=0,
        candidate_items=(number, (number + 1) % len(folder.items)),
        query=query,
      )
    )
  return found


class Reader:
  """Counts the words of the prompt that a title has, and knows "not"."""

  name = "reader"

  def __init__(self, *, knows_not: bool):
    self._knows_not = knows_not

  def score(self, requests):
    return [self._score(r) for r in requests]

  def _score(self, request):
    (said,) = re.findall('"(.*)"', request.instruction)
    assert request.query == said
    said, scores = said.lower(), []
    is_flipped = said.startswith("anything but ") and self._knows_not
    _, _, denied = said.partition(", not ")
    for title in request.candidates:
      words = {*title.lower().split()}
      value = 2.0 * len(words & {*re.findall(r"\w+", said)})
      if self._knows_not and denied in words:
        value = -9.0
      scores.append(-value if is_flipped else value)
    return np.array(scores)


def _by(rows):
  return {(r["ranker"], r["edit"], r["measure"]): r for r in rows}


def test_what_reads_no_words_shifts_nothing(folder, requests):
  ranker = PopularityRanker(training_counts(folder))
  rows = steering.steer({"popularity": ranker}, requests, folder)
  assert {row["edit"] for row in rows} == {*steering.EDITS}
  for row in rows:
    if row["measure"].startswith("violations"):
      # That is as many as by chance, and not for a rule.
      continue
    still = 1.0 if row["measure"] == "kept" else 0.0
    assert row["value"] == row["low"] == row["high"] == pytest.approx(still)


def test_a_reader_is_steered_and_one_that_knows_not_obeys(folder, requests):
  rankers = {
    "words": Reader(knows_not=False),
    "obeys": Reader(knows_not=True),
  }
  rows = _by(steering.steer(rankers, requests, folder, resamples=200))
  for ranker in rankers:
    assert rows[ranker, "edited", "rise"]["value"] == pytest.approx(2)
    assert rows[ranker, "edited", "fall"]["value"] == pytest.approx(-2)
    assert rows[ranker, "edited", "rise_ranks"]["value"] > 3
    assert rows[ranker, "edited", "fall_ranks"]["value"] < -3
    assert rows[ranker, "paraphrased", "moved"]["value"] < 1e-9
    assert rows[ranker, "paraphrased", "kept"]["value"] == pytest.approx(1)
    assert rows[ranker, "negated", "violations_with_rule"]["value"] == 0
    assert rows[ranker, "edited", "rise"]["n"] == len(requests)
  # "Not green" has the word green in it.
  assert rows["words", "negated", "fall"]["value"] > 1
  assert rows["words", "negated", "violations"]["value"] > 0.5
  assert rows["words", "flipped", "fall"]["value"] == 0
  assert rows["obeys", "negated", "fall"]["value"] < -5
  assert rows["obeys", "negated", "violations"]["value"] == 0
  assert rows["obeys", "flipped", "fall"]["value"] < -1
  assert rows["obeys", "flipped", "fall_ranks"]["value"] < 0


def test_an_instruction_lists_what_is_scored_and_keeps_its_titles(folder):
  titles = [item.title for item in folder.items]
  (kind,) = {title.split()[1] for title in titles[:1]}
  listed, has = "; ".join(titles[:9]), "Alder Nothing"
  request = RankingRequest(
    "0",
    f"Has: {has}. Asks: {kind.upper()}. Of these: {listed}.",
    tuple(titles[:9]),
    target=0,
    candidate_items=tuple(range(9)),
    query=kind.upper(),
  )
  seen = []

  class Recorder:
    name = "recorder"

    def score(self, requests):
      seen.extend(requests)
      # What is denied comes first.
      denied = [r.query.partition(", not ")[2] or "?" for r in requests]
      return [
        np.array([float(word in t.lower().split()) for t in r.candidates])
        for word, r in zip(denied, requests, strict=True)
      ]

  rows = _by(
    steering.steer(
      {"recorder": Recorder()}, [request], folder, lists_candidates=True
    )
  )
  # It has the best third for itself.
  assert rows["recorder", "negated", "violations"]["value"] == 1
  assert len({each.instruction for each in seen}) == len(seen)
  for each in seen:
    assert len(each.candidates) <= 9
    head, _, tail = each.instruction.partition(". Of these: ")
    assert head == f"Has: {has}. Asks: {each.query}"
    assert sorted(tail.removesuffix(".").split("; ")) == sorted(each.candidates)
  # Without the list where it should be, and with words that titles have, too.
  for other in (
    dataclasses.replace(request, instruction=f"Asks: {request.query}."),
    dataclasses.replace(
      request, instruction=f"Has: {request.query}. {request.instruction}"
    ),
  ):
    with pytest.raises(InputError, match="--steer changes the words"):
      steering.steer({}, [other], folder, lists_candidates=True)


def test_the_same_seed_asks_the_same(folder, requests):
  ranker = {"words": Reader(knows_not=False)}
  one, same, other = (
    steering.steer(ranker, requests, folder, seed=seed, limit=10, resamples=99)
    for seed in (1, 1, 2)
  )
  assert one == same != other
  assert {row["n"] for row in one} == {10}


def test_a_table_has_a_line_for_each_edit(folder, requests):
  rows = steering.steer(
    {"words": Reader(knows_not=True)}, requests, folder, resamples=99
  )
  text = steering.to_table(rows, {"words": "Words"}).markdown()
  for edit in steering.EDITS:
    assert len(re.findall(rf"\| *{edit} *\|", text)) == 1
  assert "Words" in text


def test_requests_without_words_to_change_are_told(folder, requests):
  silent = [
    RankingRequest("0", "What fits?", ("a", "b"), 0, candidate_items=(0, 1))
  ]
  for given in (silent, []):
    with pytest.raises(InputError, match="--steer changes the words"):
      steering.steer({}, given, folder)
