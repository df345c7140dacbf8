"""Tests of ranking the whole catalogue."""

import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.requests import find_requests
from instructrec_jax.instructions.scenarios import find_scenarios

from .conftest import value

ITEMS, USERS = 40, 30


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  """Every title is that of two items."""
  folder = tmp_path_factory.mktemp("twins")
  rng = np.random.default_rng(3)
  (folder / "items.csv").write_text(
    "item_id,title,categories\n"
    + "".join(f"i{n},Lamp {n // 2},Home\n" for n in range(ITEMS))
  )
  # Cubed, so that some are bought far more often than others.
  chances = np.arange(1, ITEMS + 1) ** 3.0
  (folder / "interactions.csv").write_text(
    "user_id,item_id,timestamp\n"
    + "".join(
      f"u{user},i{item},{time}\n"
      for user in range(USERS)
      for time, item in enumerate(
        rng.choice(ITEMS, 8, replace=False, p=chances / chances.sum())
      )
    )
  )
  prepare(
    out=folder / "data",
    format="csv",
    interactions=folder / "interactions.csv",
    items=folder / "items.csv",
    min_count=0,
  )
  return folder / "data"


@pytest.fixture(scope="module")
def requests(shop):
  (scenario,) = find_scenarios(["sequential_full"])
  source = find_requests(
    scenario, folder=DatasetFolder.open(shop), split="test", need_text=False
  )
  return list(source.read())


def test_the_catalogue_is_without_own_items_and_the_targets_twin(
  shop, requests
):
  folder = DatasetFolder.open(shop)
  titles = [item.title for item in folder.items]
  assert len(requests) == USERS
  for request in requests:
    sequence = folder.sequences.user(request.user).tolist()
    target = sequence[-1]
    twins = {i for i, title in enumerate(titles) if title == titles[target]}
    left_out = (twins | set(sequence)) - {target}
    assert list(request.candidate_items) == sorted(
      set(range(len(titles))) - left_out
    )
    assert request.candidate_items[request.target] == target
    assert request.candidates[request.target] == titles[target]


def test_metrics_of_the_catalogue_are_those_of_ranking_everything(
  shop, requests, tmp_path
):
  results = evaluate(
    dataset=shop,
    scenarios=["sequential_full"],
    rankers=["popularity"],
    out=tmp_path / "out",
  )
  folder = DatasetFolder.open(shop)
  counts = np.zeros(len(folder.items))
  for user in range(USERS):
    counts[folder.sequences.user(user)[:-2]] += 1
  hits = []
  for request in requests:
    of_target = counts[request.candidate_items[request.target]]
    others = counts[list(request.candidate_items)]
    better = (others > of_target).sum()
    tied = (others == of_target).sum()
    # The target's rank is any of these, equally likely.
    hits.append(np.mean(better + np.arange(tied) < 10))
  assert value(
    results, "popularity", "hr@10", "sequential_full"
  ) == pytest.approx(np.mean(hits))
  (scenario,) = results["scenarios"]
  assert scenario["candidate_count"] == len(folder.items)
  text = (tmp_path / "out" / "results.md").read_text()
  assert f"up to {len(folder.items)} candidates, {USERS} test requests" in text
