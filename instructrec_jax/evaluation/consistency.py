"""Mean metrics that no ranking can have.

Mean metrics of one ranker say how often its target came at which rank: HR@K
is the share of ranks up to K, and NDCG@K and MRR are means of 1 / log2(1 + r)
and 1 / r. Known HRs say how many ranks lie between two cut-offs, and the gains
at those cut-offs bound what they add: NDCG@3 lies between
HR@1 + (HR@3 - HR@1) / log2(4) and HR@1 + (HR@3 - HR@1) / log2(3). These
conditions are necessary; figures may meet them and still contradict each other
jointly. Ties change nothing: expected values over orders are means too.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

# Of sums of floats.
_SLACK = 1e-6


def impossible(
  rows: Iterable[Mapping[str, Any]],
  *,
  rounding: float = 0.0,
  candidates: Mapping[str, int] | None = None,
  whole: bool = False,
) -> list[str]:
  """Returns a sentence for each impossible figure.

  Of figures that contradict each other, cut-offs are trusted from the lowest
  up, HR before NDCG before MRR.

  Args:
    rows: as in results.json: "scenario", "ranker", "metric" and "value", and
      "n" where `whole` needs it.
    rounding: how far off printed values may be: 5e-5 for four decimals.
    candidates: the most that a scenario's requests have; unknown where it is
      not named.
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
  return [
    f"{scenario}, {ranker}: {problem}"
    for (scenario, ranker), figures in table.items()
    for problem in impossible_figures(
      figures,
      rounding=rounding,
      candidates=(candidates or {}).get(scenario),
      requests=counts.get((scenario, ranker)),
    )
  ]


def impossible_figures(
  figures: Mapping[str, float],
  *,
  rounding: float = 0.0,
  candidates: int | None = None,
  requests: int | None = None,
) -> list[str]:
  """Returns what is impossible in one ranker's figures, by metric.

  Args: as of `impossible`; HR is a whole number of `requests`, if given.
  """
  slack = rounding + _SLACK
  problems = []
  for metric, value in figures.items():
    most = math.inf if metric.startswith("log_loss") else 1.0
    if not -slack <= value <= most + slack:
      problems.append(f"{_named(metric)} is {value:.4f}.")
    elif requests and metric.startswith("hr@"):
      nearest = round(value * requests) / requests
      if abs(value - nearest) > slack:
        problems.append(
          f"{_named(metric)} is {value:.4f}, no multiple of 1/{requests}."
        )
  if problems:
    return problems
  return _contradictions(figures, slack=slack, candidates=candidates)


def _contradictions(
  figures: Mapping[str, float], *, slack: float, candidates: int | None
) -> list[str]:
  problems, trusted = [], []

  def is_within(metric: str, low: float, high: float) -> bool:
    if low - slack <= figures[metric] <= high + slack:
      trusted.append(metric)
      return True
    of = ", ".join(map(_named, trusted)) or f"{candidates} candidates"
    problems.append(
      f"{_named(metric)} is {figures[metric]:.4f}; {of} allow {low:.4f} to "
      f"{high:.4f}."
    )
    return False

  last = candidates or math.inf
  hits = {0: 0.0}
  for k in sorted(int(m[3:]) for m in figures if m.startswith("hr@")):
    low = 1.0 if k >= last else max(hits.values())
    if is_within(f"hr@{k}", low, 1.0):
      hits[k] = figures[f"hr@{k}"]
  # Where nothing is known all HRs may be off alike, so that the first gain
  # alone moves; from a known NDCG on, both ends of a share of hits.
  low = high = widened = 0.0
  for before, k in itertools.pairwise(hits):
    first_gain = 1 / math.log2(2 + before)
    widened = widened or (slack + 2 * slack * first_gain if before else slack)
    low += (hits[k] - hits[before]) / math.log2(1 + k)
    high += (hits[k] - hits[before]) * first_gain
    metric = f"ndcg@{k}"
    if metric in figures and is_within(metric, low - widened, high + widened):
      low, high, widened = figures[metric], figures[metric], 0.0
  if "mrr" in figures:
    ends = [*hits.items(), (last, 1.0)]
    low = high = 0.0
    for (before, less), (k, share) in itertools.pairwise(ends):
      low += (share - less) / k
      high += (share - less) / (before + 1)
    is_within("mrr", low - slack, high + slack)
  return problems


def _named(metric: str) -> str:
  return metric.upper().replace("_", " ")
