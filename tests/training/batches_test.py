import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from instructrec_jax.training.batches import prefetched_batches, rows_of_step

NUM_ROWS, BATCH_SIZE = 10, 4


def rows(step, seed=0):
  return rows_of_step(step, num_rows=NUM_ROWS, batch_size=BATCH_SIZE, seed=seed)


def test_every_pass_takes_every_row_once():
  # Ten steps of four rows are four passes over ten rows.
  passes = np.concatenate([rows(step) for step in range(10)]).reshape(4, -1)
  assert (np.sort(passes, axis=1) == np.arange(NUM_ROWS)).all()
  assert len({tuple(one) for one in passes}) == 4


def test_rows_depend_on_seed_and_step_alone():
  np.testing.assert_array_equal(rows(7), rows(7))
  assert not np.array_equal(rows(7), rows(7, seed=1))


def test_a_batch_may_be_larger_than_the_data():
  taken = rows_of_step(0, num_rows=3, batch_size=9, seed=0)
  assert np.bincount(taken).tolist() == [3, 3, 3]


class Rows:
  """Stands in for packed rows; tells which were asked for, and when."""

  def __init__(self, fail_at=None):
    self.asked = 0
    self._fail_at = fail_at

  def __len__(self):
    return NUM_ROWS

  def batch(self, rows):
    if self.asked == self._fail_at:
      raise OSError("the disk is gone")
    self.asked += 1
    return {"rows": rows}


def batches(data, start=0, stop=5):
  return prefetched_batches(
    data,
    start=start,
    stop=stop,
    batch_size=BATCH_SIZE,
    seed=0,
    sharding=SingleDeviceSharding(jax.devices()[0]),
  )


def test_batches_come_in_order_from_any_start():
  for step, batch in enumerate(batches(Rows(), start=3, stop=7), start=3):
    np.testing.assert_array_equal(batch["rows"], rows(step))
  assert list(batches(Rows(), start=5, stop=5)) == []


def test_the_next_batches_are_made_while_a_step_runs():
  data = Rows()
  stream = batches(data, stop=20)
  next(stream)
  deadline = time.monotonic() + 10
  while data.asked < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.1)
  # The one in use, two that wait and one in hand: ahead, but not by much.
  assert 3 <= data.asked <= 4
  stream.close()


def test_stopping_early_ends_the_thread():
  before = threading.active_count()
  stream = batches(Rows(), stop=100)
  next(stream)
  stream.close()
  assert threading.active_count() <= before


def test_an_error_of_the_reader_reaches_the_loop():
  with pytest.raises(OSError, match="the disk is gone"):
    list(batches(Rows(fail_at=2)))
