"""Tests for instructrec_jax/evaluation/rankers.py."""

import dataclasses
import shutil

import pytest

from instructrec_jax.baselines import tower_ranker, trainer
from instructrec_jax.baselines.searches import NOBODY
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.rankers import SearchData, load_ranker
from instructrec_jax.records import RankingRequest
from tests.baselines.bert_folder import write_bert

from .conftest import FakeModel


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


@pytest.mark.parametrize(
  ("name", "scenario"),
  [
    ("sasrec", "sequential"),
    ("bert4rec", "sequential"),
    ("two_tower", "sequential"),
    ("tem", "personalised_i2"),
    ("dssm", "product_search_i2"),
  ],
)
def test_a_trained_baseline_is_kept_in_the_folder(
  built, tmp_path, name, scenario
):
  dataset = shutil.copytree(built, tmp_path / "shop")
  first, second = (
    evaluate(
      dataset=dataset,
      out=tmp_path / out,
      scenarios=[scenario],
      rankers=[name],
      limit=50,
    )
    for out in ("first", "second")
  )
  assert (dataset / "baselines" / name).is_dir()
  found = values(first, name, scenario)
  assert found["hr@1"] > 0.1
  assert values(second, name, scenario) == found


@pytest.mark.parametrize("name", ["two_tower", "dssm"])
def test_towers_read_with_the_text_encoder_that_is_named(
  tmp_path, monkeypatch, name
):
  monkeypatch.setattr(
    tower_ranker,
    "fit",
    lambda options, **rest: trainer.fit(
      dataclasses.replace(options, max_epochs=1), **rest
    ),
  )
  folder = prepare(
    format="synthetic", users=60, min_count=0, out=tmp_path / "shop"
  )
  asked = RankingRequest(
    "r",
    "",
    ("",) * 5,
    history_items=(6, 7),
    candidate_items=(0, 1, 2, 3, 4),
    query="red tent",
  )
  first, second = (
    load_ranker(
      name,
      folder=folder,
      text_encoder=str(write_bert(tmp_path / f"bert_{seed}", seed=seed)),
    ).score([asked])[0]
    for seed in (0, 1)
  )
  assert first.tolist() != second.tolist()


@pytest.mark.parametrize("ranker", ["catalogue", "labels", "dssm"])
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


def test_an_untuned_model_has_a_row_of_its_own(built, tmp_path, monkeypatch):
  tuned, untuned = FakeModel(), FakeModel(lambda request, _: False)
  folders = {tmp_path / "tuned": tuned, tmp_path / "untuned": untuned}
  for folder in folders:
    folder.mkdir()
  monkeypatch.setattr(
    "instructrec_jax.scoring.reranker.T5Ranker.load",
    lambda path, *, mesh: folders[path],
  )
  names = ["sequential", "pointwise", "personalised_i1_tournament"]
  results = evaluate(
    dataset=built,
    model=tmp_path / "tuned",
    zero_shot=tmp_path / "untuned",
    out=tmp_path / "out",
    scenarios=names,
    limit=40,
    permutations=2,
  )
  assert results["labels"]["zero_shot"] == "zero-shot"
  assert values(results, "model", "sequential")["hr@1"] == 1
  assert values(results, "zero_shot", "sequential")["hr@1"] == 0
  assert values(results, "model", "pointwise")["auc"] == 1
  assert values(results, "zero_shot", "pointwise") == {"auc": 0}
  # The same requests, in the same orders and heats.
  assert len(tuned.seen) > len(untuned.seen)  # the temperature's validation
  asked = {(r.request_id, r.instruction, r.candidates) for r in untuned.seen}
  played = [r for r in untuned.seen if r.request_id.startswith("personalised")]
  assert {len(r.candidates) for r in played} == {10}
  first = {r for r in asked if r[0].startswith("sequential")}
  assert first <= {
    (r.request_id, r.instruction, r.candidates) for r in tuned.seen
  }


def test_without_its_folder_there_is_no_zero_shot(built, tmp_path):
  with pytest.raises(InputError, match="add --zero-shot"):
    evaluate(dataset=built, out=tmp_path / "out", rankers=["zero_shot"])
  with pytest.raises(InputError, match="no such model folder"):
    evaluate(dataset=built, out=tmp_path / "out", zero_shot=tmp_path / "no")


@pytest.fixture(scope="module")
def folder(built):
  return DatasetFolder.open(built)


@pytest.fixture(scope="module")
def material(folder):
  return SearchData(folder)


def test_users_search_for_targets_of_their_split(folder, material):
  for split, targets in (
    ("train", folder.splits.training),
    ("validation", folder.splits.validation),
  ):
    found = material.personal(split)
    places = set(zip(targets.users, targets.positions, strict=True))
    assert set(zip(found.users, found.positions, strict=True)) <= places
    for user, position, item in zip(
      found.users, found.positions, found.items, strict=True
    ):
      assert folder.sequences.user(user)[position] == item
    assert len(found) > len(places)
    assert all(map(str.strip, found.queries))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_products_are_searched_in_their_own_split(folder, material, split):
  found = material.impersonal(split)
  assert set(folder.item_split[found.items]) == {SPLITS.index(split)}
  assert (found.users == NOBODY).any()


def test_no_preference_is_a_product_search(material):
  def preferences(searches):
    return [q for q in searches.queries if q.startswith("The user")]

  assert preferences(material.personal("train"))
  assert not preferences(material.impersonal("train"))
