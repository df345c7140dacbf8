"""Tests for `instructrec serve`: the process, its signals and its limits."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from fastapi import FastAPI

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli.main import main
from instructrec_jax.errors import InputError
from instructrec_jax.scoring.shapes import MAX_SHAPES
from instructrec_jax.serving.server import listen, serve

SERVE = (sys.executable, "-m", "instructrec_jax.cli.main", "serve")


@pytest.fixture(scope="module")
def command(model_dir, shop):
  return [*SERVE, "--model", str(model_dir), "--dataset", str(shop)]


@pytest.fixture(scope="module")
def served(command):
  """A running server's process and address."""
  with started(command) as process_and_url:
    yield process_and_url


@contextlib.contextmanager
def started(command):
  """Starts a server; yields its process and address."""
  # One device, as a server has: the tests' eight are slow to compile for.
  environment = {**os.environ, "XLA_FLAGS": ""}
  process = subprocess.Popen(
    [*command, "--port", "0"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  )
  assert process.stdout is not None
  line = process.stdout.readline()
  try:
    assert line.startswith("serving on http://127.0.0.1:"), line
    yield process, line.split()[-1]
  finally:
    process.kill()
    process.wait()


def metric(url: str, name: str) -> float:
  with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
    text = answer.read().decode()
  return float(re.findall(rf"^instructrec_{name} (\S+)$", text, re.M)[0])


def test_only_this_machine_can_reach_it(served):
  _, url = served
  port = int(url.rsplit(":", 1)[1])
  with socket.socket() as other:
    # Another address of the loopback network, as any other machine's would be.
    assert other.connect_ex(("127.0.0.2", port)) != 0
  # Nor a page of another, whose name leads here.
  for host, status in (("localhost", 200), ("evil.example", 421)):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v1/items", headers={"Host": f"{host}:{port}"})
    assert connection.getresponse().status == status
    connection.close()


def test_what_is_asked_often_compiles_nothing_more(served, shop):
  from instructrec_jax.data.folder import DatasetFolder

  _, url = served
  titles = [item.title for item in DatasetFolder.open(shop).items]
  titles = list(dict.fromkeys(titles))
  assert metric(url, "compiled_shapes") > 1
  compiled = []
  for _ in range(2):
    for count in (2, 5, 10, 10, 20, 50, 100, 100, 10, 10) * 3:
      ask(url, {"query": "a tent", "documents": titles[:count]})
    compiled.append(metric(url, "compiled_shapes"))
  assert compiled[0] == compiled[1] <= MAX_SHAPES


def test_no_request_makes_it_fail(served):
  """Schemathesis reads /openapi.json and asks what that allows, and more."""
  pytest.importorskip("schemathesis")
  _, url = served
  done = subprocess.run(
    [
      *(sys.executable, "-m", "schemathesis.cli", "run"),
      f"{url}/openapi.json",
      *("--checks", "not_a_server_error,status_code_conformance"),
      *("--checks", "response_schema_conformance"),
      *("--max-examples", "25", "--seed", "0", "--phases", "fuzzing"),
      "--suppress-health-check=all",
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stdout[-6000:]


def test_a_taken_port_is_one_sentence(served, command):
  _, url = served
  port = url.rsplit(":", 1)[1]
  done = subprocess.run(
    [*command, "--port", port], capture_output=True, text=True, timeout=60
  )
  assert done.returncode == 2
  assert "cannot listen" in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_was_taken_meanwhile_is_one_sentence():
  # As of two servers that load at the same time.
  with listen() as first:
    with listen(port=first.getsockname()[1]) as second:
      first.listen()
      with pytest.raises(InputError, match="cannot listen at 127.0.0.1, port"):
        serve(FastAPI(), second, timeout=1)


def test_a_signal_in_mid_load_loses_nothing(served):
  """Asked again and again, till the server ends: the next test's is new."""
  process, url = served
  statuses: list[int] = []
  refused: list[float] = []

  def keep_asking() -> None:
    while not refused:
      started = time.monotonic()
      try:
        body = {"query": "a tent", "documents": ["b", "c", "d"]}
        statuses.append(ask(url, body))
      except urllib.error.HTTPError as error:
        # An OSError too, but an answer.
        statuses.append(error.code)
      except OSError:
        refused.append(started)
        return

  threads = [threading.Thread(target=keep_asking) for _ in range(8)]
  for thread in threads:
    thread.start()
  while len(statuses) < 20 and threads[0].is_alive():
    time.sleep(0.01)
  stopped = time.monotonic()
  process.send_signal(signal.SIGTERM)
  for thread in threads:
    thread.join(60)
  assert process.wait(60) == 0
  assert set(statuses) == {200}
  # A connection that was asked for before the signal was accepted.
  assert min(refused) > stopped
  assert process.stderr is not None
  assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
  ("number", "options"),
  [(signal.SIGTERM, []), (signal.SIGINT, ["--skip-warm-up"])],
)
def test_what_was_sent_before_a_signal_is_answered(command, number, options):
  with started([*command, *options]) as (process, url):
    port = int(url.rsplit(":", 1)[1])
    # While it does nothing, connections and requests wait in the kernel.
    process.send_signal(signal.SIGSTOP)
    connections = []
    for _ in range(8):
      connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
      body = json.dumps({"query": "a tent", "documents": ["b", "c"]})
      connection.request(
        "POST", "/v1/rerank", body, {"Content-Type": "application/json"}
      )
      connections.append(connection)
    time.sleep(0.3)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    assert [c.getresponse().status for c in connections] == [200] * 8
    assert process.wait(60) == 0
    assert process.stderr is not None
    # How far it has come, and no more.
    lines = process.stderr.read().splitlines()
    assert lines[0].startswith("loaded ")
    assert (len(lines) == 1) == bool(options)
    steps = [f"compiling, step {n} of {len(lines) - 1}:" for n in range(1, 99)]
    for line, step in zip(lines[1:], steps, strict=False):
      assert line.startswith(step)


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (["--model", "nowhere"], "not a model folder"),
    (["--dataset", "nowhere"], "not a dataset folder"),
    (["--templates", "nowhere.yaml"], "'nowhere.yaml': no such file"),
    (["--step", "8"], "no checkpoint of step 8"),
    (["--step", "odd"], "odd"),
    (["--port", "99999"], "--port is 99999: at most 65535"),
    (["--host", "nowhere.invalid"], "cannot listen"),
    (["--host", "a..b"], "cannot listen at a..b"),
    (["--waiting", "0"], "--waiting is 0"),
    (["--api-key", "nowhere"], "--api-key is nowhere: no such file"),
    (["--api-key", __file__], "has a space in it"),
    (["--cors-origins", "shop.example"], "--cors-origins is 'shop.example'"),
    (["--cors-origins", "https://a.example/"], "an origin such as"),
    (["--allowed-hosts", "http://shop.example"], "a name such as recs.shop"),
    (["--allowed-hosts", "a:80"], "without a port"),
    (["--root-path", "recs"], "a path such as /recs"),
    (["--root-path", "/recs/"], "a path such as /recs"),
    (["--ssl-certfile", __file__], "not a certificate"),
    (["--ssl-keyfile", __file__], "needs --ssl-certfile"),
    (["--head-timeout", "0"], "--head-timeout is 0"),
    (["--batch-tokens", "0"], "--batch-tokens is 0"),
  ],
)
def test_bad_options_are_one_sentence_and_2(command, options, says, capfd):
  assert main(["serve", *command[len(SERVE) :], "--port", "0", *options]) == 2
  (line,) = capfd.readouterr().err.strip().splitlines()
  assert says in line


@pytest.mark.parametrize("skip", [[], ["--skip-warm-up"]])
def test_a_model_that_cannot_score_is_one_sentence_and_2(
  model_dir, shop, monkeypatch, capfd, skip
):
  load = model_folder.load_params

  def broken(*arguments, **options):
    config, params = load(*arguments, **options)
    return config, jax.tree.map(lambda leaf: leaf * np.nan, params)

  monkeypatch.setattr(model_folder, "load_params", broken)
  options = ["--model", str(model_dir), "--dataset", str(shop), "--port", "0"]
  assert main(["serve", *options, *skip]) == 2
  said = capfd.readouterr()
  *steps, line = said.err.strip().splitlines()
  assert line.startswith("instructrec serve: ") and not said.out
  assert not any("Traceback" in step for step in steps)


def ask(url: str, body: dict) -> int:
  asked = urllib.request.Request(
    f"{url}/v1/rerank",
    json.dumps(body).encode(),
    {"Content-Type": "application/json"},
  )
  with urllib.request.urlopen(asked, timeout=60) as answer:
    answer.read()
    return answer.status
