"""Tests for instructrec_jax/evaluation/{scores,compare}.py."""

import shutil

import numpy as np
import polars as pl
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.compare import compare, to_markdown
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.metrics import (
  holm,
  metrics_of_ranks,
  ranking_metrics,
)

from .conftest import FakeModel, pick, value

SCENARIOS = ["sequential", "pointwise", "sequential_full"]
RANKERS = ["popularity", "tfidf", "model"]


@pytest.fixture(scope="module")
def runs(built, tmp_path_factory):
  """Two runs of models of which the second knows more, and what they found."""
  folder = tmp_path_factory.mktemp("runs")
  found = {}
  for name, share in (("a", 3), ("b", 4)):
    with pytest.MonkeyPatch.context() as patch:
      model = FakeModel(lambda r, _, share=share: r.user % share)
      patch.setattr(
        "instructrec_jax.scoring.reranker.T5Ranker.load", model.load
      )
      found[name] = evaluate(
        dataset=built,
        model=folder,
        scenarios=SCENARIOS,
        rankers=RANKERS,
        limit=60,
        seed=5,
        out=folder / name,
      )
  return folder, found


@pytest.mark.parametrize("scenario", ["sequential", "sequential_full"])
def test_the_kept_ranks_give_the_tables_metrics(runs, scenario):
  folder, found = runs
  kept = pl.read_parquet(folder / "a" / "scores" / f"{scenario}.parquet")
  assert list(kept["ranker"].unique(maintain_order=True)) == RANKERS
  for name in RANKERS:
    rows = kept.filter(ranker=name)
    metrics = metrics_of_ranks(
      rows["above"].to_numpy(), rows["tied"].to_numpy()
    )
    for metric, values in metrics.items():
      expected = value(found["a"], name, metric, scenario)
      assert values.mean() == pytest.approx(expected)
    if scenario == "sequential":
      assert ranking_metrics(
        list(rows["scores"].to_numpy()), rows["target"].to_list()
      )["hr@1"].mean() == pytest.approx(value(found["a"], name, "hr@1"))
    else:
      assert set(rows["scores"].list.len()) == {10}
      best = rows["scores"].list
      assert (best.first() == best.max()).all()
      assert (rows["items"].list.n_unique() == 10).all()


def test_two_runs_differ_by_their_tables_difference(runs):
  folder, found = runs
  rows = compare(folder / "a", folder / "b", resamples=200, seed=1)
  assert [r["metric"] for r in rows if r["a"] == "model"] == [
    *found["a"]["scenarios"][0]["metrics"],
    "auc",
    *found["a"]["scenarios"][2]["metrics"],
  ]
  for row in rows:
    assert row["a"] == row["b"]
    name = row["scenario"], row["metric"]
    a, b = (value(found[r], row["a"], name[1], name[0]) for r in "ab")
    assert row["difference"] == pytest.approx(b - a)
    assert row["low"] - 1e-9 <= row["difference"] <= row["high"] + 1e-9
    assert row["n"] == 60
    if row["a"] != "model":
      assert row["p"] == row["p_holm"] == 1
  np.testing.assert_allclose(
    [r["p_holm"] for r in rows], holm([r["p"] for r in rows])
  )
  lines = to_markdown(rows).splitlines()
  assert len(lines) == len(rows) + 2 and len(set(map(len, lines))) == 1
  assert (
    "| sequential " in lines[2]
    and f"{rows[0]['difference']:+.4f}" in (lines[2])
  )


def test_two_rankers_of_a_run_are_compared_as_in_its_table(runs):
  folder, found = runs
  rows = compare(
    folder / "a",
    folder / "a",
    rankers=("tfidf", "model"),
    scenarios=["sequential"],
    seed=5,
  )
  assert [row["metric"] for row in rows] == [
    *("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")
  ]
  for row in rows:
    (other,) = pick(
      found["a"],
      "comparisons",
      scenario="sequential",
      metric=row["metric"],
      ranker="model",
    )
    assert other["against"] == "tfidf"
    for key, expected in (("difference", "value"), ("low", "low"), ("p", "p")):
      assert row[key] == pytest.approx(other[expected])


def test_a_sample_is_compared_on_its_requests(runs, tmp_path):
  folder, _ = runs
  run = shutil.copytree(folder / "a", tmp_path / "sampled")
  path = run / "scores" / "sequential.parquet"
  kept, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
  few = kept.filter(ranker="model").tail(20)
  others = kept.filter(pl.col("ranker") != "model")
  pl.concat([others, few]).write_parquet(
    path, metadata={k: v for k, v in metadata.items() if "ARROW" not in k}
  )
  rows = compare(run, run, rankers=("tfidf", "model"), scenarios=["sequential"])
  assert {row["n"] for row in rows} == {20}


def test_built_requests_are_paired_with_bare_candidates(runs, built, tmp_path):
  folder, found = runs
  bare = shutil.copytree(built, tmp_path / "bare")
  shutil.rmtree(bare / "requests")
  (bare / "instructions.json").unlink()
  arguments = {"scenarios": ["sequential"], "limit": 60, "seed": 5}
  evaluate(
    dataset=bare, rankers=["popularity"], out=tmp_path / "of_bare", **arguments
  )
  rows = compare(
    tmp_path / "of_bare", folder / "a", rankers=("popularity", "model")
  )
  for row in rows:
    b, a = (value(found["a"], row[side], row["metric"]) for side in "ba")
    assert row["difference"] == pytest.approx(b - a)


def test_other_requests_or_candidates_are_refused(runs, built, tmp_path):
  folder, _ = runs
  evaluate(
    dataset=built,
    scenarios=["sequential"],
    rankers=["popularity"],
    limit=60,
    seed=6,
    out=tmp_path / "other",
  )
  with pytest.raises(InputError, match="requests or candidates differ"):
    compare(folder / "a", tmp_path / "other")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "does not differ from itself"),
    ({"rankers": ("model", "best")}, "no scenario with model and best"),
    ({"rankers": ("model",) * 2, "scenarios": ["nowhere"]}, "scores of 'now"),
    ({"b": "absent"}, "no results.json"),
    ({"b": "old"}, "no scores; `instructrec evaluate --out`"),
    ({"b": "broken"}, "or damaged"),
    ({"b": "b", "resamples": 0}, "at least 1"),
  ],
)
def test_bad_input_is_one_sentence(runs, tmp_path, arguments, message):
  folder, _ = runs
  for name in ("old", "broken"):
    shutil.copytree(folder / "b", tmp_path / name)
  shutil.rmtree(tmp_path / "old" / "scores")
  (tmp_path / "broken" / "scores" / "sequential.parquet").write_bytes(b"PAR1")
  b = arguments.pop("b", "a")
  b = folder / b if b in ("a", "b") else tmp_path / b
  with pytest.raises(InputError, match=message):
    compare(folder / "a", b, **arguments)
