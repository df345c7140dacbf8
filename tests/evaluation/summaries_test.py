"""Tests for instructrec_jax/evaluation/summaries.py."""

import numpy as np

from instructrec_jax.evaluation.summaries import summarise_ranking
from instructrec_jax.instructions.scenarios import find_scenarios


def compared(name="sequential", **hits):
  """Returns whom the others are compared with, of shares of hits."""
  (scenario,) = find_scenarios([name])
  metrics = {
    name: {
      metric: (np.arange(100) < share * 100).astype(float)
      for metric in scenario.metrics
    }
    for name, share in hits.items()
  }
  _, comparisons = summarise_ranking(scenario, metrics, seed=0)
  return {(c["ranker"], c["against"]) for c in comparisons}


def test_resamples_leave_room_below_one_per_cent():
  """Of 1,000 the smallest p of six comparisons would be .012."""
  (scenario,) = find_scenarios(["sequential"])
  hits = (np.arange(200) % 2 == 0).astype(float)
  rankers = ("popularity", "bm25", "tfidf", "cooccurrence", "svd", "random")
  metrics = {
    name: {metric: values for metric in scenario.metrics}
    for name, values in {
      **dict.fromkeys(rankers, 1 - hits),
      "model": np.ones(200),
    }.items()
  }
  _, comparisons = summarise_ranking(scenario, metrics, seed=0)
  (p,) = {c["p_holm"] for c in comparisons if c["ranker"] == "model"}
  assert p < 0.01


def test_the_best_baseline_may_be_a_trained_one():
  others = {"random": 0.1, "popularity": 0.3, "model": 0.6}
  assert ("model", "popularity") in compared(sasrec=0.2, **others)
  assert compared(sasrec=0.5, **others) == {
    ("random", "sasrec"),
    ("popularity", "sasrec"),
    ("model", "sasrec"),
  }
  assert compared(sasrec=0.5, model=0.6) == {("model", "sasrec")}


def test_neither_chance_nor_ceiling_nor_a_model_is_a_baseline():
  others = dict.fromkeys(
    ("random", "zero_shot", "catalogue", "labels", "planted"), 0.9
  )
  assert {against for _, against in compared(popularity=0.2, **others)} == {
    "popularity"
  }
  assert compared(model=0.6, **others) == set()


def test_no_baseline_sees_more_than_the_model():
  # Of the history where the prompt shows none, or of categories at all.
  seen = {"cooccurrence": 0.6, "tem": 0.7, "bm25_categories": 0.9}
  hits = {"popularity": 0.1, "bm25": 0.2, **seen}

  def against(name, **others):
    return {of for _, of in compared(name, **others)}

  assert against("product_search_i1", **hits) == {"bm25"}
  # Nobody has a history there.
  assert against("product_search_i2", **hits) == {"tem"}
  assert against("personalised_i2", **hits) == {"tem"}
  assert against("sequential", popularity=0.1, **seen) == {"tem"}
  # Where there is no other, the best of them is better than none.
  assert against("product_search_i1", cooccurrence=0.6, model=0.5) == {
    "cooccurrence"
  }


def test_a_model_is_compared_with_a_better_baseline_that_sees_more():
  seen = {"popularity": 0.1, "bm25": 0.2}
  pairs = compared("product_search_i1", model=0.5, cooccurrence=0.6, **seen)
  assert {("model", "bm25"), ("model", "cooccurrence")} < pairs
  assert ("popularity", "cooccurrence") not in pairs
  # A weaker one takes nothing away.
  pairs = compared("product_search_i1", model=0.5, cooccurrence=0.1, **seen)
  assert {of for _, of in pairs} == {"bm25"}
