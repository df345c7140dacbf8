"""Tests for instructrec_jax/reproduction/run.py, on made-up steps."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.reproduction.run import Run

# Notes each start; the second time, it comes to its end.
STEP = """
import pathlib, sys, time
starts, out, wait = map(pathlib.Path, sys.argv[1:])
with starts.open("a") as file:
  file.write(f"{out.name}\\n")
if str(wait) == "wait" and starts.read_text().count(out.name) == 1:
  time.sleep(60)
out.write_text("done")
"""


def _run(out, *, option="wait"):
  """Runs three steps, each after the one before it; returns their records."""

  def step(name, *, wait="go", after=()):
    path = out / name
    argv = ["a_step", out / "starts", path, wait]
    run.step(name, "a step", argv, makes=path, clear=path, after=after)

  with Run(out) as run:
    step("first")
    step("second", wait=option, after=["first"])
    step("third", after=["second"])
  return run.records


@pytest.fixture
def out(tmp_path, monkeypatch):
  (tmp_path / "a_step.py").write_text(STEP)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
  return tmp_path / "out"


def _starts(out):
  return (out / "starts").read_text().split()


def _start_and_wait_for(out, name):
  """Starts the steps in another process, until one of them is at work."""
  here = os.path.dirname(__file__)
  process = subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import importlib.util, pathlib, sys\n"
      f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
      "t = importlib.util.module_from_spec(spec)\n"
      "spec.loader.exec_module(t)\n"
      "out = pathlib.Path(sys.argv[1])\n"
      "t._run(out)",
      str(out),
    ],
    cwd=here,
    start_new_session=True,
  )
  for _ in range(300):
    if (out / "starts").exists() and name in _starts(out):
      return process
    time.sleep(0.1)
  raise AssertionError(f"{name} was never started")


def _wait_till_free(out):
  """Returns when what was killed, the step too, has died."""
  for _ in range(100):
    try:
      with Run(out):
        return
    except InputError:
      time.sleep(0.1)
  raise AssertionError("the lock outlives everybody")


def test_a_killed_run_goes_on_with_the_step_that_it_was_in(out):
  process = _start_and_wait_for(out, "second")
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  _wait_till_free(out)
  records = _run(out)
  assert _starts(out) == ["first", "second", "second", "third"]
  assert records["first"]["attempts"] == records["third"]["attempts"] == 1
  assert records["second"]["attempts"] == 2


def test_nobody_else_works_in_the_folder_meanwhile(out):
  process = _start_and_wait_for(out, "second")
  try:
    with pytest.raises(InputError, match="writing here"), Run(out):
      pass
    # Nor while a step lives that a killed run has left behind.
    process.kill()
    process.wait()
    with pytest.raises(InputError, match="writing here"), Run(out):
      pass
  finally:
    os.killpg(process.pid, signal.SIGKILL)
  _wait_till_free(out)


def test_a_finished_step_is_not_repeated(out):
  _run(out, option="go")
  _run(out, option="go")
  assert _starts(out) == ["first", "second", "third"]


def test_other_inputs_clear_the_outputs_of_all_that_follow(out):
  _run(out, option="go")
  _run(out, option="stay")
  # The third is told nothing new, but reads what the second writes.
  assert _starts(out) == ["first", "second", "third", "second", "third"]


def test_an_output_that_was_edited_is_made_again(out):
  _run(out, option="go")
  (out / "second").write_text("edited")
  _run(out, option="go")
  assert _starts(out) == ["first", "second", "third", "second"]
  assert (out / "second").read_text() == "done"


def test_what_others_have_made_is_kept(out, tmp_path):
  made = tmp_path / "made"
  made.write_text("by hand")
  with Run(out) as run:
    run.step("make", "", ["a_step", "-", "-"], makes=made, keep=True)
  assert run.records["make"]["state"] == "found"
  assert made.read_text() == "by hand"


@pytest.mark.parametrize(("grows", "state"), [(True, 2), (False, None)])
def test_a_growing_output_of_a_killed_step_is_completed(out, grows, state):
  """A file that is there from the start does not say that a step is done."""

  def make(execute):
    with Run(out, execute=execute) as run:
      run.step("make", "", ["m"], makes=out / "made", keep=True, grows=grows)
    return run.records["make"]

  def killed(argv, **_):
    (out / "made").write_text("half")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    make(killed)
  record = make(lambda argv, **_: 0)
  assert record.get("attempts") == state


def test_a_step_that_fails_is_told_with_its_last_line(out):
  with (
    Run(out) as run,
    pytest.raises(InputError, match="bad failed: .*No module named"),
  ):
    run.step("bad", "", ["no_such_module"], makes=out / "bad")
  record = json.loads((out / "steps" / "bad.json").read_text())
  assert record["state"] == "started"


@pytest.mark.parametrize("record", ['["state"]', '"a state"', "{}", None])
def test_steps_of_something_else_are_not_replaced(out, record):
  steps, mine = out / "steps", out / "model" / "mine"
  for path in (steps, mine.parent):
    path.mkdir(parents=True)
  mine.write_text("mine")
  if record is not None:
    (steps / "one.json").write_text(record)
  with pytest.raises(InputError, match="is not of `instructrec reprod"):
    Run(out, force=True).__enter__()
  assert mine.read_text() == "mine"
