"""Tests for instructrec_jax/serving/server.py: time-outs and TLS."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.serving.app import create_app
from instructrec_jax.serving.server import Connections, running

BODY = json.dumps({"query": "a tent", "documents": ["b", "c"]}).encode()
HEAD = (
  b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
  b"Content-Length: %d\r\n\r\n"
)


@pytest.fixture(scope="module")
def port(recommender):
  connections = Connections(head_timeout=0.5, keep_alive=2)
  with running(create_app(recommender), connections=connections) as url:
    yield int(url.rsplit(":", 1)[1])


def seconds_open(port: int, sent: bytes, *, drip: bytes = b"") -> float:
  """How long a connection is kept that sends these bytes, then now and then
  one more."""
  started = time.monotonic()
  with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
    connection.sendall(sent)
    connection.settimeout(0.1)
    while time.monotonic() < started + 20:
      try:
        if not connection.recv(1 << 16):
          break
      except TimeoutError:
        try:
          connection.sendall(drip)
        except OSError:
          break
      except OSError:
        break
  return time.monotonic() - started


@pytest.mark.parametrize(
  ("sent", "drip"),
  [
    (b"", b""),
    (b"GET /healthz HTTP/1.1\r\nHost:", b""),
    (b"GET /healthz HTTP/1.1\r\nHost: a", b"a"),
    # The head of a second request, after a first that is answered.
    (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /", b"a"),
    # A body that goes on after its answer.
    (HEAD % (b"/nothing", 1000), b"a"),
  ],
)
def test_a_request_that_does_not_come_ends_its_connection(port, sent, drip):
  assert 0.4 < seconds_open(port, sent, drip=drip) < 5


def test_many_unfinished_heads_are_all_cut_off(port):
  connections = [
    socket.create_connection(("127.0.0.1", port)) for _ in range(300)
  ]
  try:
    for connection in connections:
      connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    until = time.monotonic() + 10
    for connection in connections:
      connection.settimeout(max(0.1, until - time.monotonic()))
      # One that was cut off before it had sent all is reset.
      with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
  finally:
    for connection in connections:
      connection.close()


def test_a_connection_may_be_idle_for_as_long_as_it_is_told(port):
  asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
  # Longer than a head may take: the two are different things.
  assert 1.5 < seconds_open(port, asked) < 5


def test_requests_one_after_another_share_a_connection(port):
  with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
    for _ in range(4):
      # In parts, all of it in time.
      head = HEAD % (b"/v1/rerank", len(BODY))
      for part in (head[:20], head[20:], BODY[:5], BODY[5:]):
        connection.sendall(part)
        time.sleep(0.05)
      answer = b""
      while b'"usage"' not in answer:
        answer += connection.recv(1 << 16)
      assert answer.startswith(b"HTTP/1.1 200")
      time.sleep(0.2)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
  if shutil.which("openssl") is None:
    pytest.skip("there is no openssl to make a certificate with")
  folder = tmp_path_factory.mktemp("tls")
  subprocess.run(
    [
      *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
      *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj"),
      *("/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
      *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
    ],
    check=True,
    capture_output=True,
  )
  return folder


def test_a_certificate_encrypts(recommender, certificate):
  connections = Connections(
    head_timeout=0.5,
    certificate=certificate / "cert.pem",
    key=certificate / "key.pem",
  )
  connections.check()
  context = ssl.create_default_context(cafile=certificate / "cert.pem")
  with running(create_app(recommender), connections=connections) as url:
    assert url.startswith("https://")
    asked = urllib.request.Request(
      f"{url}/v1/rerank", BODY, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, context=context) as answer:
      assert len(json.load(answer)["results"]) == 2
    port = int(url.rsplit(":", 1)[1])
    with (
      socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
      context.wrap_socket(plain, server_hostname="127.0.0.1") as slow,
    ):
      slow.sendall(b"GET / HTTP/1.1\r\nX: ")
      assert slow.recv(1) == b""


def test_a_bad_certificate_is_one_sentence(certificate, tmp_path):
  cert, key = certificate / "cert.pem", certificate / "key.pem"
  (tmp_path / "no.pem").write_text("no certificate")
  for pair in (
    (tmp_path / "no.pem", key),
    (cert, tmp_path / "no.pem"),
    (cert, None),
    (None, key),
  ):
    with pytest.raises(InputError, match="--ssl-"):
      Connections(certificate=pair[0], key=pair[1]).check()
