"""Every ranker on the very same candidates: from requests to the table."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import intervals, protocol, report
from instructrec_jax.evaluation.metrics import (
  check_consistency,
  ranking_metrics,
)
from instructrec_jax.evaluation.rankers import (
  BASELINES,
  find_rankers,
  load_ranker,
)
from instructrec_jax.evaluation.scenarios import Scenario, find_scenarios
from instructrec_jax.records import Ranker

# Requests held in memory at once: with 100 titles each, some 100 MB.
_BATCH = 8192


def evaluate(
  *,
  dataset: pathlib.Path,
  out: pathlib.Path,
  model: pathlib.Path | None = None,
  scenarios: Sequence[str] = ("all",),
  rankers: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  seed: int = 0,
  force: bool = False,
) -> dict[str, Any]:
  """Ranks a dataset folder's requests and writes results.json and results.md.

  Baselines are fitted on the training interactions. Without a model, a folder
  that has candidates but no built instructions will do.

  Args:
    dataset: a folder of `prepare`, or of `build` if a model is to be ranked.
    out: the folder to write.
    model: a folder of `train` or `export`.
    scenarios: names from `scenarios.SCENARIOS`; "all" is every one that the
      catalogue is large enough for.
    rankers: names from `rankers.RANKERS`; "all" is every one that is available.
    split: "validation" or "test".
    limit: only a random sample of so many requests of each scenario.
    seed: of that sample and of the bootstrap.
    force: replace `out` if it exists.

  Returns:
    What results.json holds: `rows` of scenario, ranker, metric, value, low,
    high (the 95% interval) and n; `comparisons` of every ranker with the best
    baseline; `scenarios` with the hash of their candidates; `labels`, how
    tables call the rankers; the arguments.

  Raises:
    InputError: an argument is unknown or something is missing, or a folder's
      requests were built from other candidates than it holds.
  """
  chosen = find_scenarios(scenarios)
  if split not in ("validation", "test"):
    raise InputError(f"there is no split {split!r}: validation or test.")
  if limit is not None and limit < 1:
    raise InputError(f"limit is {limit}: rank at least one request.")
  folder = DatasetFolder.open(dataset)
  names = find_rankers(rankers, folder=folder, model=model)
  if "all" in scenarios:
    chosen = [
      scenario
      for scenario in chosen
      if protocol.has_candidates(scenario, folder=folder, split=split)
    ] or chosen[:1]
  sources = [
    protocol.find_requests(
      scenario,
      folder=folder,
      split=split,
      need_text="model" in names,
      limit=limit,
      seed=seed,
    )
    for scenario in chosen
  ]
  for source in sources:
    if not source.count:
      raise InputError(f"{source.path}: there are no requests to rank.")
  with storage.staged_folder(pathlib.Path(out), force=force) as partial:
    loaded = {
      name: load_ranker(name, folder=folder, model=model) for name in names
    }
    results = {
      "dataset": str(dataset),
      "dataset_sha256": storage.sha256_of(folder.path / "manifest.json"),
      "model": None if model is None else str(model),
      "split": split,
      "limit": limit,
      "seed": seed,
      "labels": {name: ranker.name for name, ranker in loaded.items()},
      "scenarios": [],
      "rows": [],
      "comparisons": [],
    }
    for scenario, source in zip(chosen, sources, strict=True):
      _evaluate_scenario(
        scenario, source=source, rankers=loaded, seed=seed, results=results
      )
    storage.write_json(partial / "results.json", results)
    (partial / "results.md").write_text(
      report.markdown(results), encoding="utf-8"
    )
  return results


def _evaluate_scenario(
  scenario: Scenario,
  *,
  source: protocol.RequestSource,
  rankers: dict[str, Ranker],
  seed: int,
  results: dict[str, Any],
) -> None:
  """Appends one scenario's block to `results`."""
  digest = hashlib.sha256()
  per_batch = {name: [] for name in rankers}
  with tqdm.tqdm(
    total=source.count * len(rankers),
    desc=scenario.name,
    unit="request",
    disable=None,
  ) as progress:
    for batch in _batched(source.read()):
      targets = [request.target for request in batch]
      digest.update(protocol.candidate_bytes(batch))
      for name, ranker in rankers.items():
        try:
          metrics = ranking_metrics(ranker.score(batch), targets)
        except InputError as error:
          raise InputError(
            f"{name}, requests from {batch[0].request_id} on: {error}"
          ) from None
        per_batch[name].append(metrics)
        progress.update(len(batch))
  metrics = {
    name: {
      metric: np.concatenate([batch[metric] for batch in batches])
      for metric in batches[0]
    }
    for name, batches in per_batch.items()
  }
  results["scenarios"].append(
    {
      **dataclasses.asdict(scenario),
      "requests": source.count,
      "source": str(source.path),
      "candidates_sha256": digest.hexdigest(),
    }
  )
  rows, comparisons = _summarise(scenario, metrics, seed=seed)
  results["rows"] += rows
  results["comparisons"] += comparisons


def _summarise(
  scenario: Scenario, metrics: dict[str, dict[str, np.ndarray]], *, seed: int
) -> tuple[list[dict], list[dict]]:
  """Means, intervals, and paired differences from the best baseline."""
  columns = [(name, metric) for name in metrics for metric in metrics[name]]
  values_UxM = np.stack([metrics[n][m] for n, m in columns], axis=1)
  means_RxM = intervals.bootstrap_means(values_UxM, seed=seed)
  low, high = intervals.percentile_interval(means_RxM)
  means = dict(zip(columns, values_UxM.mean(0), strict=True))
  draws = dict(zip(columns, means_RxM.T, strict=True))
  rows = [
    {
      "scenario": scenario.name,
      "ranker": name,
      "metric": metric,
      "value": float(means[name, metric]),
      "low": float(low[column]),
      "high": float(high[column]),
      "n": len(values_UxM),
    }
    for column, (name, metric) in enumerate(columns)
  ]
  _assert_possible(metrics)
  baselines = [name for name in metrics if name in BASELINES]
  if not baselines:
    return rows, []
  best = max(baselines, key=lambda name: means[name, scenario.metrics[0]])
  comparisons = []
  for name in metrics:
    for metric in scenario.metrics if name != best else ():
      difference = intervals.paired_difference(
        means[name, metric] - means[best, metric],
        draws[name, metric] - draws[best, metric],
      )
      comparisons.append(
        {
          "scenario": scenario.name,
          "ranker": name,
          "against": best,
          "metric": metric,
          **dataclasses.asdict(difference),
        }
      )
  return rows, comparisons


def _assert_possible(metrics: dict[str, dict[str, np.ndarray]]) -> None:
  for name, of_ranker in metrics.items():
    hits = [of_ranker[metric] for metric in of_ranker if "hr@" in metric]
    untied = np.isin(hits, (0, 1)).all()
    problems = check_consistency(
      {metric: values.mean() for metric, values in of_ranker.items()},
      requests=len(hits[0]) if untied else None,
    )
    if problems:
      raise AssertionError(f"{name}'s row is impossible: {problems}")


def _batched(requests: Iterable) -> Iterator[list]:
  batch = []
  for request in requests:
    batch.append(request)
    if len(batch) == _BATCH:
      yield batch
      batch = []
  if batch:
    yield batch
