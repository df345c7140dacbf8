"""Bodies that are read only as far, and as long, as they may be."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

MOST_BYTES = 2 << 20
# Clients that send all before they read an answer are to get theirs: so much is
# received and thrown away.
_MOST_DISCARDED = 32 << 20
MOST_SECONDS = 20.0
# Nobody reads this status; the metrics count it.
_GONE = 499


class BoundedRequest(Request):
  """A request whose body is JSON of some size, that comes in some time."""

  async def body(self) -> bytes:
    """Reads the body.

    Raises:
      HTTPException: it is too large (413) or too slow (408).
    """
    if not hasattr(self, "_body"):
      declared = self.headers.get("content-length", "")
      if declared.isdigit() and int(declared) > _MOST_DISCARDED:
        raise _too_large()
      try:
        async with asyncio.timeout(MOST_SECONDS):
          self._body = await self._read()
      except TimeoutError:
        raise HTTPException(
          408, f"the body did not come within {MOST_SECONDS:g} seconds."
        ) from None
    return self._body

  async def json(self) -> Any:
    """Parses the body.

    Raises:
      HTTPException: it is no JSON, not in UTF-8, or nested too deeply (400).
    """
    try:
      return orjson.loads(await self.body())
    except orjson.JSONDecodeError as error:
      raise HTTPException(
        400, f"the body is not JSON in UTF-8: {error}."
      ) from None

  async def _read(self) -> bytes:
    read = bytearray()
    received = 0
    async for chunk in self.stream():
      received += len(chunk)
      if received > _MOST_DISCARDED:
        raise _too_large()
      if received <= MOST_BYTES:
        read += chunk
    if received > MOST_BYTES:
      raise _too_large()
    return bytes(read)


class BoundedRoute(APIRoute):
  """A route whose requests are `BoundedRequest`s."""

  def get_route_handler(
    self,
  ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Returns the handler, with another class of request."""
    handle = super().get_route_handler()

    async def handle_bounded(request: Request) -> Response:
      if request.method == "POST":
        _check_type(request.headers.get("content-type", ""))
      bounded = BoundedRequest(request.scope, request.receive)
      try:
        await bounded.body()
      except ClientDisconnect:
        return Response(None, _GONE)
      # After its body, all that can come of a client is that it hangs up.
      return await _unless_gone(handle(bounded), request.receive)

    return handle_bounded


def _check_type(media: str) -> None:
  kind = media.partition(";")[0].strip().lower()
  if kind != "application/json":
    raise HTTPException(
      415, f"the Content-Type must be application/json, not {kind or 'none'}."
    )


async def _unless_gone(
  answer: Coroutine[Any, Any, Response], receive: Callable[[], Any]
) -> Response:
  """Returns the answer; gives it up when nobody waits for it any more."""
  answering = asyncio.ensure_future(answer)
  gone = asyncio.ensure_future(receive())
  try:
    await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
    return answering.result() if answering.done() else Response(None, _GONE)
  finally:
    answering.cancel()
    gone.cancel()


def _too_large() -> HTTPException:
  return HTTPException(
    413,
    f"the body is larger than {MOST_BYTES >> 20} MiB.",
    # What is left of it is not worth reading.
    headers={"Connection": "close"},
  )
