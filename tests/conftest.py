"""Fixtures that every chapter's tests share."""

import os
import pathlib

# Before jax is first imported: eight simulated devices for the mesh tests.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The repository's root."""
  return ROOT


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
