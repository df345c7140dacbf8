"""What ranking a request costs: time, arithmetic, parameters.

Time is that of a ranker's own `score`, in batches as evaluation sends them,
with what is compiled and fitted left out. FLOPs are the products and sums of
the matrix products that a request needs, 2 for each pair of factors, whatever
the hardware; counts and look-ups have none. Parameters are the numbers that a
ranker keeps of its training: weights, counts, an index.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from instructrec_jax import workers
from instructrec_jax.records import Ranker, RankingRequest


class Metered:
  """A ranker whose calls are timed.

  A ranker may have the attributes `num_parameters`, `flops` (counted up by
  `score`), and `compile_seconds` (counted up where it compiles).
  """

  def __init__(self, ranker: Ranker | Any, *, warm_up: int = 0):
    """Wraps a ranker, as innermost: what wraps this is not timed.

    One without `compile_seconds` scores its first `warm_up` requests before
    the clock starts, so that its programs are compiled.
    """
    self.name = ranker.name
    self._warm_up = warm_up
    self._ranker: Any = ranker
    # `LabelRanker` counts nothing by itself.
    self._counter: Any = getattr(ranker, "ranker", ranker)
    self._is_warm = hasattr(self._counter, "compile_seconds") or not warm_up
    self._seconds, self._flops = 0.0, 0.0
    self._start = (0.0, 0.0)

  @property
  def normalisations(self) -> Sequence[str]:
    """See `NormalisingRanker`."""
    return self._ranker.normalisations

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns what the ranker returns."""
    if not self._is_warm:
      self._ranker.score(requests[: self._warm_up])
      self._is_warm = True
    return self._timed(self._ranker.score, requests)

  def score_all(
    self, requests: Sequence[RankingRequest], normalisations: Iterable[str]
  ) -> dict[str, list[np.ndarray]]:
    """Returns what a `NormalisingRanker` returns."""
    return self._timed(self._ranker.score_all, requests, normalisations)

  def start(self) -> None:
    """Starts to count anew."""
    self._start = (self._seconds, self._flops)

  def cost(self, requests: int) -> dict[str, float | None]:
    """Returns "ms" and "flops" a request since `start`, and "parameters".

    None is what is not known of the ranker.
    """
    seconds = self._seconds - self._start[0]
    flops = self._flops - self._start[1]
    knows = hasattr(self._counter, "flops")
    return {
      "ms": 1000 * seconds / requests,
      "flops": flops / requests if knows else None,
      "parameters": getattr(self._counter, "num_parameters", None),
    }

  def _timed(self, function: Any, *arguments: Any) -> Any:
    before = self._counted()
    start = time.perf_counter()
    result = function(*arguments)
    seconds = time.perf_counter() - start
    flops, compiling = np.subtract(self._counted(), before)
    self._flops += float(flops)
    self._seconds += seconds - float(compiling)
    return result

  def _counted(self) -> tuple[float, float]:
    of = self._counter
    return getattr(of, "flops", 0.0), getattr(of, "compile_seconds", 0.0)


def device() -> str:
  """Returns what rankers run on, as "2 CPU cores" or "NVIDIA H200"."""
  import jax

  first = jax.devices()[0]
  if first.platform == "cpu":
    return f"{workers.cores()} CPU cores"
  count = jax.device_count()
  return first.device_kind if count == 1 else f"{count} x {first.device_kind}"


def amount(value: float | None) -> str:
  """Returns a count for people: "812", "1.2M", "11B", or "-"."""
  if value is None:
    return "-"
  for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
    if value >= size:
      return f"{value / size:.3g}{letter}"
  return f"{value:.3g}"
