"""Fixtures that every chapter's tests share."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import unittest.mock

# Before jax is first imported: eight simulated devices for the mesh tests.
# Compiling is most of what a model's test takes, and without these emitters of
# XLA a quarter less.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_force_host_platform_device_count=8 "
  "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of what remains, optimising is more than half for tiny models. Set "false" to
# test what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import hypothesis
import pytest

# A busy machine takes longer, which is no fault of what is tested.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER = ROOT / "tests" / "teacher" / "openai_server.py"


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The repository's root."""
  return ROOT


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory) -> pathlib.Path:
  """Where equal programs of all tests of a process find each other compiled."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  folder = tmp_path_factory.mktemp("compiled")
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  # What was compiled while tests were collected had none, and decided so.
  compilation_cache.reset_cache()
  # Commands that tests start leave the user's folder alone.
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
  return folder


@pytest.fixture(scope="session", autouse=True)
def single_device():
  """One device, as on most machines: simulated ones wait for each other."""
  import jax

  patch = unittest.mock.patch("jax.devices", return_value=jax.devices()[:1])
  # jax has begun: this is for commands that tests start.
  flags = os.environ["XLA_FLAGS"]
  os.environ["XLA_FLAGS"] = flags.replace("device_count=8", "device_count=1")
  patch.start()
  yield patch
  patch.stop()


@pytest.fixture
def all_devices(single_device):
  """The eight simulated devices, for tests of meshes."""
  single_device.stop()
  yield
  single_device.start()


@pytest.fixture(scope="module")
def short_fits():
  """Baselines train for five epochs at most, which take most of their time."""
  from instructrec_jax.baselines import sequential, tower_ranker, trainer

  def fit(options, **rest):
    return trainer.fit(dataclasses.replace(options, max_epochs=5), **rest)

  with pytest.MonkeyPatch.context() as patch:
    for module in (sequential, tower_ranker):
      patch.setattr(module, "fit", fit)
    yield


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of real data and vocabulary that lies beside the project."""
  path = pathlib.Path(
    os.environ.get("INSTRUCTREC_SHARED", ROOT.parent / "shared")
  )
  if (path / "data").is_dir():
    return path
  reason = (
    f"the real data is absent: put it at {path} or set INSTRUCTREC_SHARED"
  )
  if os.environ.get("CI"):
    pytest.fail(reason)
  pytest.skip(reason)


class RunningServer:
  """Its address, and what it was asked."""

  def __init__(self, port: int, log: pathlib.Path):
    self.url = f"http://127.0.0.1:{port}/v1"
    self.key = "sk-secret-of-the-tests-0123456789"
    self._log = log

  @property
  def received(self) -> collections.Counter[str]:
    """How often each body came in."""
    lines = self._log.read_text().splitlines()
    return collections.Counter(line.split(" ")[0] for line in lines)

  @property
  def faults(self) -> collections.Counter[str]:
    """How often each fault was met."""
    lines = self._log.read_text().splitlines()
    return collections.Counter(line.split(" ")[1] for line in lines)


@pytest.fixture
def openai_server(tmp_path):
  """Returns what starts a server with a latency and faults."""
  with contextlib.ExitStack() as stack:

    def start(*, latency: float = 0.0, **faults: float) -> RunningServer:
      named = {
        name.lstrip("_").replace("_always", "!"): share
        for name, share in faults.items()
      }
      log = tmp_path / f"log{len(list(tmp_path.iterdir()))}"
      process = subprocess.Popen(
        [
          sys.executable,
          SERVER,
          log,
          str(latency),
          json.dumps(named),
        ],  # fmt: skip
        stdout=subprocess.PIPE,
        text=True,
      )
      stack.callback(process.wait)
      stack.callback(process.kill)
      assert process.stdout is not None
      return RunningServer(int(process.stdout.readline()), log)

    yield start


@pytest.fixture(scope="session")
def random_params():
  """Parameters of a config, with nothing to compile and no norm at 1."""
  import jax
  import numpy as np

  from instructrec_jax.seq2seq import parameters

  def draw(config, *, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
      if path[-1].key == "scale":
        return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
      fan_in = 1 if path[-1].key == "embedding" else shape.shape[0]
      return rng.normal(0, fan_in**-0.5, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
      leaf, parameters.parameter_shapes(config)
    )

  return draw
