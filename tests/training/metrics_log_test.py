import json

import pytest

from instructrec_jax.training.metrics_log import METRICS_FILE, MetricsLog


@pytest.fixture
def write(tmp_path):
  """Writes lines as a run does that starts behind a step."""

  def write(*steps, resumed_step=0):
    log = MetricsLog(tmp_path, resumed_step=resumed_step)
    for step in steps:
      log.write(step, {"loss": step / 10})
    log.close()
    return log

  return write


def steps_in(folder):
  lines = (folder / METRICS_FILE).read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_a_line_is_a_json_object(tmp_path, write):
  write(5)
  assert (tmp_path / METRICS_FILE).read_text() == '{"step": 5, "loss": 0.5}\n'


def test_resuming_drops_lines_after_the_restored_step(tmp_path, write):
  write(5, 10, 15)
  log = write(12, 15, resumed_step=10)
  assert steps_in(tmp_path) == [5, 10, 12, 15]
  assert log.last == {"loss": 1.0}


def test_a_line_that_was_broken_off_is_dropped(tmp_path, write):
  write(5)
  with open(tmp_path / METRICS_FILE, "a") as file:
    file.write('{"step": 6, "lo')
  write(8, resumed_step=7)
  assert steps_in(tmp_path) == [5, 8]


def test_starting_anew_leaves_no_line(tmp_path, write):
  write(5, 10)
  assert write().last == {}
  assert steps_in(tmp_path) == []


def test_event_files_hold_the_same_numbers(tmp_path, write):
  write(5)
  (path,) = (tmp_path / "events").iterdir()
  assert b"loss" in path.read_bytes()
