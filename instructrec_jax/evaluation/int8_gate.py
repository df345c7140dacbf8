"""Whether a model may have its weights in int8: measured, not assumed.

Ranks validation requests with the weights as they are and in int8.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.evaluation.validation import draw_requests
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import Vocabulary

LIMIT = 5000
"""Requests that decide, at most: then one of them moves HR@1 by .0002."""


def measure(
  requests: pathlib.Path,
  *,
  config: T5Config,
  params: Any,
  int8_params: Any,
  vocabulary: Vocabulary,
  epsilon: float,
) -> dict[str, Any]:
  """Returns what int8 weights change, for export.json and the model's card.

  Args:
    requests: ranking requests with targets; `LIMIT` of them are drawn.
    config: the model's sizes.
    params: its weights.
    int8_params: of `int8.from_floats`.
    vocabulary: the model's.
    epsilon: by how much HR@1 may move, up or down.

  Returns:
    "requests" (how many), "hr@1" and "hr@1_before" (scores are sums, equal ones
    share a place), "equal_top_1" (the share of requests whose best candidate
    stays), "largest_difference" (of a score) and "epsilon".

  Raises:
    InputError: HR@1 moves by more, or the requests are missing or have no
      targets.
  """
  sample = draw_requests(requests, limit=LIMIT)
  before, after = (
    T5Ranker(config=config, params=weights, vocabulary=vocabulary).score(sample)
    for weights in (params, int8_params)
  )
  targets: list[Any] = [request.target for request in sample]
  was, is_ = (
    float(ranking_metrics(scores, targets)["hr@1"].mean())
    for scores in (before, after)
  )
  found = {
    "requests": len(sample),
    "hr@1": is_,
    "hr@1_before": was,
    "equal_top_1": float(np.mean(_best(before) == _best(after))),
    "largest_difference": max(
      float(np.abs(one - two).max())
      for one, two in zip(before, after, strict=True)
    ),
    "epsilon": epsilon,
  }
  # A difference of two means of as many requests is rounded.
  if abs(is_ - was) > epsilon + 1e-9:
    raise InputError(
      f"int8 weights move HR@1 from {was:.4f} to {is_:.4f} on {len(sample):,} "
      f"requests of {requests}, where {epsilon:.4f} is allowed "
      f"({found['equal_top_1']:.1%} keep their best candidate): export without "
      "--int8, or allow more (--epsilon)."
    )
  return found


def _best(scores: Sequence[np.ndarray]) -> np.ndarray:
  return np.array([each.argmax() for each in scores])
