"""Tests for instructrec_jax/baselines/lexical.py."""

import collections
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from instructrec_jax.baselines.lexical import LexicalRanker, tokenize
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.records import Item, RankingRequest

texts = st.lists(st.sampled_from("ab cd Ab ef gh ij".split()), max_size=6).map(
  " ".join
)
catalogues = st.lists(
  st.builds(Item, st.just("i"), texts, st.lists(texts, max_size=2).map(tuple)),
  min_size=1,
  max_size=8,
)


def request(candidates, *, history=(), query=""):
  return RankingRequest(
    "r",
    "",
    ("",) * len(candidates),
    history_items=tuple(history),
    candidate_items=tuple(candidates),
    query=query,
  )


def bm25(documents, search, document):
  """The formula, read off Robertson's and Lucene's papers, word by word."""
  mean = sum(map(len, documents)) / len(documents)
  score = 0.0
  for word in search:
    df = sum(word in d for d in documents)
    tf = document.count(word)
    if tf:
      idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
      length = 0.25 + 0.75 * len(document) / mean
      score += idf * tf * 2.2 / (tf + 1.2 * length)
  return score


def cosine(documents, search, document):
  found_in = collections.Counter(w for d in documents for w in set(d))

  def vector(words):
    return {
      word: n * (math.log((1 + len(documents)) / (1 + found_in[word])) + 1)
      for word, n in collections.Counter(words).items()
      if word in found_in
    }

  a, b = vector(search), vector(document)
  dot = sum(a[word] * b[word] for word in a.keys() & b.keys())
  return dot and dot / math.hypot(*a.values()) / math.hypot(*b.values())


@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize("kind, formula", [("bm25", bm25), ("tfidf", cosine)])
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(items=catalogues, query=texts, data=st.data())
def test_scores_are_the_formulas(kind, formula, categories, items, query, data):
  history = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=4))
  documents = [
    tokenize(" ".join((i.title, *(i.categories if categories else ()))))
    for i in items
  ]
  search = tokenize(query or " ".join(items[h].title for h in history))
  ranker = LexicalRanker.fit(items, kind=kind, categories=categories)
  (scores,) = ranker.score(
    [request(range(len(items)), history=history, query=query)]
  )
  expected = [formula(documents, search, d) for d in documents]
  np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-15)


ITEMS = [
  Item("0", "Red Dragon", ("Games",)),
  Item("1", "Blue dragon: the RED sea", ("Games",)),
  Item("2", "Controller", ("Accessories",)),
  Item("3", "Élan Vital", ()),
  Item("4", "", ()),
]


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_titles_alone_are_read_unless_the_name_says_more(kind):
  search = request([0, 2], query="Games, Accessories")
  fair = LexicalRanker.fit(ITEMS, kind=kind)
  more = LexicalRanker.fit(ITEMS, kind=kind, categories=True)
  assert (fair.name, more.name) == (kind, f"{kind}_categories")
  assert fair.score([search])[0].tolist() == [0, 0]
  assert (more.score([search])[0] > 0).all()


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_no_word_is_read_that_a_model_is_not_shown(kind):
  words = " ".join(f"w{n}" for n in range(50))
  ranker = LexicalRanker.fit([Item("0", words), Item("1", "w9")], kind=kind)
  (shown,), (cut,) = ranker.score(
    [request([0], query="w39"), request([0], query="w40")]
  )
  assert shown > 0 == cut


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_what_is_asked_silences_the_history(kind):
  ranker = LexicalRanker.fit(ITEMS, kind=kind, categories=True)
  asked = request([0, 2], history=[0], query="an ACCESSORIES shop")
  bought = request([1, 2], history=[0])
  unknown = request([0, 2, 4], history=[0], query="zzz")
  (asked, bought, unknown) = ranker.score([asked, bought, unknown])
  assert asked[0] == 0 < asked[1]
  assert bought[1] == 0 < bought[0]
  assert unknown.tolist() == [0, 0, 0]


def test_words_have_no_case():
  assert tokenize("ÉLAN vital: Straße-2") == ["élan", "vital", "strasse", "2"]


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_neighbours_change_no_bit(kind, monkeypatch):
  rng = np.random.default_rng(0)
  words = [f"w{i}" for i in range(30)]
  items = [Item("", " ".join(rng.choice(words, n))) for n in range(40)]
  ranker = LexicalRanker.fit(items, kind=kind)
  requests = [
    request(rng.permutation(40)[:n], history=rng.permutation(40)[:n])
    for n in rng.integers(0, 30, size=50)
  ]
  together = ranker.score(requests)
  monkeypatch.setattr("instructrec_jax.baselines.lexical._PAIRS", 100)
  for scores, alone in zip(together, requests, strict=True):
    assert scores.tolist() == ranker.score([alone])[0].tolist()
  for scores, again in zip(together, ranker.score(requests), strict=True):
    assert scores.tolist() == again.tolist()
  assert ranker.score([]) == []


def test_only_the_last_twenty_items_of_the_history_count():
  ranker = LexicalRanker.fit(ITEMS, kind="bm25")
  inside, outside = ranker.score(
    [
      request([1], history=[0, *[2] * 19]),
      request([1], history=[0, *[2] * 20]),
    ]
  )
  assert inside[0] > 0 == outside[0]


@pytest.mark.parametrize("kind", ["bm25", "tfidf"])
def test_retrieving_is_sorting_the_scores_of_all_items(kind, monkeypatch):
  monkeypatch.setattr("instructrec_jax.baselines.lexical._ROWS", 3)
  rng = np.random.default_rng(1)
  # Few words: many equal scores.
  items = [Item("", " ".join(rng.choice(list("abcd"), 2))) for _ in range(30)]
  ranker = LexicalRanker.fit(items, kind=kind)
  histories = [rng.integers(0, 30, size=n) for n in range(8)]
  exclude = [rng.integers(0, 30, size=n) for n in range(8)]
  found = ranker.retrieve(histories, count=7, exclude=exclude)
  assert found.shape == (8, 7)
  for row, history, banned in zip(found, histories, exclude, strict=True):
    (scores,) = ranker.score([request(range(30), history=history)])
    allowed = [item for item in range(30) if item not in banned]
    ordered = sorted(allowed, key=lambda item: (-scores[item], item))  # noqa: B023
    assert row.tolist() == ordered[:7]
  assert ranker.retrieve([], count=7, exclude=[]).shape == (0, 7)


def test_too_small_a_catalogue_is_one_sentence():
  ranker = LexicalRanker.fit(ITEMS, kind="bm25")
  with pytest.raises(InputError, match="only 4 to retrieve 5"):
    ranker.retrieve([np.array([0])], count=5, exclude=[np.array([0, 0])])


def test_the_papers_data_meets_the_measured_figures(shared, tmp_path):
  games = shared / "data" / "games_2018"
  prepare(
    format="csv",
    interactions=games / "interactions.csv.gz",
    items=games / "items.csv.gz",
    min_count=0,
    out=tmp_path / "games",
  )
  folder = DatasetFolder.open(tmp_path / "games")
  stored = folder.candidates("test", 9)
  requests = [
    request(row, history=folder.sequences.user(user)[:-1])
    for user, row in zip(stored.keys, stored.candidates, strict=True)
  ]
  found = {}
  for kind, categories in itertools.product(["bm25", "tfidf"], [False, True]):
    ranker = LexicalRanker.fit(folder.items, kind=kind, categories=categories)
    metrics = ranking_metrics(ranker.score(requests), stored.target)
    found[ranker.name] = np.mean(metrics["hr@1"])
  assert found == pytest.approx(
    {
      "bm25": 0.470,
      "bm25_categories": 0.489,
      "tfidf": 0.473,
      "tfidf_categories": 0.499,
    },
    abs=0.01,
  )
