"""Tests for instructrec_jax/evaluation/summaries.py."""

import numpy as np

from instructrec_jax.evaluation.summaries import summarise_ranking
from instructrec_jax.instructions.scenarios import find_scenarios


def compared(**hits):
  """Returns whom the others are compared with, of shares of hits."""
  (scenario,) = find_scenarios(["sequential"])
  metrics = {
    name: {
      metric: (np.arange(100) < share * 100).astype(float)
      for metric in scenario.metrics
    }
    for name, share in hits.items()
  }
  _, comparisons = summarise_ranking(scenario, metrics, seed=0)
  return {(c["ranker"], c["against"]) for c in comparisons}


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
