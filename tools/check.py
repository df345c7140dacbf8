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
# A file's tests share what it takes long to make. In the files' own order: the
# largest first would leave those of one long test for the end.
_PARALLEL = "-n auto --dist loadfile --no-loadscope-reorder --durations 40"


def main(pytest_arguments: list[str]) -> int:
  """Returns the exit status of the first step that fails, or 0."""
  python = sys.executable
  steps = [
    [BIN / "ruff", "format", "--check", "."],
    [BIN / "ruff", "check", "."],
    [BIN / "lint-imports"],
    [BIN / "pyright", "--pythonpath", python],
    [python, "-m", "pytest", *_PARALLEL.split(), *pytest_arguments],
  ]
  for step in steps:
    print("$", " ".join(map(str, step)), flush=True)
    if status := subprocess.call(step, cwd=ROOT):
      return status
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
