"""Where INSTRUCTREC_T5X is set and T5X is not there, tests fail and say why."""

import os
import subprocess
import sys

TESTS = ("tests/t5x_test.py", "tests/seq2seq/t5x_parity_test.py")


def _run(root, tmp_path, *words):
  env = {**os.environ, "INSTRUCTREC_T5X": str(tmp_path / "t5x")}
  return subprocess.run(
    [sys.executable, *words], cwd=root, env=env, capture_output=True, text=True
  )


def test_they_fail(root, tmp_path):
  found = _run(root, tmp_path, "-m", "pytest", "-q", "-p", "no:xdist", *TESTS)
  assert found.returncode not in (0, 5)
  assert "tools/t5x_missing.py" in found.stdout
  assert "there is no" in found.stdout or "error" in found.stdout


def test_a_command_tells_what_is_missing(root, tmp_path):
  found = _run(root, tmp_path, "tools/t5x_missing.py")
  assert found.returncode == 1
  assert f"missing: {tmp_path / 't5x'}: no such folder" in found.stdout
  assert "missing: t5x.train: ModuleNotFoundError" in found.stdout
  assert found.stdout.endswith("lack the above\n")
