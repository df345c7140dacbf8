"""What the server counts, for Prometheus."""

import time
from typing import Any

import prometheus_client as prometheus

from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.serving.batcher import Batcher

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_PREFIX = "instructrec_"


class Metrics:
  """Counters of one server."""

  def __init__(self):
    """Makes a registry of its own: a process may have several servers."""
    registry = self._registry = prometheus.CollectorRegistry()
    self._requests = prometheus.Counter(
      f"{_PREFIX}requests", "Answers", ["path", "status"], registry=registry
    )
    self._seconds = prometheus.Histogram(
      f"{_PREFIX}request_seconds",
      "From a request's head to its answer's end",
      ["path"],
      buckets=_SECONDS,
      registry=registry,
    )
    self._batches = prometheus.Histogram(
      f"{_PREFIX}batch_requests",
      "Requests that were scored together",
      buckets=_SIZES,
      registry=registry,
    )

  def batch(self, size: int) -> None:
    """Counts a batch."""
    self._batches.observe(size)

  def watch(self, batcher: Batcher, ranker: T5Ranker) -> None:
    """Shows, whenever asked, how these stand."""
    for name, what, value in (
      ("waiting", "Requests that wait for answers", lambda: batcher.waiting),
      (
        "compiled_shapes",
        "Shapes that the ranker has compiled",
        lambda: ranker.compiled_shapes,
      ),
    ):
      prometheus.Gauge(
        _PREFIX + name, what, registry=self._registry
      ).set_function(value)

  def expose(self) -> bytes:
    """Returns Prometheus' text format."""
    return prometheus.generate_latest(self._registry)

  def counting(self, app: Any) -> Any:
    """Wraps an ASGI application so that its answers are counted."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
      if scope["type"] != "http":
        return await app(scope, receive, send)
      started, status = time.monotonic(), 500

      async def note(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
          status = message["status"]
        await send(message)

      try:
        await app(scope, receive, note)
      finally:
        # The route's, or each wrong path would have counters of its own.
        path = getattr(scope.get("route"), "path", "other")
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(time.monotonic() - started)

    return counted
