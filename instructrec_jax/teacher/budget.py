"""What may be sent: cost estimates, exact caps, and rates a minute."""

import asyncio
import dataclasses
import fractions
import json
import math
import threading
from collections.abc import Iterable
from typing import Any

import aiolimiter

from instructrec_jax.errors import InputError, check_counts, check_numbers
from instructrec_jax.teacher.chat import ChatRequest

# English has about 4 bytes a token, titles and other languages fewer; a
# letter of another script is up to 4 bytes.
_BYTES_PER_TOKEN = 3
_TOKENS_OF_FORMAT = 16
_DEFAULT_COMPLETION_TOKENS = 512
_MILLION = 1_000_000
_MINUTE = 60.0
_LIMITS = ("max_completion_tokens", "max_tokens")
# A slower rate could not be told from a hang.
SLOWEST = 0.001
FASTEST = 1e9
DEAREST = 1e6
MOST_USD = 1e9


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
  """Dollars for a million tokens, as the vendor lists them."""

  prompt: float
  completion: float

  def __post_init__(self):
    """Raises InputError if one is no price."""
    check_numbers(
      most=DEAREST,
      **{"price of prompts": self.prompt, "price of answers": self.completion},
    )

  def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
    return float(self.exactly(prompt_tokens, completion_tokens))

  def exactly(
    self, prompt_tokens: int, completion_tokens: int
  ) -> fractions.Fraction:
    """Returns dollars that add up without rounding."""
    prompt, completion = map(fractions.Fraction, (self.prompt, self.completion))
    return (prompt * prompt_tokens + completion * completion_tokens) / _MILLION


def most_tokens(request: ChatRequest) -> tuple[int, int]:
  """Returns upper bounds on a request's prompt and completion tokens.

  The prompt's is estimated from its bytes and its schema's, on the high side;
  the completion's is the limit that the request sets.

  Raises:
    InputError: that limit is no number of tokens.
  """
  text = request.system + request.user + json.dumps(dict(request.schema))
  prompt = -(-len(text.encode()) // _BYTES_PER_TOKEN) + _TOKENS_OF_FORMAT
  asked = request.parameters
  limits: dict[str, Any] = {n: asked[n] for n in _LIMITS if n in asked}
  answers: dict[str, Any] = {"n": asked.get("n", 1)}
  check_counts(**limits, **answers)
  # With both, servers differ in which one they obey.
  limit = max(limits.values(), default=_DEFAULT_COMPLETION_TOKENS)
  return prompt, limit * answers["n"]


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
  """Upper bounds on the tokens and the price of requests."""

  requests: int
  prompt_tokens: int
  completion_tokens: int
  usd: float | None

  @property
  def sentence(self) -> str:
    cost = "unknown without --prices"
    if self.usd is not None:
      # Rounded up: less would not be the most.
      cost = f"at most {math.ceil(self.usd * 100) / 100:,.2f} dollars"
    return (
      f"{self.requests:,} requests without an answer: about "
      f"{self.prompt_tokens:,} tokens of prompts, at most "
      f"{self.completion_tokens:,} of answers; {cost}. Nothing was sent."
    )


def estimate(
  requests: Iterable[ChatRequest], prices: Prices | None = None
) -> Estimate:
  """Adds up requests; sends nothing."""
  count = prompt = completion = 0
  for request in requests:
    tokens = most_tokens(request)
    count += 1
    prompt += tokens[0]
    completion += tokens[1]
  usd = None if prices is None else prices.usd(prompt, completion)
  return Estimate(count, prompt, completion, usd)


class Budget:
  """Caps that are never exceeded: each send is reserved before it is made.

  A reservation is for the most that a request can cost; once answered, it is
  replaced by the amount billed. A send that may have been billed without our
  seeing the bill, such as one whose connection broke, counts in full. A server
  that bills more tokens than were reserved, as its tokenizer cuts texts finer
  or it adds words of its own, has as many times more reserved from then on.
  Safe to use from several threads.

  Attributes:
    sends: reservations made, retries among them.
    is_tried: whether a send is settled that was not free, which shows how the
      server counts; before, a cap on dollars is safe with one send at a time.
  """

  def __init__(
    self,
    *,
    prices: Prices | None = None,
    max_usd: float | None = None,
    max_requests: int | None = None,
  ):
    """Sets the caps; without any, everything may be sent."""
    if max_usd is not None and prices is None:
      raise InputError(
        "--max-usd needs --prices IN OUT: dollars for a million tokens of "
        "prompts and of answers."
      )
    if max_usd is not None:
      check_numbers(most=MOST_USD, max_usd=max_usd)
      if prices and not prices.prompt and not prices.completion:
        raise InputError(
          "prices of 0 and 0 spend nothing, so that no cap on dollars would "
          "hold: name what is paid with --prices, or leave out --max-usd."
        )
    if max_requests is not None:
      check_counts(least=0, max_requests=max_requests)
    self._prices, self._max_usd = prices, max_usd
    self._max_requests = max_requests
    self._lock = threading.Lock()
    # Exact, since rounded sums could pass a cap.
    self._reserved = self._spent = fractions.Fraction(0)
    self._held: dict[str, fractions.Fraction] = {}
    # Of prompts and of answers: billed tokens to those expected, at least 1.
    self._factors = [fractions.Fraction(1)] * 2
    self.sends = 0
    self.is_tried = max_usd is None

  @property
  def usd(self) -> float:
    """Spent so far, by the prices given; 0 without prices."""
    return float(self._spent)

  @property
  def sends_are_used_up(self) -> bool:
    """Whether the cap on requests is reached, whatever sends are billed."""
    return self._max_requests is not None and self.sends >= self._max_requests

  def reserve(self, request: ChatRequest) -> bool:
    """Reserves one send of a request; False if a cap does not allow it."""
    tokens = most_tokens(request)
    with self._lock:
      price = self._upper_bound(tokens)
      total = self._spent + self._reserved + price
      too_dear = self._max_usd is not None and total > self._max_usd
      if self.sends_are_used_up or too_dear:
        return False
      self.sends += 1
      self._reserved += price
      self._held[request.key] = price
      return True

  def settle(
    self, request: ChatRequest, billed: tuple[int, int] | None
  ) -> None:
    """Replaces a reservation by the cost of its send.

    `billed` is its prompt and completion tokens; None, for want of a bill,
    counts the reservation in full.
    """
    expected = most_tokens(request)
    with self._lock:
      most = spent = self._held.pop(request.key, self._upper_bound(expected))
      if billed is not None:
        spent = self._price(*billed)
        self._factors = [
          max(factor, fractions.Fraction(counted, of))
          for factor, counted, of in zip(
            self._factors, billed, expected, strict=True
          )
        ]
      self.is_tried |= billed != (0, 0)
      self._reserved -= most
      self._spent += spent

  def _upper_bound(self, tokens: tuple[int, int]) -> fractions.Fraction:
    prompt, completion = (
      math.ceil(n * factor)
      for n, factor in zip(tokens, self._factors, strict=True)
    )
    return self._price(prompt, completion)

  def _price(self, prompt: int, completion: int) -> fractions.Fraction:
    if self._prices is None:
      return fractions.Fraction(0)
    return self._prices.exactly(prompt, completion)


class Pace:
  """Limits on the requests and tokens sent a minute; first come, first served.

  Each bucket holds the allowance of one second, or one request, so that a run
  starts at its rate and not with a burst of a whole minute.
  """

  def __init__(
    self,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
  ):
    """Sets the rates; None is unlimited."""
    rates = {
      "requests_per_minute": requests_per_minute,
      "tokens_per_minute": tokens_per_minute,
    }
    given = {name: rate for name, rate in rates.items() if rate is not None}
    check_numbers(least=SLOWEST, most=FASTEST, **given)
    self._rates = (requests_per_minute, tokens_per_minute)
    self.restart()

  def restart(self) -> None:
    """Prepares for another event loop, which limiters cannot be shared with."""
    # aiolimiter wakes the smallest first, so long requests would starve
    # without a queue in front of it.
    self._queue = asyncio.Lock()
    self._limiters = [
      _limiter(rate / _MINUTE) if rate else None for rate in self._rates
    ]

  @property
  def is_limited(self) -> bool:
    """Whether anything ever has to wait."""
    return any(self._rates)

  async def wait(self, tokens: int) -> None:
    """Waits until a request of at most so many tokens may be sent."""
    async with self._queue:
      for limiter, amount in zip(self._limiters, (1, tokens), strict=True):
        while limiter and amount > 0:
          # No more than the capacity can be acquired at once.
          part = min(amount, limiter.max_rate)
          await limiter.acquire(part)
          amount -= part


def _limiter(rate: float) -> aiolimiter.AsyncLimiter:
  """Returns a bucket that leaks `rate` a second."""
  capacity = max(1.0, rate)
  return aiolimiter.AsyncLimiter(capacity, capacity / rate)
