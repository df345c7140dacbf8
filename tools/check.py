"""Runs everything that must hold before a commit: lint, types, tests.

  .venv/bin/python tools/check.py [pytest arguments]

Each step's own output is shown; the first failure ends the run.
"""

import pathlib
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(sysconfig.get_path("scripts"))


def main(pytest_arguments: list[str]) -> int:
  """Returns the exit status of the first step that fails, or 0."""
  python = sys.executable
  steps = [
    [BIN / "ruff", "format", "--check", "."],
    [BIN / "ruff", "check", "."],
    [BIN / "lint-imports"],
    [BIN / "pyright", "--pythonpath", python],
    [python, "-m", "pytest", "-n", "auto", *pytest_arguments],
  ]
  for step in steps:
    print("$", " ".join(map(str, step)), flush=True)
    if status := subprocess.call(step, cwd=ROOT):
      return status
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
