"""The registrations: names only, and nothing is read."""

import subprocess
import sys

CODE = """
import pathlib, seqio
opened = []
seqio.LazyTfdsLoader._get_builder = lambda self, split=None: opened.append(1)
import tasks
print(*sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}))
assert not opened
"""


def test_importing_tasks_registers_them_and_reads_no_data(root):
  done = subprocess.run(
    [sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  tasks = [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
  groups = ["a", "all", "p1_i0_t0", "p1_i0_t2", "p1_i0_t3"]
  assert done.stdout.split() == sorted(
    [f"instructrec_a{number:02d}_v1" for number in tasks]
    + [f"instructrec_{group}_v1" for group in groups]
  )


def test_tasks_holds_no_logic(root):
  for file in (root / "tasks").rglob("*.py"):
    assert len(file.read_text().splitlines()) < 150
