"""Tests for instructrec_jax/locks.py."""

import os
import re
import signal
import subprocess
import sys

import pytest

from instructrec_jax import locks
from instructrec_jax.errors import InputError

_HOLD = """
import sys, time, pathlib
from instructrec_jax import locks
with getattr(locks, sys.argv[1])(pathlib.Path(sys.argv[2])):
  print("held", flush=True)
  time.sleep(60)
"""


def _hold(how, path):
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, how, str(path)], stdout=subprocess.PIPE
  )
  assert process.stdout is not None
  assert process.stdout.readline() == b"held\n"
  return process


@pytest.mark.parametrize("how", ["writing", "writing_in"])
def test_another_process_is_refused_and_told_who_writes(how, tmp_path):
  path = tmp_path / "new" / "out"
  process = _hold(how, path)
  lock = getattr(locks, how)
  try:
    with (
      pytest.raises(InputError) as refused,
      lock(path),
    ):
      pass
    assert re.search(
      rf"another run is writing here since \d.* \(process {process.pid} on ",
      str(refused.value),
    )
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  # The lock of a dead process is stale.
  with lock(path):
    pass
  assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_both_spellings_of_a_path_are_one_lock(tmp_path):
  (tmp_path / "link").symlink_to(tmp_path)
  with (
    locks.writing(tmp_path / "out"),
    pytest.raises(InputError, match="another run"),
    locks.writing(tmp_path / "link" / "." / "out"),
  ):
    pass


def test_an_unlinked_lock_is_not_taken_for_the_current_one(tmp_path):
  path = tmp_path / "out"
  with locks.writing_in(path):
    os.replace(path, tmp_path / "old")
    # Another run's, in the folder that took its place.
    with locks.writing_in(path):
      pass
    path.mkdir()
    (path / ".lock").write_text("theirs")
  assert (path / ".lock").read_text() == "theirs"


def test_parents_stay_only_with_what_is_written(tmp_path):
  with locks.writing(tmp_path / "a" / "b" / "out"):
    assert (tmp_path / "a" / "b").is_dir()
  assert list(tmp_path.iterdir()) == []
  with locks.writing(tmp_path / "a" / "out"):
    (tmp_path / "a" / "out").write_text("x")
  assert [p.name for p in tmp_path.rglob("*")] == ["a", "out"]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "text"])
@pytest.mark.parametrize("how", ["writing", "writing_in"])
def test_what_is_no_lock_stays_as_it_is(how, kind, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  lock = out / ".lock" if how == "writing_in" else tmp_path / ".out.lock"
  mine = tmp_path / "mine"
  mine.write_text("mine")
  if kind == "pipe":
    os.mkfifo(lock)
  elif kind == "text":
    lock.write_text("mine")
  else:
    lock.symlink_to(mine if kind == "link" else tmp_path / "nowhere")
  with (
    pytest.raises(InputError, match="has the name of a lock, and is none"),
    getattr(locks, how)(out),
  ):
    pass
  assert mine.read_text() == "mine"
  assert lock.is_symlink() or lock.is_fifo() or lock.read_text() == "mine"
  assert not (tmp_path / "nowhere").exists()
