"""Tests for instructrec_jax/evaluation/runs.py."""

import collections
import math
import shutil

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.compare import compare
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.runs import RunRanker, RunWriter
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.records import Item, RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.stream import (
  REQUESTS_KEY,
  scored_line,
  scores_schema,
)

from .conftest import pick, value

ITEMS = [Item(f"B{n}", f"title {n}") for n in range(6)]
SCENARIOS = ["sequential", "personalised_i2"]


def request(name, *items, target=0):
  return RankingRequest(
    name, "", ("",) * len(items), target=target, candidate_items=items
  )


def write(path, *lines):
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return path


@pytest.fixture(scope="module")
def written(built, tmp_path_factory):
  """An evaluation with TREC files, and what it found."""
  out = tmp_path_factory.mktemp("trec") / "out"
  results = evaluate(
    dataset=built,
    out=out,
    scenarios=SCENARIOS,
    rankers=["bm25", "cooccurrence"],
    limit=80,
    trec=True,
  )
  return out, results


def read(path):
  """Returns the cells of a file by request, in order."""
  found = collections.defaultdict(list)
  for line in path.read_text(encoding="utf-8").splitlines():
    name, *cells = line.split()
    found[name].append(cells)
  return found


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ranker", ["bm25", "cooccurrence"])
def test_the_files_alone_give_the_tables_figures(written, scenario, ranker):
  out, results = written
  judged = read(out / "trec" / f"{scenario}.qrels")
  ranked = read(out / "trec" / f"{scenario}.{ranker}.run")
  assert list(judged) == list(ranked) and len(judged) == 80
  hits, gains = [], []
  for name, lines in ranked.items():
    assert {item for _, item, *_ in lines} == {i for _, i, _ in judged[name]}
    assert [int(rank) for *_, rank, _, _ in lines] == list(range(1, 11))
    (target,) = [item for _, item, right in judged[name] if right == "1"]
    scores = {item: float(score) for _, item, _, score, _ in lines}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    above = sum(score > scores[target] for score in scores.values())
    tied = sum(score == scores[target] for score in scores.values())
    ranks = range(above + 1, above + tied + 1)
    hits.append(sum(rank == 1 for rank in ranks) / tied)
    gains.append(sum(1 / math.log2(1 + r) for r in ranks if r <= 5) / tied)
  found = value(results, ranker, "hr@1", scenario)
  assert np.mean(hits) == pytest.approx(found)
  found = value(results, ranker, "ndcg@5", scenario)
  assert np.mean(gains) == pytest.approx(found)


def test_what_was_written_is_read_as_the_same_ranker(written, built, tmp_path):
  out, first = written
  # One file may be of several scenarios.
  run = tmp_path / "theirs.run"
  run.write_text(
    "".join((out / f"trec/{s}.bm25.run").read_text() for s in SCENARIOS)
  )
  again = evaluate(
    dataset=built,
    out=tmp_path / "out",
    scenarios=SCENARIOS,
    rankers=["bm25", str(run)],
    limit=80,
  )
  for scenario in SCENARIOS:
    for metric in ("hr@1", "ndcg@5"):
      expected = value(first, "bm25", metric, scenario)
      assert value(again, "theirs.run", metric, scenario) == expected
  (cost,) = pick(again, "costs", ranker="theirs.run", scenario="sequential")
  assert cost["ms"] is cost["flops"] is cost["parameters"] is None
  text = (tmp_path / "out/results.md").read_text()
  assert "; theirs.run saw what its maker knows (" in text
  here = tmp_path / "out"
  pairs = compare(here, here, rankers=("bm25", run.name))
  assert len(pairs) == 10 and {row["difference"] for row in pairs} == {0}


def test_a_run_is_ranked_where_it_has_scores(written, built, tmp_path):
  out, _ = written
  results = evaluate(
    dataset=built,
    out=None,
    scenarios=SCENARIOS,
    rankers=["bm25", str(out / "trec/sequential.bm25.run")],
    limit=80,
  )
  rows = pick(results, "rows", ranker="sequential.bm25.run")
  assert {row["scenario"] for row in rows} == {"sequential"}


def test_a_bare_folder_takes_the_runs_of_a_built_one(written, built, tmp_path):
  out, first = written
  bare = shutil.copytree(built, tmp_path / "shop")
  shutil.rmtree(bare / "requests")
  (bare / "instructions.json").unlink()
  results = evaluate(
    dataset=bare,
    out=None,
    scenarios=["sequential"],
    rankers=[str(out / "trec/sequential.bm25.run")],
    limit=80,
  )
  found = value(results, "sequential.bm25.run", "hr@1")
  assert found == value(first, "bm25", "hr@1")


def test_candidates_that_are_missing_are_tied_behind(tmp_path):
  path = write(tmp_path / "a.run", "q Q0 B1 1 -2.5 x", "q Q0 B3 2 -7 x")
  ranker = RunRanker(path, ITEMS)
  (scores,) = ranker.score([request("q", 0, 1, 2, 3)])
  assert scores[1] > scores[3] > scores[0] == scores[2]
  assert (ranker.missing, ranker.candidates) == (2, 4)
  # Items that are no candidates, and requests that are not ranked, are none.
  assert ranker.score([request("q", 4)])[0].shape == (1,)


@pytest.mark.parametrize("suffix", ["run", "parquet"])
def test_ids_may_be_any_text(tmp_path, suffix):
  items = [Item("red tent", "a"), Item("100%", "b"), Item("blå", "c")]
  (scenario,) = find_scenarios(["sequential"])
  if suffix == "run":
    writer = RunWriter(tmp_path, scenario, items)
    asked = request("my request", 0, 1, 2, target=1)
    writer.add_requests([asked])
    writer.add("mine", [asked], [np.array([0.5, 0.25, 2])])
    writer.close()
    assert len(read(tmp_path / "sequential.qrels")["my%20request"]) == 3
    path = tmp_path / "sequential.mine.run"
  else:
    path = tmp_path / "mine.parquet"
    pl.DataFrame(
      {
        "request_id": ["my request"] * 3,
        "item_id": [item.item_id for item in items],
        "score": [0.5, 0.25, 2],
      }
    ).write_parquet(path)
  ranker = RunRanker(path, items)
  (scores,) = ranker.score([request("my request", 0, 1, 2)])
  assert scores.tolist() == [0.5, 0.25, 2]


def test_numbers_may_be_ids_in_parquet(tmp_path):
  items = [Item("17", "a"), Item("18", "b")]
  pl.DataFrame(
    {"request_id": [5, 5], "item_id": [18, 17], "score": [1, 2]}
  ).write_parquet(tmp_path / "a.parquet")
  ranker = RunRanker(tmp_path / "a.parquet", items)
  assert ranker.score([request("5", 0, 1)])[0].tolist() == [2, 1]


@pytest.mark.parametrize(
  ("line", "sentence"),
  [
    ("q Q0 B1 1 high x", "line 2: .*six columns are expected"),
    ("q B1 1 0.5", "line 2: .*six columns are expected"),
    ("q Q0 B1 1 nan x", "line 2: the score nan is no finite number"),
    ("q Q0 B0 1 7 x", "request 'q' has two scores of the item 'B0'"),
  ],
)
def test_bad_lines_are_told(tmp_path, line, sentence):
  path = write(tmp_path / "a.run", "q Q0 B0 1 0.5 x", line)
  with pytest.raises(InputError, match=sentence):
    RunRanker(path, ITEMS)


def test_bad_files_are_told(tmp_path):
  for lines, sentence in (
    ((), "it has no scores"),
    (("q Q0 XYZ 1 0.5 x",), "none of its items, such as 'XYZ'"),
  ):
    with pytest.raises(InputError, match=sentence):
      RunRanker(write(tmp_path / "a.run", *lines), ITEMS)
  (tmp_path / "b.run").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(InputError, match="not UTF-8"):
    RunRanker(tmp_path / "b.run", ITEMS)
  path = tmp_path / "c.parquet"
  for column in ({"score": ["x"]}, {"item_id": [None]}, {"score": [math.inf]}):
    good = {"request_id": ["q"], "item_id": ["B0"], "score": [1.0]}
    pl.DataFrame(good | column).write_parquet(path)
    with pytest.raises(InputError, match=r"c\.parquet: .*(column|score)"):
      RunRanker(path, ITEMS)


def test_a_run_of_other_requests_is_refused(built, tmp_path):
  folder = DatasetFolder.open(built)
  first = folder.items[0].item_id
  for name, lines, sentence in (
    ("none", ["q Q0 {} 1 0.5 x"], "none.run: it ranks no test request"),
    (
      "some",
      ["sequential-0 Q0 {} 1 0.5 x"],
      "no scores of 249 of 250",
    ),
  ):
    lines = [line.format(first) for line in lines]
    path = write(tmp_path / f"{name}.run", *lines)
    with pytest.raises(InputError, match=sentence):
      evaluate(
        dataset=built,
        out=tmp_path / "out",
        scenarios=["sequential"],
        rankers=["popularity", str(path)],
      )
  with pytest.raises(InputError, match=r"two runs are called none\.run"):
    evaluate(
      dataset=built,
      out=tmp_path / "out",
      rankers=[str(tmp_path / "none.run"), str(tmp_path / "x/none.run")],
    )
  assert not (tmp_path / "out").exists()


def test_scores_of_shards_give_one_processs_metrics(
  built, tiny_model, tmp_path
):
  path = built / "requests/sequential_test.parquet"
  out = tmp_path / "scores.parquet"
  requests = [*read_requests(path)]
  scores = T5Ranker.load(tiny_model).score(requests)
  lines = [
    scored_line(request, values, "sum")
    for request, values in zip(requests, scores, strict=True)
  ]
  table = pa.Table.from_pylist(lines, scores_schema(path, "sum"))
  pq.write_table(table, out)
  # As Beam writes them, in any order.
  for number, start in enumerate((130, 0)):
    part = tmp_path / f"shard-{number}.parquet"
    pq.write_table(table.slice(start, 130), part)
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=None,
    scenarios=["sequential", "sequential_full"],
    rankers=["model", str(out), str(tmp_path / "shard-*.parquet")],
  )
  for metric in ("hr@1", "hr@5", "ndcg@5"):
    expected = value(results, "model", metric, "sequential")
    for name in ("scores.parquet", "shard-*.parquet"):
      assert value(results, name, metric, "sequential") == expected
  rows = pick(results, "rows", ranker="scores.parquet")
  assert {row["scenario"] for row in rows} == {"sequential"}


def test_scores_of_what_was_built_otherwise_are_refused(built, tmp_path):
  ids = [f"sequential-{n}" for n in range(250)]
  frame = {"request_id": ids, "scores": [[0.5] * 10] * 250}
  path = tmp_path / "scores.parquet"
  for known, more, sentence in (
    ({}, [], "does not say what requests"),
    ({REQUESTS_KEY: "0"}, [], "not of .*sequential_test.parquet as it is now"),
    ({REQUESTS_KEY: "0"}, ["sequential-1"], "has scores twice"),
  ):
    rows = pl.DataFrame(frame).head(len(ids) - len(more))
    rows = rows.vstack(pl.DataFrame(frame).slice(1, len(more)))
    rows.write_parquet(path, metadata=known)
    with pytest.raises(InputError, match=sentence):
      evaluate(
        dataset=built, out=None, scenarios=["sequential"], rankers=[str(path)]
      )
