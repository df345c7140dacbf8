"""Where numbers come from: the code's commit, libraries, machine."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Those that numbers depend on.
_LIBRARIES = (
  "instructrec-jax",
  "flax",
  "jax",
  "jaxlib",
  "numpy",
  "optax",
  "orbax-checkpoint",
  "polars",
  "scipy",
  "sentencepiece",
  "seqio",
  "tensorflow",
)


@functools.cache
def code() -> dict[str, Any]:
  """Returns the commit, and whether files differ from it; None if not git."""
  return {
    "commit": _git("rev-parse", "HEAD"),
    "changed": bool(_git("status", "--porcelain")),
  }


def environment() -> dict[str, Any]:
  """Returns versions and the machine's kind."""
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "cpus": os.cpu_count(),
    "libraries": {
      name: importlib.metadata.version(name) for name in _LIBRARIES
    },
  }


def _git(*arguments: str) -> str | None:
  try:
    return subprocess.run(
      ["git", "-C", str(_ROOT), *arguments],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None
