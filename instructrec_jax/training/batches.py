"""Which rows each step trains on, and getting them to the device in time."""

import functools
import queue
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Int

from instructrec_jax.text.packed_dataset import PackedDataset
from instructrec_jax.training.title_dropout import TitleDropout


def rows_of_step(
  step: int, *, num_rows: int, batch_size: int, seed: int
) -> Int[np.ndarray, " batch"]:
  """Returns the rows of a step: a pure function, so that resuming is exact.

  Each pass over the rows is a permutation drawn from (seed, pass); a batch
  may reach from one pass into the next.
  """
  positions = np.arange(step * batch_size, (step + 1) * batch_size)
  rows = np.empty(batch_size, np.int64)
  for epoch in np.unique(positions // num_rows).tolist():
    order = _order(seed, epoch, num_rows)
    here = positions // num_rows == epoch
    rows[here] = order[positions[here] % num_rows]
  return rows


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_rows: int) -> Int[np.ndarray, " rows"]:
  return np.random.default_rng((seed, epoch)).permutation(num_rows)


def prefetched_batches(
  data: PackedDataset,
  *,
  start: int,
  stop: int,
  batch_size: int,
  seed: int,
  sharding: Sharding,
  dropout: TitleDropout | None = None,
) -> Iterator[dict[str, jax.Array]]:
  """Yields the batches of steps `start` to `stop`, two of them ahead.

  With a `dropout` they lack some of the titles; see there.
  """
  ready: queue.Queue = queue.Queue(maxsize=2)
  stopped = threading.Event()

  def offer(item: object) -> None:
    # Never blocks for good: whoever stops the loop joins this thread.
    while not stopped.is_set():
      try:
        return ready.put(item, timeout=0.1)
      except queue.Full:
        continue

  def produce() -> None:
    try:
      for step in range(start, stop):
        rows = rows_of_step(
          step, num_rows=len(data), batch_size=batch_size, seed=seed
        )
        offer(_on_devices(data, rows, sharding, step=step, dropout=dropout))
        if stopped.is_set():
          return
    except BaseException as error:
      offer(error)

  thread = threading.Thread(target=produce, daemon=True)
  thread.start()
  try:
    for _ in range(start, stop):
      batch = ready.get()
      if isinstance(batch, BaseException):
        raise batch
      yield batch
  finally:
    stopped.set()
    thread.join()


def token_counts(
  data: PackedDataset,
  step: int,
  *,
  batch_size: int,
  seed: int,
  dropout: TitleDropout | None = None,
) -> Int[np.ndarray, "batch 2"]:
  """Returns the tokens of a step's rows, of inputs and of targets."""
  rows = rows_of_step(
    step, num_rows=len(data), batch_size=batch_size, seed=seed
  )
  counts = data.token_counts(rows)
  if dropout:
    places = np.arange(len(rows))
    batch = dropout.batch(data.batch(rows), step=step, rows=places)
    counts[:, 0] = np.count_nonzero(batch["encoder_input_tokens"], axis=1)
  return counts


def _on_devices(
  data: PackedDataset,
  rows: Int[np.ndarray, " batch"],
  sharding: Sharding,
  *,
  step: int,
  dropout: TitleDropout | None,
) -> dict[str, jax.Array]:
  """Reads the rows of this process's devices; together they are the batch."""
  here = np.zeros(len(rows), bool)
  for index in sharding.addressable_devices_indices_map(rows.shape).values():
    here[index or ...] = True
  batch = data.batch(rows[here])
  if dropout:
    batch = dropout.batch(batch, step=step, rows=np.flatnonzero(here))
  return {
    name: jax.make_array_from_process_local_data(
      sharding, array, (len(rows), *array.shape[1:])
    )
    for name, array in batch.items()
  }
