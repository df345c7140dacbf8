"""Several processes on this machine do what one process does.

They are real ones, which run the command line and find each other by address.
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from instructrec_jax import processes
from instructrec_jax.cli.main import main
from instructrec_jax.data import held_out as stored
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.requests import write_requests
from instructrec_jax.text.packed_dataset import pack_pairs
from instructrec_jax.text.vocabulary import train_vocabulary

# Of any wait: what hangs must not hang the tests.
SECONDS = 240
MACROS = dict(
  TRAIN_STEPS=30,
  BATCH_SIZE=8,
  CHECKPOINT_PERIOD=10,
  LOG_PERIOD=1,
  VALIDATION_LIMIT=10,
  MESH="2x1",
  ZERO=True,
  EMB_DIM=16,
  NUM_HEADS=2,
  HEAD_DIM=8,
  NUM_LAYERS=1,
  MLP_DIM=16,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  """A dataset folder with requests, and packed rows to train on."""
  path = tmp_path_factory.mktemp("processes") / "shop"
  prepare(format="synthetic", users=200, out=path)
  folder = DatasetFolder.open(path)
  requests = []
  for scenario in find_scenarios(["sequential_full", "sequential"]):
    candidates = stored.stored_candidates(scenario, folder=folder, split="test")
    rows = np.arange(len(candidates.keys))
    requests = [
      dataclasses.replace(r, instruction=f"Rank {'; '.join(r.candidates)}")
      for r in stored.without_text(
        folder, candidates, name=scenario.name, split="test", rows=rows
      )
    ]
    write_requests(
      path / "requests" / f"{scenario.name}_test.parquet", requests
    )
  pairs = [(r.instruction, r.candidates[r.target or 0]) for r in requests]
  vocabulary = train_vocabulary(
    [text for pair in pairs for text in pair],
    path / "vocabulary.model",
    size=300,
  )
  pack_pairs(
    pairs,
    vocabulary=vocabulary,
    out=path / "packed",
    encoder_length=256,
    decoder_length=32,
    manifest={"mixture": "shop"},
  )
  return path


class Launched:
  """Processes that run one command together."""

  def __init__(self, *arguments, count: int, devices: int, logs: pathlib.Path):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    shared = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(logs / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    self._running, self._logs = [], []
    for number in range(count):
      joining = {
        processes.ADDRESS: f"127.0.0.1:{port}",
        processes.COUNT: str(count),
        processes.NUMBER: str(number),
      }
      self._logs.append(logs / f"{port}_{number}.log")
      with self._logs[-1].open("w") as log:
        self._running.append(
          subprocess.Popen(
            [sys.executable, "-m", "instructrec_jax.cli.main", *arguments],
            env=shared | (joining if count > 1 else {}),
            stdout=log,
            stderr=subprocess.STDOUT,
          )
        )

  def kill(self):
    for process in self._running:
      if process.poll() is None:
        process.send_signal(signal.SIGKILL)
      process.wait(SECONDS)

  def wait(self) -> list[str]:
    """Returns what each has printed; all must end well."""
    try:
      statuses = [process.wait(SECONDS) for process in self._running]
    finally:
      self.kill()
    texts = [log.read_text() for log in self._logs]
    assert not any(statuses), "\n\n".join(text[-3000:] for text in texts)
    return texts

  def wait_for(self, path: pathlib.Path):
    """Returns when a path is there, before they have ended."""
    end = time.monotonic() + SECONDS
    while not path.exists() and time.monotonic() < end:
      if any(process.poll() is not None for process in self._running):
        break
      time.sleep(0.02)
    if not path.exists():
      self.kill()
      pytest.fail(self._logs[0].read_text()[-3000:])


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
  logs = tmp_path_factory.mktemp("logs")

  def launch(*arguments, count, devices=1):
    together = ("--multi_process",) if count > 1 else ()
    return Launched(
      *map(str, (*arguments, *together)),
      count=count,
      devices=devices,
      logs=logs,
    )

  return launch


def _training(shop, model_dir):
  macros = MACROS | dict(
    MODEL_DIR=str(model_dir),
    PACKED=str(shop / "packed"),
    VALIDATION_REQUESTS=str(shop / "requests" / "sequential_test.parquet"),
  )
  return (
    *("train", "--gin_file", "gin/model/mini.gin"),
    *("--gin_file", "gin/run/train.gin", "--json"),
    *(f"--gin.{name}={value!r}" for name, value in macros.items()),
  )


@pytest.fixture(scope="module")
def one_process(shop, launch, tmp_path_factory):
  """What one process trains on a mesh of the same shape."""
  path = tmp_path_factory.mktemp("one") / "model"
  launch(*_training(shop, path), count=1, devices=2).wait()
  return path


def _lines(model_dir):
  text = (model_dir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_two_processes_killed_and_resumed_train_as_one(
  shop, one_process, launch, tmp_path
):
  path = tmp_path / "model"
  first = launch(*_training(shop, path), count=2)
  first.wait_for(path / "checkpoints" / "10")
  first.kill()
  assert not (path / "checkpoints" / "30").exists(), "killed too late"
  said = launch(*_training(shop, path), count=2).wait()
  ours, theirs = _lines(path), _lines(one_process)
  # Written by one of them, and each step once.
  assert [line["step"] for line in ours] == list(range(1, 31))
  assert sum('"loss"' in text for text in said) == 1
  for mine, other in zip(ours, theirs, strict=True):
    assert mine.keys() == other.keys()
    for line in (mine, other):
      # All else is the same.
      del line["seconds"], line["tokens_per_second"]
    assert mine == pytest.approx(other, rel=1e-5)
  validated = [line["step"] for line in ours if "validation/hr@1" in line]
  assert validated == [10, 20, 30]


def test_two_processes_evaluate_as_one(shop, one_process, launch, tmp_path):
  def arguments(out):
    return (
      *("evaluate", "--dataset", shop, "--model", one_process),
      *("--scenarios", "sequential,sequential_full"),
      # SASRec is yet to be trained: by one of them.
      *("--rankers", "popularity,sasrec,model,catalogue"),
      *("--limit", "20", "--out", out),
    )

  said = launch(*arguments(tmp_path / "two"), count=2).wait()
  launch(*arguments(tmp_path / "one"), count=1).wait()
  two, one = (
    json.loads((tmp_path / name / "results.json").read_text())
    for name in ("two", "one")
  )
  assert len(one["rows"]) == len(two["rows"]) > 4
  for mine, other in zip(two["rows"], one["rows"], strict=True):
    for name, expected in other.items():
      if isinstance(expected, float):
        expected = pytest.approx(expected, rel=1e-6)
      assert mine[name] == expected
  assert {row["ranker"] for row in one["rows"]} > {
    "sasrec",
    "model",
    "catalogue",
  }
  assert sum("| popularity" in text for text in said) == 1


@pytest.mark.parametrize(
  ("environment", "said"),
  [
    ({processes.COUNT: "2"}, "set all of JAX_COORDINATOR_ADDRESS"),
    (
      {
        processes.ADDRESS: "127.0.0.1:1",
        processes.COUNT: "two",
        processes.NUMBER: "0",
      },
      "must be whole numbers",
    ),
  ],
)
def test_processes_named_in_part_are_refused(monkeypatch, environment, said):
  for name in (processes.ADDRESS, processes.COUNT, processes.NUMBER):
    monkeypatch.delenv(name, raising=False)
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(InputError, match=said):
    processes.join()


def test_without_others_one_is_the_first():
  assert processes.is_first()
  processes.wait("nobody")


def test_training_says_when_others_are_named_in_part(monkeypatch, capsys):
  monkeypatch.setenv(processes.NUMBER, "1")
  assert main(["train", "--multi_process"]) == 2
  assert "set all of" in capsys.readouterr().err
