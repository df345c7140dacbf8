"""Tests for instructrec_jax/compiled.py."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from instructrec_jax import compiled
compiled.keep()
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((3, 3))))
print("/jax/compilation_cache/cache_hits" in hits)
"""


@pytest.fixture
def run(tmp_path):
  """Returns what compiles in a process; it returns whether it had to."""

  def compile_(**environment):
    kept = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith("JAX_")
    }
    kept |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "XDG_CACHE_HOME": str(tmp_path / "caches"),
    }
    process = subprocess.run(
      [sys.executable, "-c", PROGRAM],
      env=kept | environment,
      capture_output=True,
      text=True,
      check=True,
    )
    result, hit = process.stdout.split()
    assert float(result) == 27.0
    assert "Error" not in process.stderr
    return hit == "False"

  return compile_


def test_programs_are_kept_and_damaged_ones_made_again(run, tmp_path):
  assert run(), "there is nothing yet"
  assert not run()
  for number, entry in enumerate((tmp_path / "caches").rglob("*-cache")):
    whole = entry.read_bytes()
    middle = len(whole) // 2
    end = b"" if number % 2 else b"?" + whole[middle + 1 :]
    entry.write_bytes(whole[:middle] + end)
  assert run(), "a damaged program was run"
  assert not run()


def test_without_a_folder_nothing_is_kept(run, tmp_path):
  (tmp_path / "file").touch()
  assert run(XDG_CACHE_HOME=str(tmp_path / "file"))
  assert run(JAX_ENABLE_COMPILATION_CACHE="false")
  assert not (tmp_path / "caches").exists()
