"""Runs an application with uvicorn, in this thread or in another."""

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from instructrec_jax.errors import InputError

_BACKLOG = 2048
# How long, after a signal, requests that were sent before it are still read.
_DRAIN_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Connections:
  """How connections are kept, and encrypted.

  Attributes:
    head_timeout: seconds within which a request's head is to be complete, and
      its body if it is answered before; else the connection is closed.
    keep_alive: seconds that a connection may be idle between two requests. A
      proxy's own must be shorter, or it asks where nobody listens.
    certificate, key: of TLS, in PEM; plain HTTP without them.
  """

  head_timeout: float = 10.0
  keep_alive: int = 5
  certificate: pathlib.Path | None = None
  key: pathlib.Path | None = None

  def check(self) -> None:
    """Raises InputError if the certificate and the key are not a pair."""
    if self.certificate is None:
      if self.key is not None:
        raise InputError("--ssl-keyfile needs --ssl-certfile beside it.")
      return
    try:
      context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
      # A key with a passphrase would have it typed in.
      context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
    except (OSError, ValueError) as error:
      why = getattr(error, "reason", None) or error.__class__.__name__
      raise InputError(
        f"--ssl-certfile is {self.certificate}: not a certificate in PEM with "
        f"its key, without a passphrase ({why})."
      ) from None


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
    raise _cannot_listen(host, port, error) from None
  return listening


def _cannot_listen(host: str, port: int, error: Exception) -> InputError:
  why = getattr(error, "strerror", None) or error
  return InputError(
    f"cannot listen at {host}, port {port} ({why}): name others with --host "
    "and --port."
  )


def url_of(listening: socket.socket, scheme: str = "http") -> str:
  """Returns the URL of a socket."""
  host, port, *_ = listening.getsockname()
  return (
    f"{scheme}://[{host}]:{port}"
    if ":" in host
    else f"{scheme}://{host}:{port}"
  )


def serve(
  app: FastAPI,
  listening: socket.socket,
  *,
  timeout: float,
  connections: Connections | None = None,
) -> None:
  """Serves until SIGTERM or SIGINT, then answers all accepted requests.

  Args:
    app: the application.
    listening: a socket of `listen`.
    timeout: seconds that an answer may take.
    connections: how they are kept.

  Raises:
    InputError: another server listens there, which started meanwhile.
  """
  # Until one of them listens, Linux lets several bind an address.
  try:
    listening.listen(_BACKLOG)
  except OSError as error:
    host, port, *_ = listening.getsockname()
    raise _cannot_listen(host, port, error) from None
  # uvicorn raises the signal again when it has finished: not an error here.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)
  _Announced(_config(app, timeout, connections)).run([listening])


@contextlib.contextmanager
def running(
  app: FastAPI,
  *,
  timeout: float = 30,
  connections: Connections | None = None,
) -> Iterator[str]:
  """Serves from another thread while the block runs; yields the URL.

  Args:
    app: the application.
    timeout: seconds that an answer may take.
    connections: how they are kept.
  """
  with listen() as listening:
    config = _config(app, timeout, connections)
    server = _Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    # Connections queue from here on, though none is answered yet.
    listening.listen(_BACKLOG)
    thread.start()
    try:
      yield url_of(listening, "https" if config.is_ssl else "http")
    finally:
      server.should_exit = True
      thread.join()


class _Protocol(H11Protocol):
  """Closes connections whose request does not come.

  uvicorn's own timer runs only between two requests: a head that is never
  finished would keep its connection for ever, and so would a body that is still
  being sent when it has been answered.
  """

  head_timeout: float
  _timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport: Any) -> None:
    super().connection_made(transport)
    self._watch(first=True)

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    self._watch()

  def on_response_complete(self) -> None:
    super().on_response_complete()
    self._watch()

  def connection_lost(self, exc: Exception | None) -> None:
    if self._timer:
      self._timer.cancel()
    super().connection_lost(exc)

  def _watch(self, *, first: bool = False) -> None:
    conn = self.conn
    in_head = conn.their_state is h11.IDLE and (first or conn.trailing_data[0])
    in_useless_body = (
      conn.our_state is h11.DONE and conn.their_state is h11.SEND_BODY
    )
    if not (in_head or in_useless_body):
      if self._timer:
        self._timer.cancel()
        self._timer = None
    elif self._timer is None:
      self._timer = self.loop.call_later(
        self.head_timeout, self.transport.close
      )


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
      scheme = "https" if self.config.is_ssl else "http"
      print(f"serving on {url_of(listening, scheme)}", flush=True)


def _config(
  app: FastAPI, timeout: float, connections: Connections | None
) -> uvicorn.Config:
  connections = connections or Connections()
  protocol = type(
    "_Protocol", (_Protocol,), {"head_timeout": connections.head_timeout}
  )
  return uvicorn.Config(
    app,
    # Not httptools where that is installed: it knows no such timer.
    http=protocol,
    ws="none",
    log_level="warning",
    access_log=False,
    backlog=_BACKLOG,
    server_header=False,
    timeout_keep_alive=connections.keep_alive,
    timeout_graceful_shutdown=int(timeout) + 5,
    ssl_certfile=connections.certificate,
    ssl_keyfile=connections.key,
  )
