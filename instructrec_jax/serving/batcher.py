"""Threads that have the device, fed by many connections.

Whatever requests wait when a thread becomes free are scored together, in the
shapes that the ranker has compiled. A first thread never waits for more; a
second one, which lays out a batch while the device computes the first one's,
waits for as many as are being scored, since two halves cost more than a whole.
All else that needs the device, which may take longer, has a thread of its own.
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

# Seconds that a second batch waits, at most, until it is no smaller than the
# first: that may be a long one.
_PATIENCE = 0.05


class Overloaded(Exception):
  """As many are waiting already as may."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
  """A request to score."""

  request: RankingRequest
  future: Future


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
  """Anything else that needs the device."""

  function: Callable[[], Any]
  future: Future


class Batcher:
  """Scores requests of many coroutines together.

  All but the threads' own work is for one event loop.

  Attributes:
    waiting: how many have a place.
  """

  def __init__(
    self,
    ranker: Ranker,
    *,
    places: int = 128,
    together: int = 16,
    most: int = 2000,
    threads: int = 2,
    observe: Callable[[int], object] = lambda size: None,
  ):
    """Starts the threads.

    Args:
      ranker: that several threads may use.
      places: how many may wait for their answers at a time.
      together: requests that are scored at a time, at most.
      most: candidates of these after which no request is added.
      threads: that score, beside the one that has the calls.
      observe: is told the size of each batch.
    """
    self.waiting = 0
    self._ranker = ranker
    self._places, self._together, self._most = places, together, most
    self._observe = observe
    self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
    # Over what follows.
    self._changed = threading.Condition()
    self._requests: collections.deque[_Request] = collections.deque()
    self._scored = 0
    self._closing = False
    work = [self._answer_calls, *[self._score_requests] * threads]
    self._threads = [
      threading.Thread(target=target, name=f"device-{number}", daemon=True)
      for number, target in enumerate(work)
    ]
    for thread in self._threads:
      thread.start()

  @contextlib.contextmanager
  def place(self) -> Iterator[None]:
    """Keeps a place while the block runs.

    Raises:
      Overloaded: there is none.
    """
    if self.waiting >= self._places:
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
    job = _Request(request, Future())
    with self._changed:
      self._requests.append(job)
      if len(self._requests) == 1 or self._is_worth_it():
        self._changed.notify_all()
    # If the coroutine is cancelled, so is a job that has not begun.
    return await asyncio.wrap_future(job.future)

  async def call(self, function: Callable[[], T]) -> T:
    """Returns what a function returns, of which one is called at a time."""
    job = _Call(function, Future())
    self._calls.put(job)
    return await asyncio.wrap_future(job.future)

  def close(self) -> None:
    """Ends the threads when all that was asked is answered."""
    self._calls.put(None)
    with self._changed:
      self._closing = True
      self._changed.notify_all()
    for thread in self._threads:
      thread.join()

  def _answer_calls(self) -> None:
    while (job := self._calls.get()) is not None:
      if job.future.set_running_or_notify_cancel():
        _settle([job], lambda call=job.function: [call()])

  def _score_requests(self) -> None:
    while jobs := self._next_batch():
      try:
        self._observe(len(jobs))
        self._score(jobs)
      finally:
        with self._changed:
          self._scored -= len(jobs)
          self._changed.notify_all()

  def _next_batch(self) -> list[_Request]:
    """Waits for requests; returns none if there will be no more."""
    with self._changed:
      while True:
        self._changed.wait_for(lambda: self._requests or self._closing)
        self._changed.wait_for(self._is_worth_it, timeout=_PATIENCE)
        # Meanwhile another thread may have taken them.
        if batch := self._take():
          self._scored += len(batch)
          return batch
        if self._closing and not self._requests:
          return []

  def _is_worth_it(self) -> bool:
    wanted = min(self._scored, self._together)
    return self._closing or len(self._requests) >= wanted

  def _take(self) -> list[_Request]:
    """Takes those who still wait.

    A batch is short enough for the deadlines of those that come after it.
    """
    batch: list[_Request] = []
    candidates = 0
    while (
      self._requests and len(batch) < self._together and candidates < self._most
    ):
      job = self._requests.popleft()
      if job.future.set_running_or_notify_cancel():
        batch.append(job)
        candidates += len(job.request.candidates)
    return batch

  def _score(self, jobs: Sequence[_Request]) -> None:
    """Scores jobs together; if one is refused, each by itself."""

    def scores() -> Sequence[np.ndarray]:
      return self._ranker.score([job.request for job in jobs])

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


def _settle(
  jobs: Sequence[_Request | _Call], results: Callable[[], Sequence[Any]]
) -> None:
  try:
    found = list(zip(jobs, results(), strict=True))
  except Exception as error:
    _fail(jobs, error)
    return
  for job, result in found:
    job.future.set_result(result)


def _fail(jobs: Sequence[_Request | _Call], error: Exception) -> None:
  for job in jobs:
    job.future.set_exception(error)
