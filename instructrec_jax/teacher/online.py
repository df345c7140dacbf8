"""Requests over HTTP, many at a time, to any server that speaks OpenAI's API.

The client's own retries are off: there is one layer of them, here.
"""

import asyncio
import collections
import dataclasses
import email.utils
import json
import os
import random
import time
import urllib.parse
from collections.abc import Iterable, Iterator

import openai
import tqdm

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.budget import Budget, most_tokens
from instructrec_jax.teacher.chat import (
  ChatAnswer,
  ChatRequest,
  Status,
  read_answer,
)
from instructrec_jax.teacher.pace import Pace
from instructrec_jax.teacher.store import Store

TEACHER = "openai"
KEY_VARIABLE = "OPENAI_API_KEY"

_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.02
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# A model may answer better when asked again, but each answer is paid for.
_ASKED_AGAIN = (Status.MALFORMED, Status.TRUNCATED)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
  """How hard to try.

  Attributes:
    workers: requests in flight.
    attempts: sends of a request that gets no answer.
    bad_answers: answers of a request that are cut or malformed, at most.
    first_pause: seconds before the first retry; doubled for each further one.
    timeout: seconds that an answer may take.
    failures_in_a_row: of all workers together, after which the run stops.
  """

  workers: int = 64
  attempts: int = 6
  bad_answers: int = 2
  first_pause: float = 0.5
  timeout: float = 120.0
  failures_in_a_row: int = 200


@dataclasses.dataclass
class Tally:
  """What a run did.

  Attributes:
    statuses: answers that went into the store, by status.
    sent: requests sent, retries among them.
    retries: those of them that repeat a request of this run.
    prompt_tokens: as billed.
    completion_tokens: as billed.
    usd: by the prices given; 0 without.
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


def make_client(
  base_url: str | None = None, *, timeout: float = 120.0
) -> openai.AsyncOpenAI:
  """Returns a client without retries of its own; the key is in the environment.

  Raises:
    InputError: there is no key, and the server is not on this machine.
  """
  return openai.AsyncOpenAI(
    api_key=find_key(base_url),
    base_url=base_url,
    max_retries=0,
    timeout=timeout,
  )


def find_key(base_url: str | None) -> str:
  """Returns the key; a server on this machine may do without.

  Raises:
    InputError: there is none.
  """
  key = os.environ.get(KEY_VARIABLE, "").strip()
  host = urllib.parse.urlsplit(base_url or "").hostname
  if not key and host not in ("localhost", "127.0.0.1", "::1"):
    raise InputError(
      f"no key: set {KEY_VARIABLE} in the environment, or use --base-url with "
      "a server on this machine, or --teacher offline."
    )
  return key or "none"


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
    requests: distinct, and not answered in the store; read as workers get
      free, so they may be made on the way.
    store: where answers go. A kill loses at most what is in flight.
    client: of `make_client`.
    budget: caps; none if None.
    pace: as fast as it goes if None.
    limits: how hard to try.
    total: of the progress bar.
    seed: of the retries' random waiting times.

  Raises:
    InputError: the server refuses the key, the model or the request, or too
      many requests fail in a row. What was answered until then is stored.
  """
  run = _Run(store, client, budget or Budget(), pace or Pace(), limits, seed)
  with tqdm.tqdm(total=total, desc="requests", disable=None) as bar:
    asyncio.run(run.work(iter(requests), bar))
  return run.tally


class _Run:
  """One run's workers and what they share.

  A run that must end early lets what is in flight come in: it is paid for.
  """

  def __init__(
    self,
    store: Store,
    client: openai.AsyncOpenAI,
    budget: Budget,
    pace: Pace,
    limits: Limits,
    seed: int,
  ):
    self.tally = Tally()
    self._store, self._client = store, client
    self._budget, self._pace = budget, pace
    self._limits = limits
    self._random = random.Random(seed)
    self._failures = 0
    self._in_flight = 0
    self._error: InputError | None = None

  async def work(self, requests: Iterator[ChatRequest], bar: tqdm.tqdm) -> None:
    """Lets workers share the requests.

    Raises:
      InputError: the first thing that ended the run, after all came in.
    """
    async with self._client, asyncio.TaskGroup() as workers:
      for _ in range(self._limits.workers):
        workers.create_task(self._worker(requests, bar))
    if self._error is not None:
      raise self._error

  async def _worker(
    self, requests: Iterator[ChatRequest], bar: tqdm.tqdm
  ) -> None:
    for request in requests:
      answer = await self._answer(request)
      if answer is not None:
        self._store.put(request, answer, teacher=TEACHER)
        self.tally.statuses[answer.status.value] += 1
      self.tally.usd = self._budget.usd
      if self.tally.usd:
        bar.set_postfix(usd=f"{self.tally.usd:.2f}", refresh=False)
      bar.update()
      if self._is_over:
        return

  @property
  def _is_over(self) -> bool:
    return self._error is not None or bool(self.tally.stopped)

  async def _answer(self, request: ChatRequest) -> ChatAnswer | None:
    """Sends a request until it is answered, or has been tried often enough.

    Returns:
      None if the run is over before there is anything to keep.
    """
    error, prompt, completion, bad = "", 0, 0, 0
    answer = None
    for attempt in range(1, self._limits.attempts + 1):
      await self._pace.wait(sum(most_tokens(request)))
      if self._is_over or not await self._reserve(request):
        break
      found, error, pause = await self._send(request, attempt)
      billed = (0, 0)
      if found is not None:
        answer, self._failures = found, 0
        billed = (found.prompt_tokens, found.completion_tokens)
        bad += found.status in _ASKED_AGAIN
      else:
        self._note_failure(error)
      self._budget.settle(request, *billed)
      prompt, completion = prompt + billed[0], completion + billed[1]
      self.tally.prompt_tokens += billed[0]
      self.tally.completion_tokens += billed[1]
      if found is not None and (
        found.status not in _ASKED_AGAIN or bad == self._limits.bad_answers
      ):
        break
      if attempt < self._limits.attempts:
        await asyncio.sleep(pause or self._backoff(attempt))
    else:
      answer = answer or ChatAnswer(
        request.key, Status.FAILED, attempts=attempt, error=error
      )
    if answer is None:
      return None
    return dataclasses.replace(
      answer, prompt_tokens=prompt, completion_tokens=completion
    )

  async def _reserve(self, request: ChatRequest) -> bool:
    """Waits for room under the caps while others may still make some."""
    while not self._budget.reserve(request):
      if not self._in_flight or self._budget.sends_are_used_up:
        self.tally.stopped = "the cap on dollars or requests is reached"
        return False
      await asyncio.sleep(_LOOK_AGAIN_SECONDS)
      if self._is_over:
        return False
    return True

  async def _send(
    self, request: ChatRequest, attempt: int
  ) -> tuple[ChatAnswer | None, str, float]:
    """Returns an answer, or why there is none and how long to wait."""
    self.tally.sent += 1
    self.tally.retries += attempt > 1
    self._in_flight += 1
    try:
      response = await self._client.chat.completions.with_raw_response.create(
        **request.body()
      )
      completion = json.loads(response.content)
      return read_answer(request, completion, attempts=attempt), "", 0.0
    except openai.APIStatusError as error:
      return self._refused(error)
    except openai.APITimeoutError:
      return None, "no answer in time", 0.0
    except openai.APIConnectionError:
      return None, "the connection failed", 0.0
    except ValueError as error:
      return None, f"not a chat completion ({type(error).__name__})", 0.0
    finally:
      self._in_flight -= 1

  def _refused(self, error: openai.APIStatusError) -> tuple[None, str, float]:
    """Tells a refusal that may pass from one that would come again."""
    status, url = error.status_code, self._client.base_url
    if status in _PASSING:
      return None, f"status {status}", retry_after(error)
    if status in (401, 403):
      # Not the server's words, which quote parts of the key.
      self._error = InputError(
        f"{url}: the server refuses the key (status {status}); set "
        f"{KEY_VARIABLE} to one that it takes."
      )
      return None, "the key is refused", 0.0
    words = " ".join(str(error.message).split())
    words = words.replace(self._client.api_key, "...")[:200]
    self._error = InputError(
      f"{url}: the server refuses the request (status {status}: {words}); "
      "check --model and --base-url."
    )
    return None, words, 0.0

  def _note_failure(self, error: str) -> None:
    """Ends the run after too many failures of all workers in a row."""
    self._failures += 1
    if self._failures == self._limits.failures_in_a_row:
      self._error = self._error or InputError(
        f"{self._client.base_url}: {self._failures} sends in a row failed "
        f"({error}); what was answered is stored, so run the same again when "
        "the server is well."
      )

  def _backoff(self, attempt: int) -> float:
    """Full jitter: retries of many workers spread out."""
    longest = self._limits.first_pause * 2 ** (attempt - 1)
    return self._random.uniform(0, min(longest, _LONGEST_PAUSE_SECONDS))


def retry_after(error: openai.APIStatusError) -> float:
  """Returns the seconds that the server asks to wait, 0 if it does not say."""
  value = error.response.headers.get("retry-after", "")
  try:
    if value.replace(".", "", 1).isdigit():
      seconds = float(value)
    else:
      moment = email.utils.parsedate_to_datetime(value)
      seconds = moment.timestamp() - time.time()
  except ValueError:
    return 0.0
  return min(max(seconds, 0.0), _LONGEST_PAUSE_SECONDS)
