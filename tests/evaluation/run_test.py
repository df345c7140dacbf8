"""Tests for instructrec_jax/evaluation/{run,blocks}.py: each protocol."""

import math

import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.evaluation import pointwise, protocol
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.scenarios import (
  OF_TEN,
  SCENARIOS,
  find_scenarios,
)
from instructrec_jax.seqio_bridge.build import build

from .conftest import FakeModel, pick, value

NAMES = [scenario.name for scenario in SCENARIOS]


@pytest.fixture(scope="module")
def everything(built, tmp_path_factory):
  """All scenarios, ranked by a model that knows the answers."""
  with pytest.MonkeyPatch.context() as patch:
    model = FakeModel()
    patch.setattr("instructrec_jax.scoring.reranker.T5Ranker.load", model.load)
    folder = tmp_path_factory.mktemp("everything")
    results = evaluate(dataset=built, model=folder, out=folder / "out")
  return results, model, (folder / "out" / "results.md").read_text()


def test_every_scenario_ends_in_a_block(everything):
  results, model, text = everything
  assert [s["name"] for s in results["scenarios"]] == NAMES
  assert model.loads == 1
  for scenario in SCENARIOS:
    first = scenario.metrics[0]
    assert value(results, "model", first, scenario.name) == 1
    assert value(results, "random", first, scenario.name) < 0.6
    assert f"### {scenario.name} {scenario.label}: " in text
    assert "the model is asked in the words of" in text
    (description,) = pick(results, "scenarios", name=scenario.name)
    ns = {row["n"] for row in pick(results, "rows", scenario=scenario.name)}
    assert ns == {description["requests"]}
  assert "(the paper's Table 10)" in text


def test_scenarios_of_the_same_users_rank_the_same_candidates(everything):
  results, _, _ = everything
  hashes = {s["name"]: s["candidates_sha256"] for s in results["scenarios"]}
  assert hashes["sequential"] == hashes["sequential_p1_p2"]
  assert hashes["personalised_i1_99"] == hashes["personalised_i1_tournament"]
  for other in ("sequential_hard", "sequential_99", "sequential_full"):
    assert hashes[other] != hashes["sequential"]


def test_searched_items_have_no_user(everything, built):
  _, model, _ = everything
  seen = [r for r in model.seen if r.request_id.startswith("product_search_i2")]
  assert seen and all(r.user is None and not r.history_items for r in seen)
  folder = DatasetFolder.open(built)
  test_items = set(np.flatnonzero(folder.item_split == 2).tolist())
  assert {r.candidate_items[r.target] for r in seen} <= test_items


def test_only_the_model_plays_the_tournament(everything):
  results, model, _ = everything
  name = "personalised_i1_tournament"
  played = [r for r in model.seen if r.request_id.startswith(name)]
  assert {len(r.candidates) for r in played} == {10}
  assert value(results, "random", "hr@10", name) == pytest.approx(0.1)
  for ranker in ("bm25", "popularity"):
    assert value(results, ranker, "hr@5", name) == value(
      results, ranker, "hr@5", "personalised_i1_99"
    )


def test_the_ceiling_is_shown_where_only_the_history_tells(everything):
  results, _, _ = everything
  shown = {row["scenario"] for row in pick(results, "rows", ranker="planted")}
  assert shown == {s.name for s in SCENARIOS if s.family.startswith("p1_i0")}


def test_hard_negatives_are_footnoted(everything):
  results, _, text = everything
  (hard,) = pick(results, "scenarios", name="sequential_hard")
  assert hard["matcher"]["name"] == "tfidf"
  recall = hard["matcher"]["recall"]
  assert 0 < recall["10"] < recall["20"] < 1
  assert text.count("the row tfidf is judged on its own") == 1
  # It was asked for what is most like the history, so it prefers those.
  assert value(results, "tfidf", "hr@1", "sequential_hard") < 0.1


def test_behind_a_matcher_targets_are_lost(everything):
  results, _, text = everything
  (hard,) = pick(results, "scenarios", name="sequential_hard")
  of_hard = pick(results, "rows", scenario="sequential_hard")
  assert len(results["end_to_end"]) == len(of_hard)
  for forced, behind in zip(of_hard, results["end_to_end"], strict=True):
    assert forced["metric"] == behind["metric"]
    assert behind["value"] <= forced["value"] + 1e-9
    assert behind["value"] <= hard["matcher"]["recall"]["10"] + 0.05
  assert text.count("End to end, where") == 1


def test_a_real_model_goes_through_every_scenario(built, tiny_model, tmp_path):
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=tmp_path / "out",
    rankers=["random", "model"],
    limit=8,
  )
  assert [s["name"] for s in results["scenarios"]] == NAMES
  rows = pick(results, "rows", ranker="model")
  assert len(rows) == sum(
    5 if s.pointwise else len((*OF_TEN, "hr@10", "ndcg@1", "ndcg@10", "mrr"))
    for s in SCENARIOS
  )
  assert all(math.isfinite(row["value"]) for row in rows)


class Margins(FakeModel):
  """Says Yes to the liked with this margin, on validation three times it."""

  def score_all(self, requests, normalisations):
    self.seen += requests
    rows = []
    for request in requests:
      user = request.user
      margin = (1 if request.target == 0 else -1) * (2 if user % 4 else -1)
      rows.append(np.array([margin / 2, -margin / 2]))
    return {"sum": rows}


def test_pointwise_agrees_with_computing_by_hand(built, use_model, tmp_path):
  model = Margins()
  results = evaluate(
    dataset=built,
    model=use_model(model),
    scenarios=["pointwise"],
    out=tmp_path / "out",
  )
  folder = DatasetFolder.open(built)
  (scenario,) = find_scenarios(["pointwise"])

  def figures(split):
    requests = list(
      protocol.find_requests(
        scenario, folder=folder, split=split, need_text=True
      ).read()
    )
    labels = np.array([int(r.target == 0) for r in requests])
    wrong = np.array([r.user % 4 == 0 for r in requests])
    return (2 * labels - 1) * np.where(wrong, -1.0, 2.0), labels

  margins, labels = figures("test")
  pairs = margins[labels == 1][:, None] - margins[labels == 0]
  assert value(results, "model", "auc", "pointwise") == pytest.approx(
    ((pairs > 0) + (pairs == 0) / 2).mean()
  )
  (temperature,) = results["temperatures"]
  fitted = pointwise.fit_temperature(*figures("validation"))
  assert temperature == {
    "scenario": "pointwise",
    "ranker": "model",
    "value": fitted,
  }
  scaled = np.where(labels, 1, -1) * margins / fitted
  assert value(
    results, "model", "log_loss_scaled", "pointwise"
  ) == pytest.approx(np.log1p(np.exp(-scaled)).mean())


def test_the_temperature_does_not_see_the_test_requests(
  built, use_model, tmp_path
):
  def run(name, knows):
    return evaluate(
      dataset=built,
      model=use_model(FakeModel(knows)),
      scenarios=["pointwise"],
      rankers=["model"],
      out=tmp_path / name,
    )["temperatures"][0]["value"]

  folder = DatasetFolder.open(built)
  lengths = folder.sequences.lengths

  def is_test(request):
    return len(request.history_items) == lengths[request.user] - 1

  always = run("always", lambda r, _: r.user % 3)
  flipped = run("flipped", lambda r, _: (r.user % 3 > 0) != is_test(r))
  assert always == flipped
  assert always != run("worse", lambda r, _: r.user % 2)


def test_permutations_are_for_prompts_that_list_candidates(
  built, use_model, tmp_path
):
  model = FakeModel()
  results = evaluate(
    dataset=built,
    model=use_model(model),
    scenarios=["sequential", "pointwise", "sequential_99"],
    permutations=3,
    limit=20,
    out=tmp_path / "out",
  )
  asked = {s["name"]: s["permutations"] for s in results["scenarios"]}
  assert asked == {"sequential": 3, "pointwise": 1, "sequential_99": 1}
  (orders,) = {
    sum(r.request_id == seen.request_id for r in model.seen)
    for seen in model.seen
    if seen.request_id.startswith("sequential-")
  }
  assert orders == 3
  # Neither is the target anywhere in particular then.
  assert results["positions"] == []
  text = (tmp_path / "out" / "results.md").read_text()
  assert "scores averaged over 3 orders" in text


def test_positions_are_of_prompts_that_list_candidates(everything):
  results, _, text = everything
  listing = {s.name for s in SCENARIOS if s.lists_candidates}
  assert {entry["scenario"] for entry in results["positions"]} == listing
  (bias,) = pick(results, "positions", scenario="sequential", ranker="model")
  assert bias["spread"] == 0 and len(bias["by_position"]) == 10
  assert text.count("place in the prompt: largest - smallest .000") == len(
    listing
  )


def test_a_model_ranks_another_dataset(tiny_model, tmp_path):
  """Across domains: the other shop was built with its own vocabulary."""
  other = tmp_path / "other"
  prepare(format="synthetic", users=240, seed=5, out=other)
  build(other, train_vocabulary_size=450)
  own = (tiny_model / "vocabulary.model").read_bytes()
  assert (other / "vocabulary.model").read_bytes() != own
  results = evaluate(
    dataset=other,
    model=tiny_model,
    scenarios=["sequential"],
    limit=30,
    out=tmp_path / "out",
  )
  assert {row["n"] for row in results["rows"]} == {30}
  assert results["model"] != results["dataset"] == str(other)
  assert 0 <= value(results, "model", "hr@1") <= 0.6
