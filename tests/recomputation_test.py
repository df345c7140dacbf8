"""Tables of baselines, computed once more by other code than the package's.

From the raw files and the stored candidate lists alone: the k-core, the order
in time, the split, the rankers and the metrics are written anew here, with
dicts and numpy, by what docs/how-it-works.md and the rankers' papers say.
"""

import ast
import collections
import csv
import gzip
import hashlib
import html
import itertools
import json
import math
import re

import numpy as np
import polars as pl
import pytest

from instructrec_jax.data.prepare import prepare
from instructrec_jax.evaluation.evaluate import evaluate

RANKERS = ("popularity", "bm25", "cooccurrence")
SCENARIOS = {"sequential": 9, "sequential_99": 99}
METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")


def amazon_2014(folder):
  """Returns (user, item, time) in the file's order, and titles by item."""
  with gzip.open(folder / "reviews_Musical_Instruments_5.json.gz") as file:
    reviews = [json.loads(line) for line in file]
  with gzip.open(folder / "meta_Musical_Instruments.json.gz", "rt") as file:
    items = [ast.literal_eval(line) for line in file]
  return (
    [(r["reviewerID"], r["asin"], r["unixReviewTime"]) for r in reviews],
    {i["asin"]: i["title"] for i in items if i.get("title")},
  )


def tables(folder):
  """As `amazon_2014`, of interactions.csv.gz and items.csv.gz."""
  rows = []
  for name in ("interactions.csv.gz", "items.csv.gz"):
    with gzip.open(folder / name, "rt", encoding="utf-8", newline="") as file:
      rows.append(list(csv.DictReader(file)))
  return (
    [(r["user_id"], r["item_id"], int(r["timestamp"])) for r in rows[0]],
    {r["item_id"]: r["title"] for r in rows[1] if r["title"]},
  )


SOURCES = {
  "musical_instruments_2014": (
    amazon_2014,
    {
      "format": "amazon2014",
      "reviews": "reviews_Musical_Instruments_5.json.gz",
      "metadata": "meta_Musical_Instruments.json.gz",
    },
  ),
  "toys_2014": (
    tables,
    {
      "format": "csv",
      "interactions": "interactions.csv.gz",
      "items": "items.csv.gz",
    },
  ),
}


def histories_of(events, titles, *, seed=0, k=5, most=20):
  """Returns each user's items, oldest first: filtered, and the last ones."""

  def place(event):
    user, item, time = event
    text = f"{seed}\0{user}\0{item}".encode()
    return time, hashlib.sha256(text).digest()[:8]

  own = collections.defaultdict(dict)
  for user, item, _ in sorted((e for e in events if e[1] in titles), key=place):
    own[user].setdefault(item)
  own = {user: list(items) for user, items in own.items()}
  while True:
    bought = collections.Counter(itertools.chain.from_iterable(own.values()))
    left = {u: [i for i in own[u] if bought[i] >= k] for u in own}
    left = {u: items for u, items in left.items() if len(items) >= k}
    if left == own:
      return {u: items[-most:] for u, items in own.items()}
    own = left


def popularity(trained, _):
  """By purchases."""
  bought = collections.Counter(itertools.chain.from_iterable(trained.values()))
  return lambda history, items: [bought[item] for item in items]


def cooccurrence(trained, _):
  """By the users who bought both, over the history; then by purchases."""
  both, bought = collections.Counter(), collections.Counter()
  for own in trained.values():
    bought.update(own)
    both.update(itertools.permutations(own, 2))
  return lambda history, items: [
    (sum(both[item, past] for past in history[-20:]), bought[item])
    for item in items
  ]


def bm25(_, titles):
  """Okapi's over titles, with Lucene's idf; the history's words search."""
  # What a model reads of a title: so many words.
  words = {
    item: re.findall(r"\w+", " ".join(title.casefold().split()[:40]))
    for item, title in titles.items()
  }
  mean = np.mean([len(own) for own in words.values()])
  holders = collections.Counter(w for own in words.values() for w in set(own))
  weights = {item: {} for item in words}
  for item, own in words.items():
    for word, count in collections.Counter(own).items():
      df = holders[word]
      idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
      length = 1.2 * (1 - 0.75 + 0.75 * len(own) / mean)
      weights[item][word] = idf * count * 2.2 / (count + length)

  def score(history, items):
    asked = collections.Counter(w for i in history[-20:] for w in words[i])
    return [
      # Sums in another order differ in their last digits.
      round(sum(weight * asked[w] for w, weight in weights[i].items()), 9)
      for i in items
    ]

  return score


def metrics_of(scores, target):
  """Returns `METRICS`, expected over all orders of equal scores."""
  above = sum(score > scores[target] for score in scores)
  tied = sum(score == scores[target] for score in scores)
  ranks = range(above + 1, above + tied + 1)
  return [
    sum(
      (1 if name == "hr" else 1 / math.log2(rank + 1)) * (rank <= int(k))
      for rank in ranks
    )
    / tied
    for name, k in (metric.split("@") for metric in METRICS)
  ]


@pytest.fixture(scope="module", params=SOURCES)
def prepared(request, shared, tmp_path_factory):
  """Returns the raw data's name, its folder, and the folder of `prepare`."""
  source = shared / "data" / request.param
  options = {
    k: source / v if v.endswith(".gz") else v
    for k, v in SOURCES[request.param][1].items()
  }
  out = tmp_path_factory.mktemp("data") / request.param
  prepare(out=out, **options)
  return request.param, source, out


@pytest.fixture(scope="module")
def recomputed(prepared):
  """Returns items and users by number, and the raw data as filtered here."""
  name, source, out = prepared
  events, titles = SOURCES[name][0](source)
  histories = histories_of(events, titles)
  frame = pl.read_parquet(out / "interactions.parquet")
  users = dict(zip(frame["user"], frame["user_id"], strict=True))
  items = pl.read_parquet(out / "items.parquet")
  stored = dict(zip(items["item_id"], items["title"], strict=True))
  return users, items["item_id"].to_list(), histories, stored, titles


def test_users_items_and_their_order(prepared, recomputed):
  _, _, out = prepared
  users, items, histories, stored, titles = recomputed
  frame = pl.read_parquet(out / "interactions.parquet")
  found = collections.defaultdict(list)
  for user, item in frame.select("user_id", "item").rows():
    found[user].append(items[item])
  assert found == histories
  assert users.keys() == set(range(len(histories)))
  # Titles are as written, but for HTML, spaces and composed accents.
  changed = [
    item
    for item, title in stored.items()
    if title != " ".join(html.unescape(titles[item]).split())
  ]
  assert len(changed) <= len(stored) / 100


def test_hr_and_ndcg_are_those_of_other_code(prepared, recomputed):
  name, _, out = prepared
  users, items, histories, stored, _ = recomputed
  # Of nineteen thousand users, a hundred candidates each take a minute.
  scenarios = ["sequential"] if name == "toys_2014" else [*SCENARIOS]
  results = evaluate(
    dataset=out, out=None, scenarios=scenarios, rankers=[*RANKERS]
  )
  printed = {
    (row["scenario"], row["ranker"], row["metric"]): row["value"]
    for row in results["rows"]
  }
  trained = {user: own[:-2] for user, own in histories.items()}
  rankers = {ranker: globals()[ranker](trained, stored) for ranker in RANKERS}
  for scenario in scenarios:
    negatives = SCENARIOS[scenario]
    lists = pl.read_parquet(out / "candidates" / f"test_{negatives}.parquet")
    assert lists.height == len(histories)
    values = {ranker: [] for ranker in RANKERS}
    for user, candidates, target in lists.rows():
      *history, last = histories[users[user]]
      shown = [items[item] for item in candidates]
      assert shown[target] == last
      assert len({*shown}) == negatives + 1
      assert not {*shown} & {*history}
      for ranker, score in rankers.items():
        scores = score(history, shown)
        values[ranker].append(metrics_of(scores, target))
    for ranker in RANKERS:
      for metric, value in zip(
        METRICS, np.mean(values[ranker], 0), strict=True
      ):
        if (key := (scenario, ranker, metric)) in printed:
          assert value == pytest.approx(printed[key], abs=1e-6), key
      assert (scenario, ranker, "ndcg@5") in printed


@pytest.mark.parametrize("prepared", ["toys_2014"], indirect=True)
def test_popularity_of_toys_is_s3_recs(prepared, recomputed):
  """HR@10 .3008 of 19,412 users, 99 uniform negatives (Zhou et al., 2020).

  S3-Rec counts all purchases, the tested ones too. `benchmarks/baselines.py
  --published` compares SASRec, which has to be trained.
  """
  _, source, out = prepared
  _, items, histories, _, _ = recomputed
  events, _ = SOURCES["toys_2014"][0](source)
  bought = collections.Counter(item for _, item, _ in events)
  lists = pl.read_parquet(out / "candidates" / "test_99.parquet")
  hits = [
    metrics_of([bought[items[i]] for i in shown], target)[2]
    for _, shown, target in lists.rows()
  ]
  assert len(hits) == len(histories) == 19_412
  assert abs(np.mean(hits) - 0.3008) < 1.96 * np.std(hits) / len(hits) ** 0.5
