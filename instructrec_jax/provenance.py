"""What made a report: the day, the version, the commit, the command."""

import datetime
import functools
import pathlib
import shlex
import subprocess
import sys
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@functools.cache
def code() -> dict[str, Any]:
  """Returns the commit, and whether files differ from it; None if not git."""
  return {
    "commit": _git("rev-parse", "HEAD"),
    "changed": bool(_git("status", "--porcelain")),
  }


def provenance() -> dict[str, str]:
  """Returns what every report says of how it came to be, in print."""
  now, found = datetime.datetime.now(datetime.UTC), code()
  version = sys.modules["instructrec_jax"].__version__
  if found["commit"]:
    version += f", commit {found['commit'][:12]}"
    version += " with changed files" * found["changed"]
  name = pathlib.Path(sys.argv[0]).name
  return {
    "made on": f"{now:%Y-%m-%d}",
    "program": f"instructrec_jax {version}",
    "command": shlex.join([name, *sys.argv[1:]]),
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
