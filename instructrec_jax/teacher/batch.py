"""OpenAI's Batch API: half the price, an answer within a day, paid once.

What is to be sent is written down first, in a small SQLite file beside the
store. A batch there is intended (about to be created) or open (created, not
collected); a request is in one of these, or waits to be tried again. What is
answered is the store's and leaves the file. Each batch carries a tag at the
server, so that a new process can find out whether a batch that a killed one
intended came to be.
"""

import collections
import dataclasses
import itertools
import operator
import pathlib
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator

import openai
import tqdm
from openai.types import Batch

from instructrec_jax.errors import InputError
from instructrec_jax.teacher import batch_api
from instructrec_jax.teacher.batch_api import BatchApi, ServerUnavailable
from instructrec_jax.teacher.batch_state import BatchState
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.jsonl import (
  ResultLine,
  judge,
  parse_result,
  request_line,
  unanswered,
)
from instructrec_jax.teacher.store import Store

FILE = "annotations.batches.sqlite"
TEACHER = "openai_batch"
"""What the store calls this transport."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_QUEUE_FULL = "token_limit_exceeded"
_ROWS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
  """How requests are cut into batches, and how often they are tried.

  The sizes are the most that OpenAI takes (200 MB a file of requests).
  """

  requests: int = 50_000
  bytes: int = 200_000_000
  attempts: int = 3


_DEFAULT_LIMITS = Limits()


@dataclasses.dataclass
class BatchTally:
  """What submitting and collecting did, in requests.

  Attributes:
    submitted: put into new batches; those tried again count again.
    over_cap: not submitted, since the budget did not allow it.
    statuses: what went into the store, by status.
    requeued: ended without an answer, and to be tried again.
    deferred: never begun, since the server's queue was full; to be tried again.
    unknown: lines for none of the requests of their batch.
    broken: lines that are no answers at all.
    open: still in batches.
    running: those of `open` that the server is done with.
  """

  submitted: int = 0
  over_cap: int = 0
  statuses: collections.Counter[Status] = dataclasses.field(
    default_factory=collections.Counter
  )
  requeued: int = 0
  deferred: int = 0
  unknown: int = 0
  broken: int = 0
  open: int = 0
  running: int = 0

  def add(self, later: "BatchTally") -> None:
    """Adds what happened later; what is open is as it was then."""
    for field in dataclasses.fields(self):
      old, new = getattr(self, field.name), getattr(later, field.name)
      now = field.name in ("open", "running")
      setattr(self, field.name, new if now else old + new)


def submit(
  requests: Iterable[ChatRequest],
  *,
  store: Store,
  client: openai.OpenAI,
  state_path: pathlib.Path,
  reserve: Callable[[ChatRequest], bool] = lambda _: True,
  limits: Limits = _DEFAULT_LIMITS,
) -> BatchTally:
  """Creates batches of what is neither answered nor in a batch already.

  Args:
    requests: may repeat themselves; they are asked once. They are held in
      memory.
    store: its answers are not asked for again.
    client: of the server.
    state_path: of the file that says what was sent; see `FILE`.
    reserve: asked for each request before anything is sent; from the first
      False on none is.
    limits: of a batch.

  Raises:
    InputError: the server refuses, or another process uses the state file.
  """
  with _Batches(store, client, state_path, limits) as batches:
    return batches.submit(requests, reserve)


def collect(
  *,
  store: Store,
  client: openai.OpenAI,
  state_path: pathlib.Path,
  limits: Limits = _DEFAULT_LIMITS,
) -> BatchTally:
  """Fetches the answers of batches that have ended; costs nothing.

  Requests without an answer wait for the next `submit`; those that were tried
  often enough, that would fail again or that someone cancelled are stored as
  failed.

  Args: as `submit`.

  Raises:
    InputError: as `submit`.
  """
  with _Batches(store, client, state_path, limits) as batches:
    tally = BatchTally()
    batches.collect(tally)
    return tally


def run_batches(
  requests: Iterable[ChatRequest],
  *,
  store: Store,
  client: openai.OpenAI,
  state_path: pathlib.Path,
  reserve: Callable[[ChatRequest], bool] = lambda _: True,
  limits: Limits = _DEFAULT_LIMITS,
  poll_seconds: float = 60.0,
  progress: bool = True,
) -> BatchTally:
  """Submits and collects until every request has an answer or has failed.

  What is to be tried again is submitted once no batch is open any more. A
  killed run is continued by calling this again.

  Args: as `submit`, and
    poll_seconds: between two looks at the batches.
    progress: shows a bar on stderr, if that is a terminal.

  Raises:
    InputError: as `submit`; or the server's queue has no room for any of the
      batches.
  """
  requests, total = list(requests), BatchTally()
  disable = None if progress else True
  with (
    _Batches(store, client, state_path, limits) as batches,
    tqdm.tqdm(desc="batched requests", disable=disable) as bar,
  ):
    while True:
      total.add(batches.submit(requests, reserve))
      if not total.open:
        return total
      bar.total = total.statuses.total() + total.open
      ended = _await_all(batches, total, bar, poll_seconds)
      if ended.deferred and not (ended.statuses or ended.requeued):
        raise InputError(
          f"{client.base_url}: the server's queue of batched tokens has no "
          f"room for these {ended.deferred} requests; wait, or make batches "
          f"of fewer than {limits.requests} requests."
        )
      waiting = batches.waiting_keys()
      requests = [r for r in requests if r.key in waiting]


def _await_all(
  batches: "_Batches", total: BatchTally, bar: tqdm.tqdm, seconds: float
) -> BatchTally:
  """Collects until no batch is open; adds what that brings, and returns it."""
  ended, unreached, before = BatchTally(), 0, total.statuses.total()
  while True:
    try:
      batches.collect(ended)
      unreached = 0
    except ServerUnavailable:
      unreached += 1
      if unreached == batch_api.TRIES:
        raise
    else:
      bar.n = before + ended.statuses.total() + ended.running
      bar.refresh()
      if not ended.open:
        total.add(ended)
        return ended
    time.sleep(seconds)


class _Batches:
  """Moves requests between the state, the server and the store."""

  def __init__(
    self,
    store: Store,
    client: openai.OpenAI,
    state_path: pathlib.Path,
    limits: Limits,
  ):
    self._store = store
    self._server = BatchApi(client)
    self._state = BatchState(state_path)
    self._limits = limits

  def __enter__(self) -> "_Batches":
    try:
      self._recover()
    except BaseException:
      self._state.close()
      raise
    return self

  def __exit__(self, *error: object) -> None:
    self._state.close()

  def waiting_keys(self) -> set[str]:
    return self._state.keys(waiting=True)

  def submit(
    self,
    requests: Iterable[ChatRequest],
    reserve: Callable[[ChatRequest], bool],
  ) -> BatchTally:
    busy = self._state.keys(waiting=False)
    todo = [r for r in unanswered(requests, self._store) if r.key not in busy]
    allowed = list(itertools.takewhile(reserve, todo))
    for chunk in _split(allowed, self._limits):
      tag = uuid.uuid4().hex
      self._state.intend(tag, chunk)
      self._state.created(tag, self._server.create(tag, chunk))
    return BatchTally(
      submitted=len(allowed),
      over_cap=len(todo) - len(allowed),
      open=len(busy) + len(allowed),
    )

  def collect(self, tally: BatchTally) -> None:
    """Adds to the tally as it goes, so that an error takes nothing from it."""
    tally.running = 0
    for tag, batch_id in self._state.batches(created=True):
      batch = self._server.batch(batch_id)
      if batch.status in _ENDED:
        self._collect(tag, batch, tally)
      elif counts := batch.request_counts:
        tally.running += counts.completed + counts.failed
    tally.open = len(self._state.keys(waiting=False))

  def _recover(self) -> None:
    """Settles whether batches that a killed process intended came to be."""
    if intended := self._state.batches(created=False):
      existing = self._server.tagged()
      if any(tag not in existing for tag, _ in intended):
        # The killed process may have asked for it this very moment.
        time.sleep(batch_api.PAUSE_SECONDS)
        existing = self._server.tagged()
      for tag, _ in intended:
        if tag in existing:
          self._state.created(tag, existing[tag])
        else:
          self._state.end(tag, tried=False)

  def _collect(self, tag: str, batch: Batch, tally: BatchTally) -> None:
    """Stores what an ended batch brought; then, not before, lets it go."""
    asked = self._state.requests(tag)
    problems = (batch.errors and batch.errors.data) or []
    if any(problem.code == _QUEUE_FULL for problem in problems):
      tally.deferred += len(asked)
      self._state.end(tag, tried=False)
      return
    results = self._results(batch, asked, tally)
    words = "; ".join(p.message or p.code or "" for p in problems[:3])
    none = ResultLine("", None, words or f"no line in the {batch.status} batch")
    final: list[tuple[ChatRequest, ChatAnswer]] = []
    for key, (request, attempts) in asked.items():
      result = results.get(key, none)
      answer = judge(request, result, attempts=attempts)
      if (
        answer.status != Status.FAILED
        or result.permanent
        or attempts >= self._limits.attempts
        or batch.status == "cancelled"
      ):
        final.append((request, answer))
    for start in range(0, len(final), _ROWS_AT_ONCE):
      self._store.put_all(final[start : start + _ROWS_AT_ONCE], teacher=TEACHER)
    self._state.end(tag, settled=[request.key for request, _ in final])
    tally.statuses.update(answer.status for _, answer in final)
    tally.requeued += len(asked) - len(final)

  def _results(
    self, batch: Batch, asked: Collection[str], tally: BatchTally
  ) -> dict[str, ResultLine]:
    results: dict[str, ResultLine] = {}
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
      for number, line in enumerate(self._server.lines(file_id), start=1):
        try:
          result = parse_result(line, where=f"{file_id}, line {number}")
        except InputError:
          # Its request counts as unanswered, and the others are paid for.
          tally.broken += 1
          continue
        if result.key in asked and result.key not in results:
          results[result.key] = result
        else:
          tally.unknown += 1
    return results


def _split(
  requests: Iterable[ChatRequest], limits: Limits
) -> Iterator[list[ChatRequest]]:
  """Cuts requests into batches, each of one model, as OpenAI demands."""
  by_model = operator.attrgetter("model")
  for _, group in itertools.groupby(sorted(requests, key=by_model), by_model):
    chunk, size = [], 0
    for request in group:
      length = len(request_line(request))
      if chunk and (
        len(chunk) == limits.requests or size + length > limits.bytes
      ):
        yield chunk
        chunk, size = [], 0
      chunk.append(request)
      size += length
    yield chunk
