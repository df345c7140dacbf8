"""What a teacher may cost: estimated before sending, capped while sending."""

import dataclasses
import json
import threading
from collections.abc import Iterable

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.chat import ChatRequest

# English has about 4 bytes a token, titles and other languages fewer; a
# letter of another script is up to 4 bytes.
_BYTES_A_TOKEN = 3
_TOKENS_OF_FORM = 16
_DEFAULT_ANSWER = 512
_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
  """Dollars for a million tokens, as the vendor lists them."""

  prompt: float
  completion: float

  def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
    """Returns what so many tokens cost."""
    return (
      self.prompt * prompt_tokens + self.completion * completion_tokens
    ) / _MILLION


def most_tokens(request: ChatRequest) -> tuple[int, int]:
  """Returns how many tokens of prompt and answer a request takes at most.

  The prompt's are estimated from its bytes, the schema counted in, and on the
  high side; the answer's are the limit that the request sets.
  """
  text = request.system + request.user + json.dumps(dict(request.schema))
  prompt = -(-len(text.encode()) // _BYTES_A_TOKEN) + _TOKENS_OF_FORM
  limit = request.parameters.get(
    "max_completion_tokens",
    request.parameters.get("max_tokens", _DEFAULT_ANSWER),
  )
  return prompt, int(limit)


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
  """What requests would take, if every answer were as long as it may be."""

  requests: int
  prompt_tokens: int
  completion_tokens: int
  usd: float | None

  @property
  def sentence(self) -> str:
    """All of it, for people."""
    cost = "unknown without --prices"
    if self.usd is not None:
      cost = f"at most {self.usd:,.2f} dollars"
    return (
      f"{self.requests:,} requests without an answer: about "
      f"{self.prompt_tokens:,} tokens of prompts, at most "
      f"{self.completion_tokens:,} of answers; {cost}. Nothing was sent."
    )


def estimate(
  requests: Iterable[ChatRequest], prices: Prices | None = None
) -> Estimate:
  """Adds up requests; costs nothing and sends nothing."""
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
  settled for what was billed. A send that may have been billed without a bill,
  such as one whose connection broke, counts in full. Safe to use from several
  threads.

  Attributes:
    sends: reservations made, retries among them.
  """

  def __init__(
    self,
    *,
    prices: Prices | None = None,
    max_usd: float | None = None,
    max_requests: int | None = None,
  ):
    """Sets the caps; without any, everything may be sent.

    Raises:
      InputError: a cap in dollars has no prices, or a cap is negative.
    """
    if max_usd is not None and prices is None:
      raise InputError(
        "--max-usd needs --prices IN OUT: dollars for a million tokens of "
        "prompts and of answers."
      )
    if (max_usd or 0) < 0 or (max_requests or 0) < 0:
      raise InputError("caps on dollars and requests cannot be negative.")
    self._prices, self._max_usd = prices, max_usd
    self._max_requests = max_requests
    self._lock = threading.Lock()
    self._spent = self._reserved = 0.0
    self.sends = 0

  @property
  def usd(self) -> float:
    """What was spent so far, by the prices given; 0 without prices."""
    return self._spent

  @property
  def sends_are_used_up(self) -> bool:
    """Whether the cap on requests allows no further send, whatever comes in."""
    return self._max_requests is not None and self.sends >= self._max_requests

  def reserve(self, request: ChatRequest) -> bool:
    """Reserves one send of a request; False if a cap does not allow it."""
    price = self._most(request)
    with self._lock:
      if self.sends_are_used_up:
        return False
      if (
        self._max_usd is not None
        and self._spent + self._reserved + price > self._max_usd
      ):
        return False
      self.sends += 1
      self._reserved += price
      return True

  def settle(
    self, request: ChatRequest, prompt_tokens: int, completion_tokens: int
  ) -> None:
    """Puts what was billed in the place of a reservation."""
    spent = 0.0
    if self._prices is not None:
      spent = self._prices.usd(prompt_tokens, completion_tokens)
    self._spend(request, spent)

  def forfeit(self, request: ChatRequest) -> None:
    """Counts a reservation as spent, for want of a bill."""
    self._spend(request, self._most(request))

  def _spend(self, request: ChatRequest, usd: float) -> None:
    with self._lock:
      self._reserved -= self._most(request)
      self._spent += usd

  def _most(self, request: ChatRequest) -> float:
    if self._prices is None:
      return 0.0
    return self._prices.usd(*most_tokens(request))
