"""HR, NDCG and their like out of SeqIO's scores, one of each candidate.

SeqIO scores examples and knows no rankings: an example here is a request and
one of its candidates, and says of which request it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  pointwise_metrics,
  ranking_metrics,
)
from instructrec_jax.evaluation.scenarios import Scenario

# Of an example: its request's number, its place among the request's candidates,
# how many these are and which of them is the right one.
_PLACE = ("request", "candidate", "candidates", "target")

Place = dict[str, int]


def place(
  text: str, *, example: Mapping[str, Any], is_target: bool = True
) -> Place:
  """Postprocesses an example's target: where its score belongs."""
  del text, is_target
  return {name: int(example[name]) for name in _PLACE}


def score_metric(
  scenario: Scenario,
) -> Callable[[Sequence[Place], Sequence[float]], dict[str, float]]:
  """Returns a SeqIO score metric: a scenario's columns, as means.

  Tied candidates give expected values, as in our own tables. Beside them
  stands "requests", how many were averaged: a request some of whose candidates
  were not scored, as an evaluator's `num_examples` may have it, is left out.
  """

  # SeqIO tells kinds of metrics by the names of their arguments.
  def metric(
    targets: Sequence[Place], scores: Sequence[float]
  ) -> dict[str, float]:
    of_requests, right = whole_requests(targets, scores)
    if scenario.pointwise:
      margins = np.array([yes - no for yes, no in of_requests])
      means = pointwise_metrics(margins, (np.array(right) == 0).astype(int))
    else:
      cutoffs = {int(n.split("@")[1]) for n in scenario.metrics if "@" in n}
      values = ranking_metrics(of_requests, right, ks=sorted(cutoffs))
      means = {name: float(column.mean()) for name, column in values.items()}
    found = {name: means[name] for name in scenario.metrics}
    return found | {"requests": len(right)}

  return metric


def whole_requests(
  places: Sequence[Place], scores: Sequence[float]
) -> tuple[list[np.ndarray], list[int]]:
  """Gathers scores by request.

  Args:
    places: of `place`, in any order.
    scores: one for each.

  Returns:
    The scores of each request, all of whose candidates are there, in their
    order; and the right one's index.

  Raises:
    InputError: no request is whole.
  """
  found: dict[int, np.ndarray] = {}
  right: dict[int, int] = {}
  for where, score in zip(places, scores, strict=True):
    request = where["request"]
    if request not in found:
      found[request] = np.full(where["candidates"], np.nan)
      right[request] = where["target"]
    found[request][where["candidate"]] = score
  whole = [n for n, values in found.items() if not np.isnan(values).any()]
  if not whole:
    raise InputError(
      f"none of {len(found)} requests has a score of each candidate: raise the "
      "evaluator's num_examples, or look for NaN in the model's weights."
    )
  return [found[n] for n in whole], [right[n] for n in whole]
