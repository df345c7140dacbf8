"""Per-request metrics of every ranker -> rows, comparisons and breakdowns."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from instructrec_jax.evaluation import diagnostics
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  auc,
  bootstrap_counts,
  bootstrap_means,
  bootstrap_pointwise,
  holm,
  paired_difference,
  percentile_interval,
  pointwise_metrics,
)
from instructrec_jax.evaluation.rankers import REASONED, UNLISTED, entry_of
from instructrec_jax.instructions.scenarios import Scenario

Metrics = Mapping[str, Mapping[str, Float[np.ndarray, " requests"]]]
"""By ranker and metric."""


def summarise_ranking(
  scenario: Scenario,
  metrics: Metrics,
  *,
  seed: int,
  resamples: int = RESAMPLES,
  against: str | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Means, intervals, and paired differences from the best baseline.

  Models differ from the best of all baselines, too, if one that sees more than
  a model is shown is better. `against` names a ranker to compare with instead.

  Returns:
    Rows, and comparisons: `p` of each by itself, and `p_holm` for a metric's
    comparisons taken together.
  """
  if not metrics:
    return [], []
  columns = [(name, metric) for name in metrics for metric in metrics[name]]
  values_UxM = np.stack([metrics[n][m] for n, m in columns], axis=1)
  means_RxM = bootstrap_means(values_UxM, seed=seed, resamples=resamples)
  low, high = percentile_interval(means_RxM)
  means = dict(zip(columns, values_UxM.mean(0), strict=True))
  draws = dict(zip(columns, means_RxM.T, strict=True))
  rows = [
    _row(scenario, name, metric, means[name, metric], ends, len(values_UxM))
    for (name, metric), *ends in zip(columns, low, high, strict=True)
  ]
  pairs = _pairs(scenario, means, list(metrics), against)
  comparisons = []
  for metric, (reference, others) in itertools.product(scenario.metrics, pairs):
    differences = [
      paired_difference(
        means[name, metric] - means[reference, metric],
        draws[name, metric] - draws[reference, metric],
      )
      for name in others
    ]
    together = holm([d.p for d in differences])
    comparisons += [
      {
        "scenario": scenario.name,
        "ranker": name,
        "against": reference,
        "metric": metric,
        **dataclasses.asdict(difference),
        "p_holm": float(p),
        "n": len(values_UxM),
      }
      for name, difference, p in zip(others, differences, together, strict=True)
    ]
  return rows, comparisons


def _pairs(
  scenario: Scenario,
  means: Mapping[tuple[str, str], Any],
  rankers: Sequence[str],
  against: str | None,
) -> list[tuple[str, list[str]]]:
  """Returns rankers to compare with, each with those that are compared.

  All are compared with the best baseline that sees what models are shown; where
  one that sees more is better, models are compared with that one, too, or a
  weak baseline would flatter them. A model that reasons is compared with itself
  without.
  """
  if against is not None:
    return [(against, [name for name in rankers if name != against])]
  baselines = [name for name in rankers if entry_of(name).is_baseline]
  of_itself = [
    (name, [REASONED])
    for name in ("model", UNLISTED)
    if {name, REASONED} <= {*rankers}
  ]
  if not baselines:
    return of_itself

  def best(names: Sequence[str]) -> str:
    return max(names, key=lambda name: means[name, scenario.metrics[0]])

  fair = [n for n in baselines if not entry_of(n).sees_beside(scenario)]
  first, second = best(fair or baselines), best(baselines)
  pairs = [(first, [name for name in rankers if name != first])]
  models = [
    name
    for name in rankers
    if name not in baselines and not entry_of(name).sees_beside(scenario)
  ]
  if second != first and models:
    pairs.append((second, models))
  return pairs + of_itself


def summarise_pointwise(
  scenario: Scenario,
  *,
  margins: Mapping[str, Float[np.ndarray, " requests"]],
  labels: Int[np.ndarray, " requests"],
  temperatures: Mapping[str, float],
  seed: int,
  resamples: int = RESAMPLES,
) -> list[dict[str, Any]]:
  """AUC of every ranker, and the calibration of those with a temperature.

  `temperatures` are of rankers whose margins are log odds; a label is 1 where
  the item was bought.
  """
  drawn: dict[str, list[Mapping[str, np.ndarray]]] = {n: [] for n in margins}
  for counts in bootstrap_counts(len(labels), seed=seed, resamples=resamples):
    for name, of_ranker in margins.items():
      temperature = temperatures.get(name)
      drawn[name].append(
        bootstrap_pointwise(of_ranker, labels, counts, temperature=temperature)
      )
  rows = []
  for name, of_ranker in margins.items():
    figures = {"auc": auc(of_ranker, labels)}
    if name in temperatures:
      figures = pointwise_metrics(
        of_ranker, labels, temperature=temperatures[name]
      )
    for metric, value in figures.items():
      resampled = np.concatenate([chunk[metric] for chunk in drawn[name]])
      # A resample of one label alone has no AUC.
      resampled = resampled[~np.isnan(resampled)]
      ends = [value, value]
      if len(resampled):
        ends = np.quantile(resampled, [0.025, 0.975]).tolist()
      rows.append(_row(scenario, name, metric, value, ends, len(labels)))
  return rows


def summarise_positions(
  scenario: Scenario,
  metrics: Metrics,
  *,
  slots: Int[np.ndarray, " requests"],
  seed: int,
) -> list[dict[str, Any]]:
  """HR@1 by the target's place in the prompt, for every ranker."""
  size = 1 + scenario.negatives
  return [
    {
      "scenario": scenario.name,
      "ranker": name,
      **dataclasses.asdict(
        diagnostics.position_bias(of_ranker["hr@1"], slots, size)
      ),
      "by_position": [
        dataclasses.asdict(mean)
        for mean in diagnostics.group_means(
          of_ranker["hr@1"], slots, size, seed=seed
        )
      ],
    }
    for name, of_ranker in metrics.items()
  ]


def summarise_popularity(
  scenario: Scenario,
  metrics: Metrics,
  *,
  exposures: Mapping[str, diagnostics.Exposure],
  targets: Int[np.ndarray, " requests"],
  counts: Int[np.ndarray, " items"],
  seed: int,
) -> list[dict[str, Any]]:
  """What each ranker recommends, and how it does on popular and rare items."""
  return [
    {
      "scenario": scenario.name,
      "ranker": name,
      **exposures[name].summary(),
      "hr@1_by": {
        group: dataclasses.asdict(mean)
        for group, mean in diagnostics.by_head_and_tail(
          of_ranker["hr@1"], targets, counts, seed=seed
        ).items()
      },
    }
    for name, of_ranker in metrics.items()
  ]


def _row(
  scenario: Scenario,
  ranker: str,
  metric: str,
  value: float,
  interval: Sequence[float],
  n: int,
) -> dict[str, Any]:
  low, high = interval
  return {
    "scenario": scenario.name,
    "ranker": ranker,
    "metric": metric,
    "value": float(value),
    "low": float(low),
    "high": float(high),
    "n": n,
  }
