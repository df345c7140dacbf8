"""Requests over HTTP, many at a time, to any server that speaks OpenAI's API.

The client's own retries are off: there is one layer of them, here.
"""

import asyncio
import collections
import contextlib
import dataclasses
import random
import time
from collections.abc import Iterable, Iterator

import openai
import tqdm

from instructrec_jax.errors import InputError
from instructrec_jax.teacher import chat_api
from instructrec_jax.teacher.budget import Budget, Pace, most_tokens
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, Status
from instructrec_jax.teacher.chat_api import (
  Outcome,
  Reply,
  find_key,
  make_client,
)
from instructrec_jax.teacher.jsonl import unanswered
from instructrec_jax.teacher.store import Store

__all__ = ["Limits", "Tally", "answer_all", "find_key", "make_client"]

TEACHER = "openai"

_LONGEST_PAUSE_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05
# Workers that start together would go on sending in bursts.
_BETWEEN_STARTS_SECONDS = 0.003
# A model may answer better when asked again, but each answer is paid for.
_ASKED_AGAIN = (Status.MALFORMED, Status.TRUNCATED)
# So many refused requests before any answer: it is not the requests.
_REFUSED_AT_FIRST = 8


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
    requests: read as workers get free, so they may be made on the way. Those
      that repeat themselves or are answered in the store are not sent.
    store: where answers go. A kill loses at most what is in flight.
    client: of `make_client`; closed in the end.
    budget: caps; none if None.
    pace: as fast as it goes if None.
    limits: how hard to try.
    total: of the progress bar.
    seed: of the retries' random waiting times.

  Raises:
    InputError: the server refuses the key, the model or the requests, or too
      many sends fail in a row. What was answered until then is stored.
  """
  run = _Run(store, client, budget or Budget(), pace or Pace(), limits, seed)
  with tqdm.tqdm(total=total, desc="requests", disable=None) as bar:
    asyncio.run(run.work(unanswered(requests, store), bar))
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
    self._in_flight = self._failures = self._refused = 0
    self._answered = False
    self._last_refusal = ""
    self._resume_at = 0.0
    self._error: Exception | None = None
    self._over = asyncio.Event()

  async def work(self, requests: Iterator[ChatRequest], bar: tqdm.tqdm) -> None:
    """Lets workers share the requests.

    Raises:
      InputError: the first thing that ended the run, after all came in.
    """
    async with self._client, asyncio.TaskGroup() as workers:
      for _ in range(self._limits.workers):
        workers.create_task(self._worker(requests, bar))
        await self._sleep(_BETWEEN_STARTS_SECONDS)
    if self._last_refusal and not self._answered:
      self._stop(self._refuses())
    if self._error is not None:
      raise self._error

  async def _worker(
    self, requests: Iterator[ChatRequest], bar: tqdm.tqdm
  ) -> None:
    try:
      for request in requests:
        answer = await self._answer(request)
        if answer is not None:
          self._store.put(request, answer, teacher=TEACHER)
          self.tally.statuses[answer.status.value] += 1
          bar.update()
        self.tally.usd = self._budget.usd
        if self.tally.usd:
          bar.set_postfix(usd=f"{self.tally.usd:.2f}", refresh=False)
        if self._over.is_set():
          return
    except Exception as error:
      # Of the store, or of what makes the requests; others' answers may yet
      # be stored.
      self._stop(error)

  async def _answer(self, request: ChatRequest) -> ChatAnswer | None:
    """Sends a request until it is answered, or has been tried often enough.

    Returns:
      None if the run is over before there is anything to keep.
    """
    answers, reply, attempt = [], None, 0
    while attempt < self._limits.attempts:
      if attempt:
        await self._sleep(self._backoff(attempt))
      found = await self._send(request, attempt + 1)
      if found is None:
        break
      reply, attempt = found, attempt + 1
      if reply.answer is not None:
        answers.append(reply.answer)
      if self._is_settled(reply, len(answers)):
        break
    if answers:
      return dataclasses.replace(
        answers[-1],
        attempts=attempt,
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        completion_tokens=sum(each.completion_tokens for each in answers),
      )
    if reply is None or self._over.is_set():
      return None
    return ChatAnswer(
      request.key, Status.FAILED, attempts=attempt, error=reply.error
    )

  def _is_settled(self, reply: Reply, answers: int) -> bool:
    """Says whether a request need not be sent again."""
    if reply.answer is None:
      return reply.outcome is not Outcome.PASSING
    return (
      reply.answer.status not in _ASKED_AGAIN
      or answers == self._limits.bad_answers
    )

  async def _send(self, request: ChatRequest, attempt: int) -> Reply | None:
    """Sends a request once, when pace and caps allow it.

    Returns:
      None if the run is over before.
    """
    await self._sleep(self._pace.take(sum(most_tokens(request))))
    while (pause := self._resume_at - time.monotonic()) > 0:
      if self._over.is_set():
        break
      await self._sleep(pause)
    if not await self._reserve(request):
      return None
    self.tally.sent += 1
    self.tally.retries += attempt > 1
    self._in_flight += 1
    try:
      reply = await chat_api.send(
        self._client, request, attempt=attempt, timeout=self._limits.timeout
      )
    finally:
      self._in_flight -= 1
    self._book(request, reply)
    self._judge(reply)
    return reply

  async def _reserve(self, request: ChatRequest) -> bool:
    """Waits for room under the caps while others may still make some."""
    while not self._over.is_set():
      if self._budget.reserve(request):
        return True
      if not self._in_flight or self._budget.sends_are_used_up:
        self.tally.stopped = "the cap on dollars or requests is reached"
        self._over.set()
      await self._sleep(_LOOK_AGAIN_SECONDS)
    return False

  def _book(self, request: ChatRequest, reply: Reply) -> None:
    if reply.billed is None:
      self._budget.forfeit(request)
    else:
      self._budget.settle(request, *reply.billed)
      self.tally.prompt_tokens += reply.billed[0]
      self.tally.completion_tokens += reply.billed[1]

  def _judge(self, reply: Reply) -> None:
    """Ends the run if what came of a send says that others would fail too."""
    if reply.outcome is Outcome.ANSWERED:
      self._failures, self._answered = 0, True
      return
    if reply.outcome is Outcome.HOPELESS:
      self._stop(InputError(reply.error))
    if reply.outcome is Outcome.UNFIT:
      self._refused, self._last_refusal = self._refused + 1, reply.error
      if self._refused >= _REFUSED_AT_FIRST and not self._answered:
        self._stop(self._refuses())
    # One who is asked to wait speaks for all: the limit is the account's.
    self._resume_at = max(self._resume_at, time.monotonic() + reply.pause)
    self._failures += 1
    if self._failures >= self._limits.failures_in_a_row:
      self._stop(
        InputError(
          f"{chat_api.address(self._client)}: {self._failures} sends in a row "
          f"failed ({reply.error}); what was answered is stored, so run the "
          "same again when the server is well."
        )
      )

  def _refuses(self) -> InputError:
    return InputError(chat_api.refused(self._client, self._last_refusal))

  def _stop(self, error: Exception) -> None:
    """Ends the run; the first error counts."""
    self._error = self._error or error
    self._over.set()

  async def _sleep(self, seconds: float) -> None:
    """Sleeps, until the run is over at most."""
    if seconds > 0 and not self._over.is_set():
      with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(self._over.wait(), seconds)

  def _backoff(self, attempt: int) -> float:
    """Full jitter: retries of many workers spread out."""
    longest = self._limits.first_pause * 2 ** (attempt - 1)
    return self._random.uniform(0, min(longest, _LONGEST_PAUSE_SECONDS))
