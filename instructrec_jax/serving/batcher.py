"""Dynamic batching: requests of many connections share a forward pass.

Whatever is queued when a scoring thread becomes free is scored together, in
shapes that the ranker has compiled. The first thread never waits for more. A
second one, which lays out a batch while the device computes the first one's,
waits until as many are queued as are being scored, since two half batches cost
more than a whole one. All other work for the device, which may take longer,
runs in a thread of its own.
"""

import asyncio
import collections
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import Ranker, RankingRequest

T = TypeVar("T")

# Longest wait, in seconds, for a second batch to grow as large as the first,
# which may take long to score.
_BATCH_WAIT = 0.05


class Overloaded(Exception):
  """The queue of requests is full."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
  """A request to score, or a function to call; its result goes to `future`."""

  work: Any
  future: Future


class Batcher:
  """Scores the requests of many coroutines in batches.

  All methods are for one event loop; only the worker threads run beside it.

  Attributes:
    waiting: requests that are queued or being answered.
  """

  def __init__(
    self,
    ranker: Ranker,
    *,
    max_waiting: int = 128,
    max_batch: int = 16,
    max_candidates: int = 2000,
    threads: int = 2,
    observe: Callable[[int], object] = lambda size: None,
  ):
    """Starts the threads.

    Args:
      ranker: a thread-safe one.
      max_waiting: requests that may wait for their answers at a time.
      max_batch: requests in a batch, at most.
      max_candidates: a batch with as many takes no further request.
      threads: that score, beside the one that runs calls.
      observe: called with the size of each batch.
    """
    self.waiting = 0
    self._ranker = ranker
    self._max_waiting, self._max_batch = max_waiting, max_batch
    self._max_candidates = max_candidates
    self._observe = observe
    self._calls: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    # Guards the three fields that follow.
    self._changed = threading.Condition()
    self._requests: collections.deque[_Job] = collections.deque()
    self._scoring = 0
    self._closing = False
    targets = [self._run_calls, *[self._score_requests] * threads]
    self._threads = [
      threading.Thread(target=target, name=f"device-{number}", daemon=True)
      for number, target in enumerate(targets)
    ]
    for thread in self._threads:
      thread.start()

  @contextlib.contextmanager
  def slot(self) -> Iterator[None]:
    """Counts a waiting request while the block runs.

    Raises:
      Overloaded: `max_waiting` are waiting already.
    """
    if self.waiting >= self._max_waiting:
      raise Overloaded
    self.waiting += 1
    try:
      yield
    finally:
      self.waiting -= 1

  async def score(self, request: RankingRequest) -> np.ndarray:
    """Returns the scores of a request's candidates.

    Raises:
      InputError: the ranker refuses it.
    """
    job = _Job(request, Future())
    with self._changed:
      self._requests.append(job)
      if len(self._requests) == 1 or self._is_batch_full():
        self._changed.notify_all()
    # Cancelling the coroutine cancels a job that has not begun.
    return await asyncio.wrap_future(job.future)

  async def call(self, function: Callable[[], T]) -> T:
    """Returns a function's result; such functions run one at a time."""
    job = _Job(function, Future())
    self._calls.put(job)
    return await asyncio.wrap_future(job.future)

  def close(self) -> None:
    """Ends the threads after all queued work is done."""
    self._calls.put(None)
    with self._changed:
      self._closing = True
      self._changed.notify_all()
    for thread in self._threads:
      thread.join()

  def _run_calls(self) -> None:
    while (job := self._calls.get()) is not None:
      if job.future.set_running_or_notify_cancel():
        _settle([job], lambda call=job.work: [call()])

  def _score_requests(self) -> None:
    while jobs := self._next_batch():
      try:
        self._observe(len(jobs))
        self._score(jobs)
      finally:
        with self._changed:
          self._scoring -= len(jobs)
          self._changed.notify_all()

  def _next_batch(self) -> list[_Job]:
    """Waits for requests; returns none when closing and all are answered."""
    with self._changed:
      while True:
        self._changed.wait_for(lambda: self._requests or self._closing)
        self._changed.wait_for(self._is_batch_full, timeout=_BATCH_WAIT)
        # Another thread may have taken them in the meantime.
        if batch := self._take():
          self._scoring += len(batch)
          return batch
        if self._closing and not self._requests:
          return []

  def _is_batch_full(self) -> bool:
    """Whether as many are queued as are being scored by another thread."""
    wanted = min(self._scoring, self._max_batch)
    return self._closing or len(self._requests) >= wanted

  def _take(self) -> list[_Job]:
    """Takes requests from the queue, without the cancelled ones.

    Bounded by candidates too, so that the requests after it meet their
    deadlines.
    """
    batch: list[_Job] = []
    candidates = 0
    while (
      self._requests
      and len(batch) < self._max_batch
      and candidates < self._max_candidates
    ):
      job = self._requests.popleft()
      if job.future.set_running_or_notify_cancel():
        batch.append(job)
        candidates += len(job.work.candidates)
    return batch

  def _score(self, jobs: Sequence[_Job]) -> None:
    """Scores jobs together; if one is refused, each by itself."""

    def scores() -> Sequence[np.ndarray]:
      return self._ranker.score([job.work for job in jobs])

    if len(jobs) == 1:
      _settle(jobs, scores)
      return
    try:
      found = scores()
    except InputError:
      for job in jobs:
        self._score([job])
    except Exception as error:
      _fail(jobs, error)
    else:
      _settle(jobs, lambda: found)


def _settle(jobs: Sequence[_Job], results: Callable[[], Sequence[Any]]) -> None:
  try:
    found = list(zip(jobs, results(), strict=True))
  except Exception as error:
    _fail(jobs, error)
    return
  for job, result in found:
    job.future.set_result(result)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
  for job in jobs:
    job.future.set_exception(error)
