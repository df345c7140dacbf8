"""Tests for instructrec_jax/progress.py."""

import itertools
import time

import pytest

from instructrec_jax import progress as progress_lib
from instructrec_jax.progress import progress


@pytest.fixture
def clock(monkeypatch):
  """A clock that jumps five seconds at each look."""
  ticks = itertools.count(step=5.0)
  monkeypatch.setattr(time, "time", lambda: next(ticks))


def test_a_log_gets_lines_with_a_rate_and_no_bar(capsys, clock):
  # tqdm has taken `time.time` already.
  bar = progress(total=400, desc="score", unit="request")
  bar._time = time.time
  bar.start_t = bar.last_print_t = time.time()
  for _ in range(40):
    bar.update(10)
  bar.close()
  lines = capsys.readouterr().err.splitlines()
  assert 2 <= len(lines) <= 10
  assert all(line.startswith("score: ") for line in lines)
  assert "request/s" in lines[0]
  assert lines[-1].startswith("score: 400 of 400 in ")
  assert not any("\r" in line or "|" in line for line in lines)


def test_the_first_of_many_tells_no_rate_and_bars_within_bars_no_codes(
  capsys, clock
):
  with progress(total=2, desc="outer", unit="step"):
    inner = progress(total=400, desc="pack", unit="row")
    inner._time = time.time
    inner.start_t = inner.last_print_t = time.time() - 60
    for _ in range(8):
      inner.update(1)
    inner.close()
  told = capsys.readouterr().err
  assert "pack: 1 of 400 in " in told and "\x1b" not in told
  assert not any("left" in line for line in told.splitlines() if ": 1 " in line)
  assert any("left" in line for line in told.splitlines())


def test_short_work_prints_nothing_in_a_log(capsys):
  assert list(progress(range(3), "short")) == [0, 1, 2]
  assert list(progress(range(3), "hidden", shown=False)) == [0, 1, 2]
  assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
  monkeypatch.setattr(
    progress_lib.sys.stderr, "isatty", lambda: True, raising=False
  )
  list(progress(range(3), "short"))
  assert "3/3" in capsys.readouterr().err


def test_a_count_is_told_once(capsys, clock):
  bar = progress(total=2, desc="train", unit="step")
  bar._time = time.time
  bar.start_t = bar.last_print_t = time.time()
  bar.update(2)
  bar.refresh()
  bar.close()
  assert capsys.readouterr().err.count("train: 2 of 2 in ") == 1
