"""Ranking requests as SeqIO tasks, and HR and NDCG out of their scores."""

import collections
import dataclasses
import shutil

import numpy as np
import pytest
import seqio

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  pointwise_metrics,
  ranking_metrics,
)
from instructrec_jax.instructions.scenarios import SCENARIOS, find_scenarios
from instructrec_jax.requests import read_requests, write_requests
from instructrec_jax.seqio_bridge import ranking_tasks, registration
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

SEQUENTIAL = "instructrec_rank_sequential_v1"


@pytest.fixture
def in_use(dataset):
  """A dataset folder that SeqIO reads, the ranking tasks registered."""
  registration.use_dataset(dataset)
  ranking_tasks.register_ranking()
  yield dataset
  registration.use_dataset(dataset)


@pytest.fixture
def other(in_use, tmp_path):
  """Another folder that SeqIO reads, with a vocabulary and no requests."""
  shutil.copy(in_use / "vocabulary.model", tmp_path)
  seqio.set_tfds_data_dir_override(str(tmp_path))
  return tmp_path


def _requests(dataset, name="sequential", split="test"):
  return list(read_requests(dataset / "requests" / f"{name}_{split}.parquet"))


def _examples(task, split="test"):
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    None, split=split, shuffle=False, use_cached=False
  )
  return list(dataset.as_numpy_iterator())


def _evaluate(task, score, **options):
  """Lets SeqIO evaluate a task as T5X does; `score` maps texts to scores."""
  evaluator = seqio.Evaluator(
    task,
    seqio.EncDecFeatureConverter(pack=False),
    eval_split="test",
    **options,
  )
  (name,) = evaluator.cached_task_datasets
  rows = evaluator.cached_task_datasets[name].as_numpy_iterator()
  scores = [
    (index, score(row["request_id"].decode(), int(row["candidate"])))
    for index, row in enumerate(rows)
  ]
  # T5X's results come in the order of its shards.
  scores = scores[::-1]
  future, _ = evaluator.evaluate(
    compute_metrics=True, score_fn=lambda dataset: scores
  )
  return future.result()[name]


def test_an_example_for_each_candidate(in_use):
  requests = {r.request_id: r for r in _requests(in_use)}
  found = collections.defaultdict(list)
  encode = Vocabulary.load(in_use / "vocabulary.model").encode_one
  for example in _examples(SEQUENTIAL):
    request = requests[example["request_id"].decode()]
    place = int(example["candidate"])
    found[request.request_id].append(place)
    assert example["target"] == request.target
    assert example["candidates"] == len(request.candidates)
    for name, text in (
      ("inputs", request.instruction),
      ("targets", request.candidates[place]),
    ):
      assert example[f"{name}_pretokenized"].decode() == text
      # The very ids that our own scorer takes.
      assert example[name].tolist() == [*encode(text), EOS_ID]
  assert found == {name: list(range(10)) for name in requests}


def test_requests_come_in_one_random_order(in_use):
  first, again = (
    [example["request_id"] for example in _examples(SEQUENTIAL)]
    for _ in range(2)
  )
  written = [r.request_id.encode() for r in _requests(in_use)]
  assert first == again
  assert first[::10] != written
  assert sorted(first[::10]) == sorted(written)


def test_seqio_computes_what_our_tables_say(in_use):
  # Few distinct scores, so that many candidates tie.
  rng = np.random.default_rng(0)
  requests = _requests(in_use)
  scores = {r.request_id: rng.integers(0, 3, 10) for r in requests}
  found = _evaluate(SEQUENTIAL, lambda name, i: float(scores[name][i]))
  wanted = ranking_metrics(
    [scores[r.request_id] for r in requests], [r.target for r in requests]
  )
  assert found.pop("requests") == len(requests)
  assert list(found) == list(SCENARIOS[0].metrics)
  for name, value in found.items():
    assert value == pytest.approx(wanted[name].mean(), abs=1e-12)


def test_equal_scores_are_a_random_guess(in_use):
  found = _evaluate(SEQUENTIAL, lambda name, i: -1.5)
  assert found["hr@1"] == pytest.approx(0.1)
  assert found["hr@5"] == pytest.approx(0.5)


def test_yes_and_no_are_judged_by_their_margin(in_use, other):
  requests = [
    dataclasses.replace(
      r, candidates=("Yes", "No"), candidate_items=(), target=int(n % 3 == 0)
    )
    for n, r in enumerate(_requests(in_use))
  ]
  write_requests(other / "requests" / "pointwise_test.parquet", requests)
  rng = np.random.default_rng(0)
  scores = {r.request_id: rng.normal(size=2) for r in requests}
  found = _evaluate(
    "instructrec_rank_pointwise_v1", lambda name, i: float(scores[name][i])
  )
  wanted = pointwise_metrics(
    np.array([np.subtract(*scores[r.request_id]) for r in requests]),
    np.array([int(r.target == 0) for r in requests]),
  )
  assert found == pytest.approx(
    {n: wanted[n] for n in ("auc", "log_loss", "ece")}
    | {"requests": len(requests)}
  )


def test_a_request_cut_short_is_left_out(in_use):
  found = _evaluate(SEQUENTIAL, lambda name, i: float(i), num_examples=57)
  assert found["requests"] == 5
  # SeqIO wraps what a metric raises.
  with pytest.raises(ValueError, match="raise the evaluator's num_examples"):
    _evaluate(SEQUENTIAL, lambda name, i: 0.0, num_examples=9)


def test_a_nan_ranks_nothing():
  (scenario,) = find_scenarios(["sequential"])
  place = {"request": 0, "candidates": 1, "target": 0, "candidate": 0}
  with pytest.raises(InputError, match="NaN"):
    ranking_tasks.score_metric(scenario)([place], [float("nan")])


def test_requests_of_unknown_targets_are_left_out(in_use, other):
  requests = _requests(in_use)
  unknown = dataclasses.replace(requests[0], target=None)
  write_requests(
    other / "requests" / "sequential_test.parquet", [unknown, *requests[1:]]
  )
  count = 10 * (len(requests) - 1)
  assert len(_examples(SEQUENTIAL)) == count
  task = seqio.get_mixture_or_task(SEQUENTIAL)
  assert task.num_input_examples("test") == count


def test_a_scenario_without_requests_is_passed_over(in_use):
  tasks = seqio.get_mixture_or_task(ranking_tasks.MIXTURE).tasks
  splits = {task.name: set(task.splits) for task in tasks}
  assert splits.keys() == {
    ranking_tasks.task_name(s.name)
    for s in SCENARIOS
    if s.name
    not in ("sequential_full", "sequences_full", "personalised_i1_tournament")
  }
  assert splits[SEQUENTIAL] == {"validation", "test"}
  assert splits["instructrec_rank_pointwise_v1"] == {"none"}
