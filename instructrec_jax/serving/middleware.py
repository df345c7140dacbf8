"""Around every request: bounded bodies, disconnects and Prometheus metrics."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import prometheus_client as prometheus
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.user_states import UserStates
from instructrec_jax.serving.batcher import Batcher

MAX_BODY_BYTES = 2 << 20
# A client that sends its whole body before it reads an answer is to get its
# 413: up to so many bytes are received and discarded.
_MAX_DISCARDED_BYTES = 32 << 20
MAX_BODY_SECONDS = 20.0
# Client closed request (nginx's code): only the metrics see it.
_CLIENT_CLOSED = 499

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_PREFIX = "instructrec_"


class BoundedRequest(Request):
  """A request whose JSON body is bounded in size and in time."""

  async def body(self) -> bytes:
    """Reads the body.

    Raises:
      HTTPException: it is too large (413) or too slow (408).
    """
    if not hasattr(self, "_body"):
      declared = self.headers.get("content-length", "")
      if declared.isdigit() and int(declared) > _MAX_DISCARDED_BYTES:
        raise _too_large()
      try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
          self._body = await self._read()
      except TimeoutError:
        raise HTTPException(
          408, f"the body did not come within {MAX_BODY_SECONDS:g} seconds."
        ) from None
    return self._body

  async def json(self) -> Any:
    """Parses the body.

    Raises:
      HTTPException: it is not JSON in UTF-8, or nested too deeply (400).
    """
    try:
      return orjson.loads(await self.body())
    except orjson.JSONDecodeError as error:
      raise HTTPException(
        400, f"the body is not JSON in UTF-8: {error}."
      ) from None

  async def _read(self) -> bytes:
    body = bytearray()
    received = 0
    async for chunk in self.stream():
      received += len(chunk)
      if received > _MAX_DISCARDED_BYTES:
        raise _too_large()
      if received <= MAX_BODY_BYTES:
        body += chunk
    if received > MAX_BODY_BYTES:
      raise _too_large()
    return bytes(body)


class BoundedRoute(APIRoute):
  """A route whose requests are `BoundedRequest`s, and have a key.

  When the client disconnects, its answer is cancelled.
  """

  def get_route_handler(
    self,
  ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Returns the handler of requests."""
    handle = super().get_route_handler()

    async def handle_bounded(request: Request) -> Response:
      if not request.app.state.access.admits(request.headers):
        raise HTTPException(
          401,
          "an API key is needed: send it as Authorization: Bearer KEY.",
          headers={"WWW-Authenticate": "Bearer"},
        )
      if {"content-length", "transfer-encoding"} <= {*request.headers}:
        # Where a proxy reads the other one, a second request hides in the body.
        raise HTTPException(
          400,
          "Content-Length and Transfer-Encoding exclude each other.",
          headers={"Connection": "close"},
        )
      if request.method == "POST":
        media = request.headers.get("content-type", "")
        kind = media.partition(";")[0].strip().lower()
        if kind != "application/json":
          raise HTTPException(
            415,
            f"the Content-Type must be application/json, not {kind or 'none'}.",
          )
      bounded = BoundedRequest(request.scope, request.receive)
      try:
        await bounded.body()
      except ClientDisconnect:
        return Response(None, _CLIENT_CLOSED)
      # After the body, the only message that a client sends is a disconnect.
      answer = asyncio.ensure_future(handle(bounded))
      disconnect = asyncio.ensure_future(request.receive())
      try:
        await asyncio.wait(
          (answer, disconnect), return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
          return answer.result()
        return Response(None, _CLIENT_CLOSED)
      finally:
        answer.cancel()
        disconnect.cancel()

    return handle_bounded


def _too_large() -> HTTPException:
  return HTTPException(
    413,
    f"the body is larger than {MAX_BODY_BYTES >> 20} MiB.",
    # The rest of it is not read.
    headers={"Connection": "close"},
  )


class Metrics:
  """Prometheus metrics of one server."""

  def __init__(self):
    """Creates a registry of its own: a process may run several servers."""
    registry = self._registry = prometheus.CollectorRegistry()
    # Memory, processor time, open files, and when it started.
    prometheus.ProcessCollector(registry=registry)
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

  def observe_batch(self, size: int) -> None:
    """Counts a batch."""
    self._batches.observe(size)

  def watch(
    self, batcher: Batcher, ranker: T5Ranker, states: UserStates | None
  ) -> None:
    """Adds gauges of the queue, of compiled shapes and of user states."""
    for name, description, value in (
      ("waiting", "Requests that wait for answers", lambda: batcher.waiting),
      (
        "compiled_shapes",
        "Shapes that the ranker has compiled",
        lambda: ranker.compiled_shapes,
      ),
    ):
      self._gauge(name, description, value)
    for name, description in (
      ("hits", "Instructions that the encoder did not have to read again"),
      ("misses", "Instructions that the encoder has read"),
      ("num_bytes", "Bytes of encoder states that are kept"),
    ):
      if states:
        self._gauge(
          f"user_states_{name}", description, lambda n=name: getattr(states, n)
        )

  def _gauge(
    self, name: str, description: str, value: Callable[[], float]
  ) -> None:
    prometheus.Gauge(
      _PREFIX + name, description, registry=self._registry
    ).set_function(value)

  def expose(self) -> Response:
    """Returns all of them in Prometheus' text format."""
    return Response(
      prometheus.generate_latest(self._registry),
      media_type="text/plain; version=0.0.4",
    )

  def middleware(self, app: Any) -> Any:
    """Wraps an ASGI application to count and time its answers."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:
      if scope["type"] != "http":
        return await app(scope, receive, send)
      started, status = time.monotonic(), 500

      async def send_noting_status(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
          status = message["status"]
        await send(message)

      try:
        await app(scope, receive, send_noting_status)
      finally:
        # The route's path: unknown ones must not each add a label.
        path = getattr(scope.get("route"), "path", "other")
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(time.monotonic() - started)

    return counted
