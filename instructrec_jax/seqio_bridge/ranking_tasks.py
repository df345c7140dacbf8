"""Ranking requests as SeqIO tasks, so that T5X scores them.

`instructrec_rank_sequential_v1` is the scenario "sequential": an example for
each request and candidate, whose target is the candidate's text, and a score
metric that groups the scores by request. `instructrec_rank_v1` is the mixture
of all. Each task reads DATASET/requests/SCENARIO_SPLIT.parquet when it is
first used.

Two kinds of scenario are left to `instructrec evaluate`, as one pass over a
file cannot score them: a tournament's second round depends on its first, and
the file does not list the whole catalogue for each user.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from instructrec_jax.data.folder import requests_file
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  pointwise_metrics,
  ranking_metrics,
)
from instructrec_jax.instructions.scenarios import SCENARIOS, Scenario
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.seqio_bridge.registration import qualified, replace
from instructrec_jax.seqio_bridge.vocabulary import (
  dataset_in_use,
  text_features,
)

PREFIX = "instructrec_rank_"
MIXTURE = "instructrec_rank_v1"
RANKED = tuple(s for s in SCENARIOS if s.negatives and not s.tournament)
_SPLITS = ("validation", "test")

Place = dict[str, int]
"""Of an example: the number of its request, its index among the request's
candidates, the number of these and the index of the right one."""
_PLACE = ("request", "candidate", "candidates", "target")


class RequestSource(seqio.FunctionDataSource):
  """A scenario's requests; its splits are those that have been written."""

  def __init__(self, scenario: str, dataset: pathlib.Path | None = None):
    """Names the files and reads none; `dataset` is the one in use if None."""
    self._find = functools.partial(_path, scenario, dataset)
    super().__init__(
      functools.partial(_read, find=self._find),
      splits=_SPLITS,
      caching_permitted=False,
    )

  @property
  def splits(self) -> Sequence[str]:
    """The splits with requests; SeqIO does not allow there to be none."""
    found = tuple(s for s in _SPLITS if self._find(s).exists())
    return found or ("none",)

  def num_input_examples(self, split: str) -> int:
    """Returns the number of candidates of all requests of a split."""
    requests = _labelled_requests(self._find(split))
    return sum(len(request.candidates) for request in requests)


def task_name(scenario: str, dataset: str = "") -> str:
  """Returns the name of a scenario's task, with that of a dataset if any."""
  return qualified(f"{PREFIX}{scenario}_v1", dataset)


def register_ranking(
  *, dataset: pathlib.Path | None = None, name: str = ""
) -> None:
  """Adds the tasks and their mixture, in place of earlier ones.

  Args:
    dataset: the folder; the one in use if None.
    name: of the dataset, in all names.
  """
  tasks = {scenario: task_name(scenario.name, name) for scenario in RANKED}
  mixture = qualified(MIXTURE, name)
  replace(f"rank {name}", [*tasks.values(), mixture])
  features = text_features(dataset)
  for scenario, task in tasks.items():
    seqio.TaskRegistry.add(
      task,
      source=RequestSource(scenario.name, dataset),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=features,
      postprocess_fn=place,
      metric_fns=[score_metric(scenario)],
    )
  seqio.MixtureRegistry.add(mixture, [*tasks.values()], default_rate=1.0)


def place(
  text: str, *, example: Mapping[str, Any], is_target: bool = True
) -> Place:
  """Postprocesses an example's target: tells where its score belongs."""
  del text, is_target
  return {name: int(example[name]) for name in _PLACE}


def score_metric(
  scenario: Scenario,
) -> Callable[[Sequence[Place], Sequence[float]], dict[str, float]]:
  """Returns a SeqIO score metric: the means of a scenario's metrics.

  "requests" is the number of requests averaged: one with unscored candidates,
  as an evaluator's `num_examples` may leave it, is excluded.
  """

  # SeqIO recognises a score metric by the names of its arguments.
  def metric(
    targets: Sequence[Place], scores: Sequence[float]
  ) -> dict[str, float]:
    by_request, right = group_scores(targets, scores)
    if scenario.pointwise:
      margins = np.array([yes - no for yes, no in by_request])
      means = pointwise_metrics(margins, (np.array(right) == 0).astype(int))
    else:
      cutoffs = {int(n.split("@")[1]) for n in scenario.metrics if "@" in n}
      values = ranking_metrics(by_request, right, ks=sorted(cutoffs))
      means = {name: float(column.mean()) for name, column in values.items()}
    return {name: means[name] for name in scenario.metrics} | {
      "requests": len(right)
    }

  return metric


def group_scores(
  places: Sequence[Place], scores: Sequence[float]
) -> tuple[list[np.ndarray], list[int]]:
  """Groups the scores of places, which are in any order, by request.

  Returns:
    The scores of each request that has a score of each candidate, in the
    candidates' order; and the index of the right candidate.

  Raises:
    InputError: there is no such request.
  """
  found: dict[int, np.ndarray] = {}
  right: dict[int, int] = {}
  for where, score in zip(places, scores, strict=True):
    request = where["request"]
    if request not in found:
      found[request] = np.full(where["candidates"], np.nan)
      right[request] = where["target"]
    found[request][where["candidate"]] = score
  complete = [n for n, values in found.items() if not np.isnan(values).any()]
  if not complete:
    raise InputError(
      f"none of {len(found)} requests has a score of each candidate: raise the "
      "evaluator's num_examples, or look for NaN in the model's weights."
    )
  return [found[n] for n in complete], [right[n] for n in complete]


def _path(
  scenario: str, dataset: pathlib.Path | None, split: str
) -> pathlib.Path:
  return (dataset or dataset_in_use()) / requests_file(scenario, split)


def _labelled_requests(path: pathlib.Path) -> list[RankingRequest]:
  return [r for r in read_requests(path) if r.target is not None]


def _read(
  split: str,
  shuffle_files: bool,
  seed: int | None = None,
  *,
  find: Callable[[str], pathlib.Path],
) -> tf.data.Dataset:
  """Returns the examples of a scenario; a request's candidates are adjacent.

  Requests come in a fixed random order: an evaluator that takes the first N
  examples gets a fair sample of the users. The instruction is repeated for the
  candidates of one request at a time, to bound memory.
  """
  del shuffle_files, seed
  requests = _labelled_requests(find(split))
  order = np.random.default_rng(0).permutation(len(requests))
  chosen = [requests[i] for i in order]
  columns: Any = {
    "inputs": [r.instruction for r in chosen],
    "targets": tf.ragged.constant(
      [r.candidates for r in chosen], dtype=tf.string
    ),
    "request_id": [r.request_id for r in chosen],
    "request": order.astype(np.int32),
    "target": np.array([r.target for r in chosen], np.int32),
  }
  return tf.data.Dataset.from_tensor_slices(columns).flat_map(_by_candidate)


def _by_candidate(row: dict[str, tf.Tensor]) -> tf.data.Dataset:
  candidates = row["targets"]
  count = tf.size(candidates)
  columns: Any = {
    name: tf.repeat(value, count)
    for name, value in row.items()
    if name != "targets"
  }
  columns |= {
    "targets": candidates,
    "candidate": tf.range(count),
    "candidates": tf.repeat(count, count),
  }
  return tf.data.Dataset.from_tensor_slices(columns)
