"""Scores of requests: computed batch by batch, and kept as Parquet.

`evaluate --out DIR` keeps every ranker's scores in DIR/scores/SCENARIO.parquet,
one row a request and ranker:

- request_id, ranker, target: the target's index among the candidates;
- scores: float32, in candidate order; of a whole catalogue the best `TOP`
  alone, with their item numbers in `items`, to bound the file's size;
- above, tied: how many candidates score above the target, and as it (itself
  included); HR, NDCG and MRR follow from these two;
- margin: in place of above and tied, where single items are judged.

The file's metadata hold the scenario's name, its metrics, the number of its
requests and candidates_sha256.
"""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from instructrec_jax.data.held_out import candidate_bytes
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import target_ranks
from instructrec_jax.evaluation.rankers import entry_of
from instructrec_jax.evaluation.requests import RequestSource
from instructrec_jax.evaluation.runs import RunWriter
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.progress import progress
from instructrec_jax.records import Ranker, RankingRequest

FOLDER = "scores"
# Of a whole catalogue's scores.
TOP = 10
# Candidates held in memory at once: with 100 titles each, some 100 MB.
_CANDIDATES_AT_ONCE = 819_200

Scores = Sequence[Float[np.ndarray, " candidates"]]


def score_batches(
  source: RequestSource, rankers: Mapping[str, Ranker], *, label: str
) -> Iterator[tuple[list[RankingRequest], Callable[[str], list[np.ndarray]]]]:
  """Yields batches, each with a function that scores it by a ranker's name.

  The progress bar expects each ranker to score every batch.
  """
  size = max(1, _CANDIDATES_AT_ONCE // source.candidates)
  requests = source.read()
  with progress(
    total=source.count * len(rankers), desc=label, unit="request"
  ) as bar:
    while batch := list(itertools.islice(requests, size)):

      def score(
        name: str, batch: list[RankingRequest] = batch
      ) -> list[np.ndarray]:
        try:
          scores = rankers[name].score(batch)
        except InputError as error:
          raise InputError(
            f"{name}, requests from {batch[0].request_id} on: {error}"
          ) from None
        bar.update(len(batch))
        return scores

      yield batch, score


def score_margins(
  source: RequestSource,
  rankers: Mapping[str, Ranker],
  *,
  label: str,
  log: "ScoreLog | None" = None,
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " requests"]]:
  """Returns each ranker's margins of pointwise requests, and the labels.

  A language model's margin is log P(Yes) - log P(No); a baseline scores the
  item alone, so that is its margin. A label is 1 where the item was bought.
  """
  margins: dict[str, list[float]] = {name: [] for name in rankers}
  labels: list[int] = []
  for batch, score in score_batches(source, rankers, label=label):
    labels += [int(request.target == 0) for request in batch]
    if log:
      log.add_requests(batch)
    for name in rankers:
      scores = score(name)
      of_batch = [
        float(yes - no if entry_of(name).is_language_model else yes)
        for yes, no in scores
      ]
      margins[name] += of_batch
      if log:
        log.add(name, batch, scores, margin=np.array(of_batch))
  return {n: np.array(m) for n, m in margins.items()}, np.array(labels)


class ScoreLog:
  """Writes a scenario's scores, and hashes the candidates of its requests."""

  def __init__(
    self,
    scenario: Scenario,
    *,
    folder: pathlib.Path | None,
    runs: RunWriter | None = None,
  ):
    """Starts FOLDER/SCENARIO.parquet; without a folder it only hashes.

    `users` are those of all requests added so far; `runs` also gets requests
    and scores, unless single items are judged.
    """
    self._runs = None if scenario.pointwise else runs
    self.users: list[int | None] = []
    self._scenario = scenario
    self._digest = hashlib.sha256()
    self._requests = 0
    self._writer: pq.ParquetWriter | None = None
    self._schema = _schema(scenario)
    if folder is not None:
      folder.mkdir(parents=True, exist_ok=True)
      self._writer = pq.ParquetWriter(
        folder / f"{scenario.name}.parquet", self._schema, compression="zstd"
      )

  def __enter__(self) -> "ScoreLog":
    return self

  def __exit__(self, *error: Any) -> None:
    if self._runs:
      self._runs.close()
    if self._writer:
      self._writer.add_key_value_metadata(
        {
          "scenario": self._scenario.name,
          "metrics": json.dumps(self._scenario.metrics),
          "requests": str(self._requests),
          "candidates_sha256": self.candidates_sha256,
        }
      )
      self._writer.close()

  @property
  def candidates_sha256(self) -> str:
    """Hash of the candidates of all requests added so far."""
    return self._digest.hexdigest()

  def add_requests(self, requests: Sequence[RankingRequest]) -> None:
    """Hashes a batch of requests; call it once, whatever the rankers."""
    self._digest.update(candidate_bytes(requests))
    self.users += [request.user for request in requests]
    self._requests += len(requests)
    if self._runs:
      self._runs.add_requests(requests)

  def add(
    self,
    ranker: str,
    requests: Sequence[RankingRequest],
    scores: Scores,
    **columns: np.ndarray,
  ) -> None:
    """Keeps a batch's scores, and "above" and "tied", or "margin"."""
    if self._runs:
      self._runs.add(ranker, requests, scores)
    if not self._writer or not requests:
      return
    if self._scenario.candidates == "catalogue":
      best = [np.argsort(-row, kind="stable")[:TOP] for row in scores]
      columns["items"] = _lists(
        [
          np.array(request.candidate_items)[chosen]
          for request, chosen in zip(requests, best, strict=True)
        ],
        pa.int32(),
      )
      scores = [row[chosen] for row, chosen in zip(scores, best, strict=True)]
    self._writer.write_table(
      pa.table(
        {
          "request_id": [request.request_id for request in requests],
          "ranker": [ranker] * len(requests),
          "target": [request.target or 0 for request in requests],
          "scores": _lists(scores, pa.float32()),
          **columns,
        },
        schema=self._schema,
      )
    )

  def add_ranks(
    self, ranker: str, requests: Sequence[RankingRequest], scores: Scores
  ) -> tuple[np.ndarray, np.ndarray]:
    """Keeps a batch's scores; returns those of `metrics.target_ranks`.

    Raises:
      InputError: a score is NaN.
    """
    above, tied = target_ranks(scores, [r.target or 0 for r in requests])
    self.add(ranker, requests, scores, above=above, tied=tied)
    return above, tied


def _schema(scenario: Scenario) -> pa.Schema:
  columns = {
    "request_id": pa.string(),
    "ranker": pa.string(),
    "target": pa.int32(),
    "scores": pa.list_(pa.float32()),
  }
  if scenario.pointwise:
    return pa.schema(columns | {"margin": pa.float64()})
  if scenario.candidates == "catalogue":
    columns["items"] = pa.list_(pa.int32())
  return pa.schema(columns | {"above": pa.int32(), "tied": pa.int32()})


def _lists(rows: Scores, kind: pa.DataType) -> pa.ListArray:
  offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
  return pa.ListArray.from_arrays(
    pa.array(offsets, pa.int32()),
    pa.array(np.concatenate(rows).astype(kind.to_pandas_dtype()), kind),
  )
