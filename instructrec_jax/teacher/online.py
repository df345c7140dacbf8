"""Requests over HTTP, many at a time, to any server that speaks OpenAI's API.

The openai client's own retries are off: the caps are exact only if each send,
a retry too, is reserved before and settled after, and a server's Retry-After
must hold back all workers, not only the one that received it.
"""

import asyncio
import collections
import contextlib
import dataclasses
import email.utils
import os
import random
import time
import urllib.parse
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

import openai
import tqdm

from instructrec_jax.errors import InputError, check_counts, check_numbers
from instructrec_jax.progress import progress
from instructrec_jax.teacher.budget import Budget, Pace, most_tokens
from instructrec_jax.teacher.chat import (
  RETRYABLE,
  ChatAnswer,
  ChatRequest,
  Status,
  read_answer,
)
from instructrec_jax.teacher.store import Store, unanswered

KEY_VARIABLE = "OPENAI_API_KEY"
_URL_VARIABLE = "OPENAI_BASE_URL"
TEACHER = "openai"

# Of the request itself: too long, or a text that a filter stops.
_INVALID_REQUEST = frozenset({400, 413, 422})
_LONGEST_RETRY_AFTER_SECONDS = 600.0
_LONGEST_BACKOFF_SECONDS = 60.0
_POLL_SECONDS = 0.05
# Workers that start together would go on sending in bursts.
_BETWEEN_STARTS_SECONDS = 0.003
# A model may answer better when asked again, but each answer is paid for.
_ASKED_AGAIN = (Status.MALFORMED, Status.TRUNCATED)
# After so many rejections and no answer, the cause is not a single request.
_REJECTED_AT_FIRST = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
  """Concurrency, retries and timeouts; times are in seconds."""

  workers: int = 64
  # Sends of a request that gets no answer, and answers that are cut or
  # malformed, at most.
  attempts: int = 6
  bad_answers: int = 2
  # Before the first retry; doubled for each further one.
  first_pause: float = 0.5
  timeout: float = 120.0
  # Of all workers together.
  failures_in_a_row: int = 200

  def __post_init__(self):
    """Raises InputError if nothing could be sent, or no answer awaited."""
    check_counts(
      workers=self.workers,
      attempts=self.attempts,
      bad_answers=self.bad_answers,
      failures_in_a_row=self.failures_in_a_row,
    )
    check_numbers(first_pause=self.first_pause)
    check_numbers(least=_POLL_SECONDS, timeout=self.timeout)


@dataclasses.dataclass
class Tally:
  """Counts of a run.

  Attributes:
    statuses: answers that went into the store, by status.
    sent: requests sent, retries among them.
    retries: those of them that repeat a request of this run.
    prompt_tokens, completion_tokens: as billed.
    usd: by the prices given, sends without a bill in full; 0 without prices.
    stopped: why the run ended before all was answered, or "".
  """

  statuses: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  sent: int = 0
  retries: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  usd: float = 0.0
  stopped: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
  """Outcome of one send.

  Attributes:
    answer: if there is one.
    error: why there is none; a whole sentence where it is fatal.
    retry: the same request may succeed later.
    fatal: any request would fail.
    pause: seconds to wait before anything is sent, as the server asks.
    billed: prompt and completion tokens; None if the server may have counted
      some without saying how many.
  """

  answer: ChatAnswer | None = None
  error: str = ""
  retry: bool = False
  fatal: bool = False
  pause: float = 0.0
  billed: tuple[int, int] | None = None


def make_client(base_url: str | None = None) -> openai.AsyncOpenAI:
  """Returns a client without retries of its own; see `find_key`."""
  key = find_key(base_url)
  with proxies_told():
    return openai.AsyncOpenAI(
      api_key=key,
      base_url=base_url,
      max_retries=0,
      # Each redirection is another send, which no cap would count.
      http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
    )


@contextlib.contextmanager
def proxies_told() -> Iterator[None]:
  """Raises InputError where no client can be made: a proxy, say, is amiss."""
  try:
    yield
  except Exception as error:
    said = getattr(error, "strerror", None) or str(error)
    reason = " ".join(said.split()).rstrip(".")
    raise InputError(
      f"there is no way to the server ({reason:.200}): look at HTTPS_PROXY, "
      "HTTP_PROXY, ALL_PROXY and SSL_CERT_FILE in the environment."
    ) from error


def find_key(base_url: str | None) -> str:
  """Returns the key, which only a server on this machine can do without.

  Args:
    base_url: of the server; if None, what the environment names, or OpenAI's.

  Raises:
    InputError: there is no such key, or the address is none.
  """
  key = os.environ.get(KEY_VARIABLE, "").strip()
  where = "--base-url"
  if base_url is None:
    where, base_url = _URL_VARIABLE, os.environ.get(_URL_VARIABLE)
  host = None
  if base_url is not None:
    with contextlib.suppress(ValueError):
      parts = urllib.parse.urlsplit(base_url)
      host = parts.hostname if parts.scheme in ("http", "https") else None
    if not host:
      raise InputError(
        f"{where} is {base_url!r:.200}: an address that begins with http:// or "
        "https:// is needed."
      )
  if not key and host not in ("localhost", "127.0.0.1", "::1"):
    raise InputError(
      f"no key: set {KEY_VARIABLE} in the environment, or use --base-url with "
      "a server on this machine, or --teacher offline."
    )
  if not (key.isascii() and key.isprintable()):
    raise InputError(
      f"the key in {KEY_VARIABLE} cannot be sent: it has a line break or a "
      "letter that keys don't have; set it again."
    )
  return key or "none"


def address(client: openai.OpenAI | openai.AsyncOpenAI) -> str:
  """Returns a client's URL for messages, without secrets that it may hold."""
  return str(client.base_url.copy_with(userinfo=b"", query=None))


def rejected_key(
  client: openai.OpenAI | openai.AsyncOpenAI, error: openai.APIStatusError
) -> str:
  """Returns a sentence without the server's words, which quote the key."""
  return (
    f"{address(client)}: the server refuses the key (status "
    f"{error.status_code}); set {KEY_VARIABLE} to one that it takes."
  )


async def send(
  client: openai.AsyncOpenAI,
  request: ChatRequest,
  *,
  attempt: int,
  timeout: float,
) -> Reply:
  """Sends a request once, for the `attempt`th time from 1."""
  try:
    # For the whole answer: the client's own timeout bounds each read alone.
    async with asyncio.timeout(timeout):
      # Not `chat.completions.create`: it walks through each body to check
      # its types, a third of the time that a request takes.
      completion: Any = await client.post(
        "/chat/completions", body=request.body(), cast_to=object
      )
    answer = read_answer(request, completion, attempts=attempt)
  except openai.APIStatusError as error:
    return _rejection(client, error)
  except (TimeoutError, openai.APITimeoutError):
    return Reply(error="no answer in time", retry=True)
  except openai.APIConnectionError:
    return Reply(error="the connection failed", retry=True)
  except ValueError as error:
    return Reply(error=str(error), retry=True)
  tokens = (answer.prompt_tokens, answer.completion_tokens)
  # A bill without one of both is none.
  return Reply(answer, billed=tokens if all(tokens) else None)


def _rejection(
  client: openai.AsyncOpenAI, error: openai.APIStatusError
) -> Reply:
  """Classifies an error status; vendors bill none of them."""
  status, url, free = error.status_code, address(client), (0, 0)
  words = " ".join(str(error.message).split())
  words = words.removeprefix(f"Error code: {status} - ")
  words = f"status {status}: {words.replace(client.api_key, '...')}"[:200]
  pause = retry_after(error)
  if error.code == "insufficient_quota":
    sentence = f"{url}: the account's quota is used up ({words})."
  elif status in RETRYABLE or status >= 500:
    if pause <= _LONGEST_RETRY_AFTER_SECONDS:
      return Reply(
        error=f"status {status}", retry=True, pause=pause, billed=free
      )
    sentence = (
      f"{url}: the server asks to wait {pause:,.0f} seconds (status {status}); "
      "what was answered is stored, so run the same again then."
    )
  elif status in _INVALID_REQUEST:
    return Reply(error=words, billed=free)
  elif status in (401, 403):
    sentence = rejected_key(client, error)
  else:
    sentence = _rejects_all(client, words)
  return Reply(error=sentence, fatal=True, billed=free)


def _rejects_all(client: openai.AsyncOpenAI, words: str) -> str:
  return (
    f"{address(client)}: the server refuses the request ({words}); check "
    "--model and --base-url."
  )


def retry_after(error: openai.APIStatusError) -> float:
  """Returns the seconds that the server asks to wait, 0 if it does not say."""
  value = error.response.headers.get("retry-after", "")
  try:
    if value.replace(".", "", 1).isdigit():
      return float(value)
    moment = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return 0.0
  return max(moment.timestamp() - time.time(), 0.0)


def answer_all(
  requests: Iterable[ChatRequest],
  *,
  store: Store,
  client: openai.AsyncOpenAI,
  budget: Budget | None = None,
  pace: Pace | None = None,
  limits: Limits = Limits(),
  total: int | None = None,
  seed: int = 0,
) -> Tally:
  """Sends what has no answer yet, and stores each answer as it comes.

  Args:
    requests: read as workers become free, so they may be generated lazily.
      Duplicates and those that are answered in the store are not sent.
    store: where answers go. A kill loses at most what is in flight.
    client: of `make_client`; closed in the end.
    total: of the progress bar.
    seed: of the retries' random waiting times.

  Raises:
    InputError: the server refuses the key, the model or the requests, or too
      many sends fail in a row. What was answered until then is stored.
  """
  pace = pace or Pace()
  pace.restart()
  # Each send is reserved: the client must not try again by itself.
  client = client.with_options(max_retries=0)
  run = _Run(
    store, client, budget or Budget(), pace, limits, random.Random(seed)
  )
  with progress(total=total, desc="requests") as bar:
    asyncio.run(run.work(unanswered(requests, store), bar))
  return run.tally


@dataclasses.dataclass
class _Run:
  """One run's workers and what they share; see `answer_all`.

  A run that must end early still stores what is in flight: it is paid for.
  """

  store: Store
  client: openai.AsyncOpenAI
  budget: Budget
  pace: Pace
  limits: Limits
  random: random.Random
  tally: Tally = dataclasses.field(default_factory=Tally)
  over: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
  error: Exception | None = None
  in_flight: int = 0
  failures: int = 0
  rejected: int = 0
  last_rejection: str = ""
  any_answer: bool = False
  all_taken: bool = False
  resume_at: float = 0.0

  async def work(self, requests: Iterator[ChatRequest], bar: tqdm.tqdm) -> None:
    """Lets workers share the requests; raises what ended the run first."""
    async with self.client, asyncio.TaskGroup() as workers:
      for _ in range(self.limits.workers):
        if self.all_taken or self.over.is_set():
          break
        workers.create_task(self._worker(requests, bar))
        await self._sleep(_BETWEEN_STARTS_SECONDS)
    if self.last_rejection and not self.any_answer:
      self._stop(InputError(_rejects_all(self.client, self.last_rejection)))
    if self.error is not None:
      raise self.error

  async def _worker(
    self, requests: Iterator[ChatRequest], bar: tqdm.tqdm
  ) -> None:
    try:
      for request in requests:
        answer = await self._answer(request)
        if answer is not None:
          self.store.put(request, answer, teacher=TEACHER)
          self.tally.statuses[answer.status.value] += 1
          bar.update()
        self.tally.usd = self.budget.usd
        if self.tally.usd:
          bar.set_postfix(usd=f"{self.tally.usd:.2f}", refresh=False)
        if self.over.is_set():
          return
      self.all_taken = True
    except Exception as error:
      # Of the store, or of what makes the requests; the other workers' answers
      # may yet be stored.
      self._stop(error)

  async def _answer(self, request: ChatRequest) -> ChatAnswer | None:
    """Sends a request until it is answered, or has been tried often enough.

    None if the run is over before there is anything to store.
    """
    answers: list[ChatAnswer] = []
    error, attempt = "", 0
    while attempt < self.limits.attempts:
      if attempt:
        # Full jitter, so that the workers' retries spread out.
        longest = self.limits.first_pause * 2 ** (attempt - 1)
        longest = min(longest, _LONGEST_BACKOFF_SECONDS)
        await self._sleep(self.random.uniform(0, longest))
      reply = await self._send(request, attempt + 1)
      if reply is None:
        break
      attempt += 1
      if reply.answer is None:
        error = reply.error
        if not reply.retry:
          break
      else:
        answers.append(reply.answer)
        if (
          reply.answer.status not in _ASKED_AGAIN
          or len(answers) == self.limits.bad_answers
        ):
          break
    if answers:
      return dataclasses.replace(
        answers[-1],
        attempts=attempt,
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        completion_tokens=sum(each.completion_tokens for each in answers),
      )
    if not attempt or self.over.is_set():
      return None
    return ChatAnswer(request.key, Status.FAILED, attempts=attempt, error=error)

  async def _send(self, request: ChatRequest, attempt: int) -> Reply | None:
    """Sends a request when pace and caps allow it; None if the run is over."""
    if self.pace.is_limited:
      await self._until_over(self.pace.wait(sum(most_tokens(request))))
    while not self.over.is_set() and self.resume_at > time.monotonic():
      await self._sleep(self.resume_at - time.monotonic())
    if not await self._reserve(request):
      return None
    self.tally.sent += 1
    self.tally.retries += attempt > 1
    self.in_flight += 1
    try:
      reply = await send(
        self.client, request, attempt=attempt, timeout=self.limits.timeout
      )
    finally:
      self.in_flight -= 1
    self.budget.settle(request, reply.billed)
    if reply.billed is not None:
      self.tally.prompt_tokens += reply.billed[0]
      self.tally.completion_tokens += reply.billed[1]
    if reply.answer is None:
      self._count_failure(reply)
    else:
      self.failures, self.any_answer = 0, True
    return reply

  async def _reserve(self, request: ChatRequest) -> bool:
    """Waits under the caps while sends in flight may turn out cheaper."""
    while not self.over.is_set():
      if self.in_flight and not self.budget.is_tried:
        await self._sleep(_POLL_SECONDS)
        continue
      if self.budget.reserve(request):
        return True
      if not self.in_flight or self.budget.sends_are_used_up:
        self.tally.stopped = "the cap on dollars or requests is reached"
        self.over.set()
      await self._sleep(_POLL_SECONDS)
    return False

  def _count_failure(self, reply: Reply) -> None:
    """Ends the run if the other requests would fail too."""
    if reply.fatal:
      self._stop(InputError(reply.error))
    elif not reply.retry:
      self.rejected, self.last_rejection = self.rejected + 1, reply.error
      if self.rejected >= _REJECTED_AT_FIRST and not self.any_answer:
        self._stop(InputError(_rejects_all(self.client, reply.error)))
    # All workers pause: the limit is the account's.
    self.resume_at = max(self.resume_at, time.monotonic() + reply.pause)
    self.failures += 1
    if self.failures >= self.limits.failures_in_a_row:
      self._stop(
        InputError(
          f"{address(self.client)}: {self.failures} sends in a row failed "
          f"({reply.error}); what was answered is stored, so run the same "
          "again when the server is well."
        )
      )

  def _stop(self, error: Exception) -> None:
    """Ends the run; the first error counts."""
    self.error = self.error or error
    self.over.set()

  async def _sleep(self, seconds: float) -> None:
    """Sleeps, until the run is over at most."""
    if seconds > 0 and not self.over.is_set():
      with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(self.over.wait(), seconds)

  async def _until_over(self, waiting: Coroutine[Any, Any, None]) -> None:
    """Waits for something, until the run is over at most."""
    tasks = [asyncio.create_task(each) for each in (waiting, self.over.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if tasks[0].done():
      tasks[0].result()
    for task in tasks:
      task.cancel()
