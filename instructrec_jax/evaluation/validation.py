"""HR and NDCG while a model trains, on a sample of validation requests."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from instructrec_jax.errors import InputError, check_counts, check_seed
from instructrec_jax.evaluation.metrics import ranking_metrics
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.normalisation import (
  Normalisation,
  check_counted,
)
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import Vocabulary

_METRICS = ("hr@1", "ndcg@5")


def draw_requests(
  requests: pathlib.Path, *, limit: int, seed: int = 0
) -> list[RankingRequest]:
  """Returns requests of a file, in its order, drawn at random.

  Raises:
    InputError: the file is missing, or a request has no target.
  """
  found = list(read_requests(requests))
  chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
  sample = [found[index] for index in np.sort(chosen)]
  if not sample or None in [request.target for request in sample]:
    raise InputError(f"{requests}: every validation request needs a target.")
  return sample


def make_validator(
  requests: pathlib.Path,
  *,
  limit: int,
  vocabulary: Vocabulary,
  normalisation: str = Normalisation.SUM,
  title_counts: Mapping[str, int] | None = None,
  seed: int = 0,
) -> Callable[[T5Config, Any], dict[str, float]]:
  """Returns what `training.loop.train` calls at each checkpoint.

  Args:
    requests: ranking requests with targets.
    limit: how many of them, drawn at random: the first ones need not be like
      the rest.
    vocabulary: the model's.
    normalisation: of the scores.
    title_counts: for `catalogue_prior`; see `T5Ranker`.
    seed: of the draw.

  Returns:
    A function from config and parameters to "validation/hr@1" and
    "validation/ndcg@5".

  Raises:
    InputError: the requests are missing, or have no targets, or a number is
      out of range.
  """
  check_counts(**{"validation limit": limit})
  check_seed(seed)
  check_counted(Normalisation.parse(normalisation), title_counts)
  sample = draw_requests(requests, limit=limit, seed=seed)
  targets: list[Any] = [request.target for request in sample]
  rankers: list[T5Ranker] = []

  def validate(config: T5Config, params: Any) -> dict[str, float]:
    # One ranker for all calls: it keeps what it has compiled.
    if rankers:
      rankers[0].set_params(params)
    else:
      # On the devices that train: one of them may not hold the model.
      sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
      mesh = getattr(sharding, "mesh", None)
      rankers.append(
        T5Ranker(
          config=config,
          params=params,
          vocabulary=vocabulary,
          normalisation=normalisation,
          title_counts=title_counts,
          mesh=mesh if isinstance(mesh, Mesh) else None,
        )
      )
    scores = rankers[0].score(sample)
    # Else a copy in the dtype of activations would stay while training goes on.
    rankers[0].drop_params()
    metrics = ranking_metrics(scores, targets)
    return {f"validation/{name}": metrics[name].mean() for name in _METRICS}

  return validate
