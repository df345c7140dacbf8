"""Threads that have the device, fed by many connections.

Whatever requests wait when a thread becomes free are scored together, in the
shapes that the ranker has compiled. Nobody waits for a batch to fill. While one
thread lays out a batch, the device computes the other's.
"""

import asyncio
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
      threads: that score.
      observe: is told the size of each batch.
    """
    self.waiting = 0
    self._ranker = ranker
    self._places, self._together, self._most = places, together, most
    self._observe = observe
    self._jobs: queue.SimpleQueue[_Request | _Call | None] = queue.SimpleQueue()
    self._calling = threading.Lock()
    self._threads = [
      threading.Thread(target=self._work, name=f"device-{n}", daemon=True)
      for n in range(threads)
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
    return await self._result(_Request(request, Future()))

  async def call(self, function: Callable[[], T]) -> T:
    """Returns what a function returns, of which one is called at a time."""
    return await self._result(_Call(function, Future()))

  def close(self) -> None:
    """Ends the threads when all that was asked is answered."""
    for _ in self._threads:
      self._jobs.put(None)
    for thread in self._threads:
      thread.join()

  async def _result(self, job: _Request | _Call) -> Any:
    self._jobs.put(job)
    # If the coroutine is cancelled, so is a job that has not begun.
    return await asyncio.wrap_future(job.future)

  def _work(self) -> None:
    closing = False
    while not closing:
      closing, begun = self._take()
      if requests := [job for job in begun if isinstance(job, _Request)]:
        self._observe(len(requests))
        self._score(requests)
      for job in begun:
        if isinstance(job, _Call):
          with self._calling:
            _settle([job], lambda call=job.function: [call()])

  def _take(self) -> tuple[bool, list[_Request | _Call]]:
    """Waits for jobs; returns whether they are the last, and who still waits.

    A batch is short enough for the deadlines of those that come after it.
    """
    begun: list[_Request | _Call] = []
    candidates = 0
    job = self._jobs.get()
    while job is not None:
      if job.future.set_running_or_notify_cancel():
        begun.append(job)
        if isinstance(job, _Request):
          candidates += len(job.request.candidates)
      if len(begun) >= self._together or candidates >= self._most:
        return False, begun
      try:
        # Not by asking whether there is one: another thread may be faster.
        job = self._jobs.get_nowait()
      except queue.Empty:
        return False, begun
    return True, begun

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
    found = results()
  except Exception as error:
    _fail(jobs, error)
    return
  for job, result in zip(jobs, found, strict=True):
    job.future.set_result(result)


def _fail(jobs: Sequence[_Request | _Call], error: Exception) -> None:
  for job in jobs:
    job.future.set_exception(error)
