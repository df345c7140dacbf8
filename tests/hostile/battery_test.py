"""A short form of the battery: each kind of bad input, refused."""

import pathlib
import subprocess
import sys

BATTERY = pathlib.Path(__file__).with_name("battery.py")


def test_bad_inputs_are_refused_and_change_nothing(tmp_path):
  run = subprocess.run(
    [sys.executable, BATTERY, "bad", "--short", "--quiet"]
    + ["--folder", tmp_path / "battery"],
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stdout + run.stderr
