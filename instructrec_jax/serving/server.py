"""Runs an application with uvicorn, in this thread or in another."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from instructrec_jax.errors import InputError

_BACKLOG = 2048
# How long, after a signal, requests that were sent before it are still read.
_DRAIN_SECONDS = 0.2


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
  """Returns a socket that is bound; port 0 is a free one.

  Raises:
    InputError: the address is in use or does not exist.
  """
  # getaddrinfo takes a port modulo 65,536.
  if not 0 <= port <= 65535:
    raise InputError(f"port {port} is not one: name another with --port.")
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM
    )[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
  # UnicodeError: a name that no host can have, such as a..b.
  except (OSError, UnicodeError) as error:
    why = getattr(error, "strerror", None) or error
    raise InputError(
      f"cannot listen at {host}, port {port} ({why}): name others with "
      "--host and --port."
    ) from None
  return listening


def url_of(listening: socket.socket) -> str:
  """Returns the URL of a socket."""
  host, port, *_ = listening.getsockname()
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, listening: socket.socket, *, timeout: float) -> None:
  """Serves until SIGTERM or SIGINT, then answers all accepted requests.

  Args:
    app: the application.
    listening: a socket of `listen`.
    timeout: seconds that an answer may take.
  """
  # uvicorn raises the signal again when it has finished: not an error here.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)
  _Announced(_config(app, timeout)).run([listening])


@contextlib.contextmanager
def running(app: FastAPI, *, timeout: float = 30) -> Iterator[str]:
  """Serves from another thread while the block runs; yields the URL.

  Args:
    app: the application.
    timeout: seconds that an answer may take.
  """
  with listen() as listening:
    server = _Server(_config(app, timeout))
    thread = threading.Thread(target=server.run, args=([listening],))
    # Connections queue from here on, though none is answered yet.
    listening.listen(_BACKLOG)
    thread.start()
    try:
      yield url_of(listening)
    finally:
      server.should_exit = True
      thread.join()


class _Server(uvicorn.Server):
  """Closes its sockets only after reading what was sent before."""

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    await asyncio.sleep(_DRAIN_SECONDS)
    await super().shutdown(sockets)


class _Announced(_Server):
  """Prints its URL when it is ready."""

  async def startup(self, sockets: list[socket.socket] | None = None) -> None:
    await super().startup(sockets)
    for listening in sockets or () if self.started else ():
      print(f"serving on {url_of(listening)}", flush=True)


def _config(app: FastAPI, timeout: float) -> uvicorn.Config:
  return uvicorn.Config(
    app,
    log_level="warning",
    access_log=False,
    backlog=_BACKLOG,
    timeout_graceful_shutdown=int(timeout) + 5,
  )
