"""Metrics that no ranking can have.

Mean metrics of one ranker say how often its target came at which rank: HR@K
is the share of ranks up to K, and NDCG@K and MRR are means of 1 / log2(1 + r)
and 1 / r. So a row is possible just if some distribution over ranks has all of
its figures, which is a linear programme. It knows every bound between them:
HR@K rises in K, NDCG@3 lies between HR@1 + (HR@3 - HR@1) / log2(4) and HR@1 +
(HR@3 - HR@1) / log2(3), HR@C of C candidates is 1, and so on. Ties change
nothing: expected values over orders are means too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float

# Of sums of floats, and ten times what the solver allows.
_SLACK = 1e-6


def impossible(
  rows: Iterable[Mapping[str, Any]],
  *,
  rounding: float = 0.0,
  candidates: Mapping[str, int] | None = None,
  whole: bool = False,
) -> list[str]:
  """Returns a sentence for each figure that cannot be.

  Of figures that contradict each other, cut-offs are believed from the lowest
  up, HR before NDCG before MRR.

  Args:
    rows: as in results.json: "scenario", "ranker", "metric" and "value", and
      "n" where `whole` wants it.
    rounding: how far off values may be that were printed: 5e-5 for four
      decimals.
    candidates: how many a scenario's requests have at most; unknown where it
      is not named.
    whole: HR must be a whole number of n requests. Leave it out where scores
      tie: expected values are fractions.
  """
  table: dict[tuple[str, str], dict[str, float]] = {}
  counts: dict[tuple[str, str], int] = {}
  for row in rows:
    place = row["scenario"], row["ranker"]
    table.setdefault(place, {})[row["metric"]] = row["value"]
    if whole and row.get("n"):
      counts[place] = row["n"]
  sentences = []
  for (scenario, ranker), figures in table.items():
    problems = impossible_figures(
      figures,
      rounding=rounding,
      candidates=(candidates or {}).get(scenario),
      requests=counts.get((scenario, ranker)),
    )
    sentences += [f"{scenario}, {ranker}: {problem}" for problem in problems]
  return sentences


def impossible_figures(
  figures: Mapping[str, float],
  *,
  rounding: float = 0.0,
  candidates: int | None = None,
  requests: int | None = None,
) -> list[str]:
  """Returns what cannot be in one ranker's figures, by metric.

  Args: as of `impossible`; `requests` of which HR is a whole number, if given.
  """
  slack = rounding + _SLACK
  problems = []
  for metric, value in figures.items():
    most = math.inf if metric.startswith("log_loss") else 1.0
    if not -slack <= value <= most + slack:
      problems.append(f"{_named(metric)} is {value:.4f}.")
    elif requests and _is(metric, "hr"):
      nearest = round(value * requests) / requests
      if abs(value - nearest) > slack:
        problems.append(
          f"{_named(metric)} is {value:.4f}, no multiple of 1/{requests}."
        )
  if problems:
    return problems
  ranks = [m for m in figures if m == "mrr" or _is(m, "hr") or _is(m, "ndcg")]
  return _contradictions(
    {metric: figures[metric] for metric in sorted(ranks, key=_believed_first)},
    slack=slack,
    candidates=candidates,
  )


def _contradictions(
  figures: Mapping[str, float], *, slack: float, candidates: int | None
) -> list[str]:
  ranks = _ranks(figures, candidates)
  gains = {metric: _gains(metric, ranks) for metric in figures}
  bounds = {m: (value - slack, value + slack) for m, value in figures.items()}
  if _least(np.zeros(len(ranks)), gains, bounds) is not None:
    return []
  problems, believed = [], {}
  for metric, value in figures.items():
    least = _least(gains[metric], gains, believed)
    most = _least(-gains[metric], gains, believed)
    assert least is not None and most is not None
    low, high = least, -most
    if low - slack <= value <= high + slack:
      believed[metric] = bounds[metric]
      continue
    of = ", ".join(map(_named, believed)) or f"{candidates} candidates"
    problems.append(
      f"{_named(metric)} is {value:.4f}; {of} allow {low:.4f} to {high:.4f}."
    )
  return problems


def _least(
  objective: Float[np.ndarray, " ranks"],
  gains: Mapping[str, Float[np.ndarray, " ranks"]],
  bounds: Mapping[str, tuple[float, float]],
) -> float | None:
  """Returns the least mean of an objective, or None if the bounds exclude all.

  Over all distributions over ranks whose mean gains are within bounds.
  """
  upper = [sign * gains[m] for m in bounds for sign in (1, -1)]
  limits = [sign for low, high in bounds.values() for sign in (high, -low)]
  found = scipy.optimize.linprog(
    objective,
    A_ub=np.array(upper) if upper else None,
    b_ub=limits or None,
    A_eq=np.ones((1, len(objective))),
    b_eq=[1.0],
  )
  return float(found.fun) if found.success else None


def _ranks(figures: Iterable[str], candidates: int | None) -> Sequence[float]:
  """Returns ranks whose mixtures are all that figures can tell apart.

  Beyond the last cut-off only MRR sees ranks, and there any rank is a mixture
  of the first and the last.
  """
  last = math.inf if candidates is None else candidates
  cutoff = max((_cutoff(m) for m in figures if "@" in m), default=0)
  ranks = [float(rank) for rank in range(1, cutoff + 2) if rank <= last]
  return ranks if ranks[-1] == last else [*ranks, last]


def _gains(metric: str, ranks: Sequence[float]) -> Float[np.ndarray, " ranks"]:
  r = np.array(ranks)
  if metric == "mrr":
    return 1 / r
  gains = 1 / np.log2(1 + r) if _is(metric, "ndcg") else np.ones_like(r)
  return np.where(r <= _cutoff(metric), gains, 0.0)


def _believed_first(metric: str) -> tuple[int, int]:
  if metric == "mrr":
    return 2, 0
  return int(_is(metric, "ndcg")), _cutoff(metric)


def _is(metric: str, kind: str) -> bool:
  return metric.startswith(f"{kind}@")


def _cutoff(metric: str) -> int:
  return int(metric.partition("@")[2])


def _named(metric: str) -> str:
  return metric.upper().replace("_", " ")
