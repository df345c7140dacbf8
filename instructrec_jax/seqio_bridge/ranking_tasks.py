"""Ranking requests as SeqIO tasks, so that T5X scores them.

`instructrec_rank_sequential_v1` is the scenario "sequential": an example for
each request and candidate, whose target is the candidate's text, and score
metrics that put the rankings together again. `instructrec_rank_v1` is the
mixture of all. Each task reads DATASET/requests/SCENARIO_SPLIT.parquet when it
is first used.

Left to `instructrec evaluate` are scenarios that one pass over a file cannot
score: a tournament's second round depends on its first, and the whole
catalogue of each user does not stand in the file.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from instructrec_jax.evaluation.scenarios import SCENARIOS
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.seqio_bridge.location import dataset_in_use
from instructrec_jax.seqio_bridge.metrics import place, score_metric
from instructrec_jax.seqio_bridge.vocabulary import DatasetVocabulary

PREFIX = "instructrec_rank_"
MIXTURE = "instructrec_rank_v1"
RANKED = tuple(s for s in SCENARIOS if s.negatives and not s.tournament)
_SPLITS = ("validation", "test")


class RequestSource(seqio.FunctionDataSource):
  """A scenario's requests; its splits are those that have been written."""

  def __init__(self, scenario: str):
    """Names the files and looks at none."""
    self._scenario = scenario
    super().__init__(
      functools.partial(_read, scenario=scenario),
      splits=_SPLITS,
      caching_permitted=False,
    )

  @property
  def splits(self) -> Sequence[str]:
    """The splits with requests; SeqIO does not allow there to be none."""
    found = tuple(s for s in _SPLITS if _path(self._scenario, s).exists())
    return found or ("none",)

  def num_input_examples(self, split: str) -> int:
    """Returns how many candidates a split has, in all its requests."""
    return sum(
      len(request.candidates)
      for request in _known_requests(self._scenario, split)
    )


def task_name(scenario: str) -> str:
  """Returns the name of a scenario's task."""
  return f"{PREFIX}{scenario}_v1"


def register_ranking() -> None:
  """Adds the tasks and their mixture, in place of earlier ones."""
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    for name in list(registry.names()):
      if name.startswith(PREFIX):
        registry.remove(name)
  vocabulary = DatasetVocabulary()
  for scenario in RANKED:
    seqio.TaskRegistry.add(
      task_name(scenario.name),
      source=RequestSource(scenario.name),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features={
        name: seqio.Feature(vocabulary=vocabulary, add_eos=True)
        for name in ("inputs", "targets")
      },
      postprocess_fn=place,
      metric_fns=[score_metric(scenario)],
    )
  seqio.MixtureRegistry.add(
    MIXTURE, [task_name(s.name) for s in RANKED], default_rate=1.0
  )


def _path(scenario: str, split: str) -> pathlib.Path:
  return dataset_in_use() / "requests" / f"{scenario}_{split}.parquet"


def _known_requests(scenario: str, split: str) -> list[RankingRequest]:
  requests = read_requests(_path(scenario, split))
  return [r for r in requests if r.target is not None]


def _read(
  split: str, shuffle_files: bool, seed: int | None = None, *, scenario: str
) -> tf.data.Dataset:
  """Returns the examples of a scenario, a request's candidates in a row.

  Requests come in a random order, always the same one: an evaluator that takes
  the first so many examples gets a fair sample of the users. Texts are laid
  out by request, and their instruction is repeated for one at a time.
  """
  del shuffle_files, seed
  requests = _known_requests(scenario, split)
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
