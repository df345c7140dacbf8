"""One scenario ranked by all rankers: its block of the results."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from instructrec_jax.data.held_out import candidate_bytes
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import (
  chat_sample,
  pointwise,
  protocol,
  summaries,
)
from instructrec_jax.evaluation.exposure import Exposure
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.records import Ranker, RankingRequest

Block = dict[str, list[dict[str, Any]]]
"""What a scenario adds to the lists in results.json."""

# Candidates held in memory at once: with 100 titles each, some 100 MB.
_CANDIDATES_AT_ONCE = 819_200


def ranking_block(
  scenario: Scenario,
  source: protocol.RequestSource,
  rankers: Mapping[str, Ranker],
  *,
  counts: np.ndarray,
  chat: chat_sample.ChatSample | None,
  retrieved: Mapping[int, bool] | None,
  by_position: bool,
  seed: int,
) -> Block:
  """Ranks a scenario's candidates.

  Args:
    scenario: any but a pointwise one.
    source: its requests.
    rankers: by name, in the table's order.
    counts: training purchases of each item.
    chat: what a chat model made of some of the requests, if one was asked.
    retrieved: by user, whether the matcher itself found the target, where
      candidates are a matcher's.
    by_position: also tell HR@1 by the target's place among the candidates.
    seed: of the bootstrap.
  """
  digest = hashlib.sha256()
  per_batch: dict[str, list] = {name: [] for name in rankers}
  exposures = {name: Exposure(counts) for name in rankers}
  slots, target_items, users = [], [], []
  for batch, score in _batches(source, rankers, label=scenario.name):
    digest.update(candidate_bytes(batch))
    targets = [request.target or 0 for request in batch]
    slots += targets
    users += [request.user for request in batch]
    target_items += [
      request.candidate_items[target]
      for request, target in zip(batch, targets, strict=True)
    ]
    for name in rankers:
      scores = score(name)
      per_batch[name].append(ranking_metrics(scores, targets))
      exposures[name].add(batch, scores)
  metrics = {
    name: summaries.joined(batches) for name, batches in per_batch.items()
  }
  rows, comparisons = summaries.summarise_ranking(scenario, metrics, seed=seed)
  end_to_end = []
  if retrieved is not None:
    there = np.array([retrieved[user] for user in users], float)
    found = {
      name: {metric: values * there for metric, values in by_metric.items()}
      for name, by_metric in metrics.items()
    }
    end_to_end, _ = summaries.summarise_ranking(scenario, found, seed=seed)
  of_chat = []
  if chat is not None:
    own_rows, entry = chat_sample.summarise(
      scenario, chat, metrics, requests=source.count, seed=seed
    )
    rows, of_chat = rows + own_rows, [entry]
  return {
    "scenarios": [_description(scenario, source, digest.hexdigest())],
    "rows": rows,
    "end_to_end": end_to_end,
    "comparisons": comparisons,
    "chat": of_chat,
    "positions": summaries.summarise_positions(
      scenario, metrics, slots=np.array(slots), seed=seed
    )
    if by_position
    else [],
    "popularity": summaries.summarise_popularity(
      scenario,
      metrics,
      exposures=exposures,
      targets=np.array(target_items),
      counts=counts,
      seed=seed,
    ),
  }


def pointwise_block(
  scenario: Scenario,
  source: protocol.RequestSource,
  rankers: Mapping[str, Ranker],
  *,
  validation: protocol.RequestSource | None,
  seed: int,
) -> Block:
  """Judges single items: Yes or No.

  Args:
    scenario: a pointwise one.
    source: its requests.
    rankers: by name, in the table's order.
    validation: what the model's temperature is fitted on, if there is one.
    seed: of the bootstrap.
  """
  digest = hashlib.sha256()
  margins, labels = _margins(source, rankers, label=scenario.name, hash=digest)
  temperatures = {}
  if validation is not None:
    fitted_on, answers = _margins(
      validation,
      {"model": rankers["model"]},
      label=f"{scenario.name}, temperature",
    )
    temperatures["model"] = pointwise.fit_temperature(
      fitted_on["model"], answers
    )
  return {
    "scenarios": [_description(scenario, source, digest.hexdigest())],
    "rows": summaries.summarise_pointwise(
      scenario,
      margins=margins,
      labels=labels,
      temperatures=temperatures,
      seed=seed,
    ),
    "temperatures": [
      {"scenario": scenario.name, "ranker": name, "value": value}
      for name, value in temperatures.items()
    ],
  }


def first_metric(
  scenario: Scenario,
  source: protocol.RequestSource,
  ranker: Ranker,
  *,
  label: str = "",
) -> float:
  """Returns the model's mean of the metric that decides: HR@1, or AUC."""
  rankers, label = {"model": ranker}, f"{scenario.name}, {label}"
  if scenario.pointwise:
    margins, labels = _margins(source, rankers, label=label)
    return pointwise.auc(margins["model"], labels)
  values = [
    ranking_metrics(score("model"), [r.target or 0 for r in batch])[
      scenario.metrics[0]
    ]
    for batch, score in _batches(source, rankers, label=label)
  ]
  return float(np.concatenate(values).mean())


def _margins(
  source: protocol.RequestSource,
  rankers: Mapping[str, Ranker],
  *,
  label: str,
  hash: Any = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Returns log P(Yes) - log P(No), or a baseline's score, and the labels."""
  margins: dict[str, list[float]] = {name: [] for name in rankers}
  labels: list[int] = []
  for batch, score in _batches(source, rankers, label=label):
    if hash is not None:
      hash.update(candidate_bytes(batch))
    labels += [int(request.target == 0) for request in batch]
    for name in rankers:
      # To a baseline, Yes and No are the same item twice.
      margins[name] += [
        float(yes - no if name in ("model", "zero_shot") else yes)
        for yes, no in score(name)
      ]
  return {n: np.array(m) for n, m in margins.items()}, np.array(labels)


def _batches(
  source: protocol.RequestSource,
  rankers: Mapping[str, Ranker],
  *,
  label: str,
) -> Iterator[tuple[list[RankingRequest], Callable[[str], list[np.ndarray]]]]:
  """Yields batches, each with what scores it by a ranker's name."""
  size = max(1, _CANDIDATES_AT_ONCE // source.candidates)
  with tqdm.tqdm(
    total=source.count * len(rankers), desc=label, unit="request", disable=None
  ) as progress:
    for batch in _batched(source.read(), size):

      def score(
        name: str, batch: list[RankingRequest] = batch
      ) -> list[np.ndarray]:
        try:
          scores = rankers[name].score(batch)
        except InputError as error:
          raise InputError(
            f"{name}, requests from {batch[0].request_id} on: {error}"
          ) from None
        progress.update(len(batch))
        return scores

      yield batch, score


def _description(
  scenario: Scenario, source: protocol.RequestSource, digest: str
) -> dict[str, Any]:
  return {
    **dataclasses.asdict(scenario),
    "aspects": scenario.label,
    "candidate_count": source.candidates,
    "requests": source.count,
    "source": str(source.path),
    "candidates_sha256": digest,
  }


def _batched(requests: Iterable, size: int) -> Iterator[list]:
  batch = []
  for request in requests:
    batch.append(request)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch
