"""The registrations: names only, and nothing is read."""

import os
import subprocess
import sys

from instructrec_jax.instructions.mixtures import mixtures
from instructrec_jax.instructions.templates import load_templates

CODE = """
import pathlib, seqio
opened = []
seqio.LazyTfdsLoader._get_builder = lambda self, split=None: opened.append(1)
import sys, tasks
assert "instructrec_jax.tasks" in sys.modules
print(*sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}))
assert not opened
"""


def test_importing_tasks_registers_them_and_reads_no_data(root):
  done = subprocess.run(
    [sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  names = done.stdout.split()
  templates = load_templates()
  wanted = {form.task_name for t in templates for form in t.forms}
  wanted |= mixtures(templates).keys()
  assert wanted <= set(names)
  # The others are rankings of requests, for T5X to evaluate on.
  ranked = set(names) - wanted
  assert "rank_sequential_v1" in {
    n.removeprefix("instructrec_") for n in ranked
  }


def test_tasks_holds_no_logic(root):
  for file in (root / "tasks").rglob("*.py"):
    assert len(file.read_text().splitlines()) < 150


def test_importing_tasks_takes_the_templates_of_the_folder_that_is_set(
  root, tmp_path
):
  (tmp_path / "instructions.json").write_text("{}")
  (tmp_path / "templates.yaml").write_text(
    "- {name: Z01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had: {history}. What comes next?'}"
  )
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    cwd=root,
    env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "instructrec_z01_v1" in done.stdout
  assert "instructrec_a01_v1" not in done.stdout
