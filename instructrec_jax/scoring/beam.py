"""Scoring as a step of an Apache Beam pipeline.

  requests | RunInference(RankerHandler("runs/games"))

takes `records.RankingRequest` and gives what `score` writes of each.
"""
# The package is an extra.
# pyright: reportMissingImports=false

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.stream import scored_line


class RankerHandler(ModelHandler[RankingRequest, dict[str, Any], T5Ranker]):
  """Has Beam's `RunInference` load a model once a process, and score with it.

  Results are those of `score`: `request_id`, `normalisation`, `scores`, `ranks`
  and `target_rank`. Beam chooses which requests come together, so scores agree
  but for rounding; see `T5Ranker`.
  """

  def __init__(
    self,
    model: pathlib.Path | str,
    *,
    step: int | str | None = None,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
    vocabulary: pathlib.Path | str | None = None,
    min_batch_size: int = 256,
    max_batch_size: int = 4096,
    **batching: Any,
  ):
    """Checks the name of the normalisation; loads nothing yet.

    Args:
      model: a folder of `train` or `export`, or a checkpoint of T5X, under a
        path that all workers read.
      step: as `stream.score_file` has it.
      batch_tokens: likewise.
      normalisation: likewise.
      vocabulary: likewise.
      min_batch_size: requests that are scored together, if there are so many;
        few of them fill no device.
      max_batch_size: the most.
      **batching: other arguments of `ModelHandler`, such as `large_model`, for
        one model that all processes of a machine share.

    Raises:
      InputError: there is no such normalisation.
    """
    super().__init__(
      min_batch_size=min_batch_size, max_batch_size=max_batch_size, **batching
    )
    self._normalisation = str(Normalisation.parse(normalisation))
    self._model = pathlib.Path(model)
    self._arguments = {
      "step": step,
      "batch_tokens": batch_tokens,
      "normalisation": self._normalisation,
      "vocabulary": None if vocabulary is None else pathlib.Path(vocabulary),
    }

  def load_model(self) -> T5Ranker:
    """Returns the ranker; InputError if there is no such model."""
    return T5Ranker.load(self._model, **self._arguments)

  def run_inference(
    self,
    batch: Sequence[RankingRequest],
    model: T5Ranker,
    inference_args: dict[str, Any] | None = None,
  ) -> Iterator[dict[str, Any]]:
    """Yields what `score` writes of each request; takes no `inference_args`."""
    for request, scores in zip(batch, model.score(batch), strict=True):
      yield scored_line(request, scores, self._normalisation)
