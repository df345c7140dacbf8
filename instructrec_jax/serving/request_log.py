"""A line of JSON for each request: when, what, how long, and no word of it."""

import datetime
import json
import re
import sys
import time
import uuid
from typing import Any, TextIO

_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


class RequestLog:
  """An ASGI middleware; what users say is never written.

  A request's X-Request-ID, or a new one, comes back with its answer and stands
  in its line, so that a proxy's log and this one can be joined.
  """

  def __init__(self, app: Any, *, file: TextIO | None = None):
    """Wraps an application.

    Args:
      app: the application.
      file: to write to (default: standard error).
    """
    self._app, self._file = app, file

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Answers, and writes the line when the answer has ended."""
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    headers = dict(scope["headers"])
    asked = headers.get(b"x-request-id", b"").decode("latin-1")
    request_id = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
    received, sent, status = 0, 0, 500
    started = time.monotonic()

    async def counted_receive() -> Any:
      nonlocal received
      message = await receive()
      received += len(message.get("body", b""))
      return message

    async def counted_send(message: Any) -> None:
      nonlocal sent, status
      if message["type"] == "http.response.start":
        status = message["status"]
        id_header = (b"x-request-id", request_id.encode())
        message["headers"] = [*message["headers"], id_header]
      sent += len(message.get("body", b""))
      await send(message)

    try:
      await self._app(scope, counted_receive, counted_send)
    finally:
      now = datetime.datetime.now(datetime.UTC)
      line = {
        "time": now.isoformat(timespec="milliseconds"),
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(time.monotonic() - started, 4),
        "received_bytes": received,
        "sent_bytes": sent,
        "request_id": request_id,
      }
      print(json.dumps(line), file=self._file or sys.stderr, flush=True)
