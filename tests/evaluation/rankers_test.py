"""Tests for instructrec_jax/evaluation/rankers.py."""

import shutil

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.evaluate import evaluate


def values(results, ranker, scenario):
  return {
    row["metric"]: row["value"]
    for row in results["rows"]
    if (row["ranker"], row["scenario"]) == (ranker, scenario)
  }


def test_the_catalogues_top_has_the_metrics_of_scoring_all_of_it(
  built, tiny_model, tmp_path
):
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=tmp_path / "out",
    scenarios=["sequential_full"],
    rankers=["model", "catalogue"],
    limit=30,
  )
  found, whole = (
    values(results, name, "sequential_full") for name in ("catalogue", "model")
  )
  # Of targets below the top it is not known how far below.
  del found["mrr"], whole["mrr"]
  assert found == pytest.approx(whole)


def test_rankers_rank_the_scenarios_that_they_can(built, tiny_model, tmp_path):
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=tmp_path / "out",
    scenarios=["sequential", "sequential_99"],
    rankers=["labels", "popularity"],
    limit=20,
  )
  assert values(results, "labels", "sequential")
  assert values(results, "popularity", "sequential_99")
  assert not values(results, "labels", "sequential_99")


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_a_trained_baseline_is_kept_in_the_folder(built, tmp_path, name):
  dataset = shutil.copytree(built, tmp_path / "shop")
  first, second = (
    evaluate(
      dataset=dataset,
      out=tmp_path / out,
      scenarios=["sequential"],
      rankers=[name],
      limit=50,
    )
    for out in ("first", "second")
  )
  assert (dataset / "baselines" / name).is_dir()
  found = values(first, name, "sequential")
  assert found["hr@1"] > 0.1
  assert values(second, name, "sequential") == found


@pytest.mark.parametrize("ranker", ["catalogue", "labels"])
def test_a_ranker_without_a_scenario_is_refused(
  built, tiny_model, tmp_path, ranker
):
  with pytest.raises(InputError, match=f"ranker '{ranker}' is for scenarios"):
    evaluate(
      dataset=built,
      model=tiny_model,
      out=tmp_path / "out",
      scenarios=["sequential_99"],
      rankers=[ranker],
    )
  assert not (tmp_path / "out").exists()
