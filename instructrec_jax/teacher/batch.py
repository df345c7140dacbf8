"""OpenAI's Batch API: half the price, an answer within a day, paid once.

What is to be sent is written down first, in a small SQLite file beside the
store. A batch there is intended (about to be created) or open (created, not
collected); a request is in one of these, or waits for a retry. Answered
requests are in the store and leave the file. Each batch carries a tag at the
server, so that a new process can find out whether a batch that a killed one
intended was created.
"""

import collections
import contextlib
import dataclasses
import io
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
from instructrec_jax.progress import progress
from instructrec_jax.teacher.batch_state import BatchState
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.jsonl import (
  ENDPOINT,
  FILE_BYTES,
  FILE_REQUESTS,
  ResultLine,
  request_line,
)
from instructrec_jax.teacher.online import address, rejected_key
from instructrec_jax.teacher.store import ROWS_PER_COMMIT, Store, unanswered

TEACHER = "openai_batch"
"""What the store calls this transport."""
TAG = "instructrec_batch"
"""The field of a batch's metadata that holds its tag."""

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_QUEUE_FULL = "token_limit_exceeded"
_TRANSIENT = (
  openai.APIConnectionError,
  openai.InternalServerError,
  openai.RateLimitError,
)
# Of creating a batch, and of polls in a row that reach no server.
_TRIES = 5
_PAUSE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
  """How requests are cut into batches, and how often they are tried.

  The sizes are the most that OpenAI takes.
  """

  requests: int = FILE_REQUESTS
  bytes: int = FILE_BYTES
  attempts: int = 3


@dataclasses.dataclass
class BatchTally:
  """Counts of submitted and collected requests.

  Attributes:
    submitted: put into new batches; those tried again count again.
    over_cap: not submitted, since the budget did not allow it.
    statuses: what went into the store, by status.
    requeued: ended without an answer, and to be tried again.
    deferred: never begun, since the server's queue was full; to be tried again.
    unknown: lines for none of the requests of their batch.
    broken: lines that cannot be parsed.
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
    """Adds later counts; `open` and `running` are replaced."""
    for field in dataclasses.fields(self):
      old, new = getattr(self, field.name), getattr(later, field.name)
      replaced = field.name in ("open", "running")
      setattr(self, field.name, new if replaced else old + new)


class ServerUnavailable(InputError):
  """No answer from the server; the same again may work later."""


def run_batches(
  requests: Iterable[ChatRequest],
  *,
  store: Store,
  client: openai.OpenAI,
  state_path: pathlib.Path,
  reserve: Callable[[ChatRequest], bool] = lambda _: True,
  limits: Limits = Limits(),
  poll_seconds: float = 60.0,
) -> BatchTally:
  """Submits and collects until every request has an answer or has failed.

  Retries are submitted once no batch is open any more. A killed run is
  continued by calling this again.

  Args:
    requests: duplicates are asked once. They are held in memory.
    store: its answers are not asked for again.
    client: of the server.
    state_path: of the file that says what was sent.
    reserve: called for each request before anything is sent; from the first
      False on none is.

  Raises:
    InputError: the server refuses, another process uses the state file, or the
      server's queue has no capacity for any of the batches.
  """
  requests, total = list(requests), BatchTally()
  with (
    Batches(store, client, state_path, limits) as batches,
    progress(desc="batched requests") as bar,
  ):
    while True:
      total.add(batches.submit(requests, reserve))
      if not total.open:
        return total
      bar.total = total.statuses.total() + total.open
      ended = _collect_all(batches, bar, poll_seconds)
      total.add(ended)
      if ended.deferred and not (ended.statuses or ended.requeued):
        raise InputError(
          f"{address(client)}: the server's queue of batched tokens has no "
          f"room for these {ended.deferred} requests; wait, or make batches "
          f"of fewer than {limits.requests} requests."
        )
      waiting = batches.state.keys(waiting=True)
      requests = [r for r in requests if r.key in waiting]


def _collect_all(
  batches: "Batches", bar: tqdm.tqdm, seconds: float
) -> BatchTally:
  """Polls until no batch is open."""
  tally, failed_polls, before = BatchTally(), 0, bar.n
  while True:
    try:
      batches.collect(tally)
      failed_polls = 0
    except ServerUnavailable:
      failed_polls += 1
      if failed_polls == _TRIES:
        raise
    else:
      bar.n = before + tally.statuses.total() + tally.running
      bar.refresh()
      if not tally.open:
        return tally
    time.sleep(seconds)


class Batches:
  """Moves requests between the state, the server and the store."""

  def __init__(
    self,
    store: Store,
    client: openai.OpenAI,
    state_path: pathlib.Path,
    limits: Limits = Limits(),
  ):
    """Opens the state; see `run_batches`."""
    self._store, self._limits = store, limits
    self._server = BatchApi(client)
    self.state = BatchState(state_path)

  def __enter__(self) -> "Batches":
    """Settles whether batches that a killed process intended were created."""
    try:
      if intended := self.state.batches(created=False):
        existing = self._server.tagged()
        if any(tag not in existing for tag, _ in intended):
          # The killed process may have asked for it this very moment.
          time.sleep(_PAUSE_SECONDS)
          existing = self._server.tagged()
        for tag, _ in intended:
          if tag in existing:
            self.state.created(tag, existing[tag])
          else:
            self.state.end(tag, tried=False)
    except BaseException:
      self.state.close()
      raise
    return self

  def __exit__(self, *error: object) -> None:
    self.state.close()

  def submit(
    self,
    requests: Iterable[ChatRequest],
    reserve: Callable[[ChatRequest], bool] = lambda _: True,
  ) -> BatchTally:
    """Creates batches of what is neither answered nor in a batch already."""
    busy = self.state.keys(waiting=False)
    todo = [r for r in unanswered(requests, self._store) if r.key not in busy]
    allowed = list(itertools.takewhile(reserve, todo))
    for chunk in _split(allowed, self._limits):
      tag = uuid.uuid4().hex
      self.state.intend(tag, chunk)
      self.state.created(tag, self._server.create(tag, chunk))
    return BatchTally(
      submitted=len(allowed),
      over_cap=len(todo) - len(allowed),
      open=len(busy) + len(allowed),
    )

  def collect(self, tally: BatchTally) -> None:
    """Fetches the answers of batches that have ended; costs nothing.

    Requests without an answer wait for the next `submit`; those that were
    tried often enough, that would fail again or that someone cancelled are
    stored as failed. Counts are added to `tally` as answers are stored, so that
    an error loses none.
    """
    tally.running = 0
    for tag, batch_id in self.state.batches(created=True):
      batch = self._server.batch(batch_id)
      if batch.status in _ENDED:
        self._collect(tag, batch, tally)
      elif counts := batch.request_counts:
        tally.running += counts.completed + counts.failed
    tally.open = len(self.state.keys(waiting=False))

  def _collect(self, tag: str, batch: Batch, tally: BatchTally) -> None:
    """Stores an ended batch's answers; only then removes it from the state."""
    asked = self.state.requests(tag)
    problems = (batch.errors and batch.errors.data) or []
    if any(problem.code == _QUEUE_FULL for problem in problems):
      tally.deferred += len(asked)
      self.state.end(tag, tried=False)
      return
    results = self._results(batch, asked, tally)
    words = "; ".join(p.message or p.code or "" for p in problems[:3])
    words = words or f"no line in the {batch.status} batch"
    final: list[tuple[ChatRequest, ChatAnswer]] = []
    for key, (request, attempts) in asked.items():
      result = results.get(key) or ResultLine(
        custom_id=key, response=None, error=words
      )
      answer = result.answer(request, attempts=attempts)
      if (
        answer.status != Status.FAILED
        or result.permanent
        or attempts >= self._limits.attempts
        or batch.status == "cancelled"
      ):
        final.append((request, answer))
    for start in range(0, len(final), ROWS_PER_COMMIT):
      self._store.put_all(
        final[start : start + ROWS_PER_COMMIT], teacher=TEACHER
      )
    self.state.end(tag, settled=[request.key for request, _ in final])
    tally.statuses.update(answer.status for _, answer in final)
    tally.requeued += len(asked) - len(final)

  def _results(
    self, batch: Batch, asked: Collection[str], tally: BatchTally
  ) -> dict[str, ResultLine]:
    results: dict[str, ResultLine] = {}
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
      for number, line in enumerate(self._server.lines(file_id), start=1):
        try:
          result = ResultLine.parse(line, where=f"{file_id}, line {number}")
        except InputError:
          # Its request counts as unanswered, and the others are paid for.
          tally.broken += 1
          continue
        if result.custom_id in asked and result.custom_id not in results:
          results[result.custom_id] = result
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


class BatchApi:
  """Calls to the server; their errors become one sentence."""

  def __init__(self, client: openai.OpenAI):
    self._client = client

  def create(self, tag: str, requests: Iterable[ChatRequest]) -> str:
    """Uploads the requests and creates a batch of them; returns its id.

    In a rare case the batch exists although this raises.
    """
    with self._clear_errors():
      file = self._client.files.create(
        file=(f"{tag}.jsonl", b"".join(map(request_line, requests))),
        purpose="batch",
      )
      # The client must not try again by itself: when an answer is lost, the
      # batch may be there, and a second one would be paid as well.
      batches = self._client.with_options(max_retries=0).batches
      for attempt in range(_TRIES):
        try:
          return batches.create(
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={TAG: tag},
          ).id
        except _TRANSIENT:
          time.sleep(_PAUSE_SECONDS * 2**attempt)
          if batch_id := self.tagged().get(tag):
            return batch_id
          if attempt == _TRIES - 1:
            raise
    raise AssertionError("unreachable")

  def tagged(self) -> dict[str, str]:
    """Returns the ids of all batches of ours, by tag."""
    with self._clear_errors():
      return {
        batch.metadata[TAG]: batch.id
        for batch in self._client.batches.list(limit=100)
        if batch.metadata and TAG in batch.metadata
      }

  def batch(self, batch_id: str) -> Batch:
    with self._clear_errors():
      return self._client.batches.retrieve(batch_id)

  def lines(self, file_id: str) -> Iterator[bytes]:
    """Yields a file's lines, without blank ones."""
    with self._clear_errors():
      content = self._client.files.content(file_id).content
    # Not `iter_lines`: to it U+2028 within an answer would end a line.
    return (line for line in io.BytesIO(content) if line.strip())

  @contextlib.contextmanager
  def _clear_errors(self) -> Iterator[None]:
    url = address(self._client)
    try:
      yield
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
      raise InputError(rejected_key(self._client, error)) from None
    except _TRANSIENT as error:
      raise ServerUnavailable(
        f"{url}: the server cannot be reached ({self._words(error)}); run the "
        "same again to go on."
      ) from None
    except openai.OpenAIError as error:
      raise InputError(
        f"{url}: the server refuses a batch ({self._words(error)})."
      ) from None

  def _words(self, error: Exception) -> str:
    words = " ".join(str(error).split()).replace(self._client.api_key, "...")
    return words[:200].rstrip(".")
