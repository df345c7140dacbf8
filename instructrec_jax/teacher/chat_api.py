"""The chat API: one request, one send, and what came of it."""

import asyncio
import dataclasses
import email.utils
import enum
import os
import time
import urllib.parse
from typing import Any

import openai

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.chat import ChatAnswer, ChatRequest, read_answer

KEY_VARIABLE = "OPENAI_API_KEY"

_PATH = "/chat/completions"
# Of the request itself: too long, or a text that a filter stops.
_UNFIT = frozenset({400, 413, 422})
_PASSING = frozenset({408, 409, 425, 429})
_LONGEST_WAIT_SECONDS = 600.0


class Outcome(enum.Enum):
  """What came of a send."""

  ANSWERED = enum.auto()
  PASSING = enum.auto()
  """Nothing, but the same may work later."""
  UNFIT = enum.auto()
  """Nothing, and the same request would fail again."""
  HOPELESS = enum.auto()
  """Nothing, and any request would fail."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
  """What came of a send.

  Attributes:
    outcome: whether, and what, to send again.
    answer: if there is one.
    error: why there is none; a whole sentence where it is hopeless.
    pause: seconds to wait before anything is sent, as the server asks.
    billed: tokens of prompt and answer; None if the server may have counted
      some without saying how many.
  """

  outcome: Outcome
  answer: ChatAnswer | None = None
  error: str = ""
  pause: float = 0.0
  billed: tuple[int, int] | None = None


def make_client(base_url: str | None = None) -> openai.AsyncOpenAI:
  """Returns a client without retries of its own; the key is in the environment.

  Raises:
    InputError: there is no key, and the server is not on this machine.
  """
  return openai.AsyncOpenAI(
    api_key=find_key(base_url), base_url=base_url, max_retries=0
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


def address(client: openai.AsyncOpenAI) -> str:
  """Returns a client's URL for messages, without secrets that it may hold."""
  return str(client.base_url.copy_with(userinfo=b"", query=None))


async def send(
  client: openai.AsyncOpenAI,
  request: ChatRequest,
  *,
  attempt: int,
  timeout: float,
) -> Reply:
  """Sends a request once.

  Args:
    client: without retries of its own.
    request: what to ask.
    attempt: which one it is, from 1.
    timeout: seconds until the whole answer is there.
  """
  try:
    async with asyncio.timeout(timeout):
      # Not `chat.completions.create`: it walks through each body to check
      # its types, a third of the time that a request takes.
      completion: Any = await client.post(
        _PATH, body=request.body(), cast_to=object
      )
    answer = read_answer(request, completion, attempts=attempt)
  except openai.APIStatusError as error:
    return _refusal(client, error)
  except (TimeoutError, openai.APITimeoutError):
    return Reply(Outcome.PASSING, error="no answer in time")
  except openai.APIConnectionError:
    return Reply(Outcome.PASSING, error="the connection failed")
  except ValueError as error:
    return Reply(Outcome.PASSING, error=str(error))
  tokens = (answer.prompt_tokens, answer.completion_tokens)
  return Reply(Outcome.ANSWERED, answer, billed=tokens if any(tokens) else None)


def _refusal(client: openai.AsyncOpenAI, error: openai.APIStatusError) -> Reply:
  """Tells a refusal that may pass from one that would come again.

  Vendors bill none of them.
  """
  status, url, free = error.status_code, address(client), (0, 0)
  words = " ".join(str(error.message).split())
  words = words.removeprefix(f"Error code: {status} - ")
  words = f"status {status}: {words.replace(client.api_key, '...')}"[:200]
  pause = retry_after(error)
  if error.code == "insufficient_quota":
    sentence = f"{url}: the account's quota is used up ({words})."
  elif status in _PASSING or status >= 500:
    if pause <= _LONGEST_WAIT_SECONDS:
      return Reply(
        Outcome.PASSING, error=f"status {status}", pause=pause, billed=free
      )
    sentence = (
      f"{url}: the server asks to wait {pause:,.0f} seconds (status {status}); "
      "what was answered is stored, so run the same again then."
    )
  elif status in _UNFIT:
    return Reply(Outcome.UNFIT, error=words, billed=free)
  elif status in (401, 403):
    # Not the server's words, which quote parts of the key.
    sentence = (
      f"{url}: the server refuses the key (status {status}); set "
      f"{KEY_VARIABLE} to one that it takes."
    )
  else:
    sentence = refused(client, words)
  return Reply(Outcome.HOPELESS, error=sentence, billed=free)


def refused(client: openai.AsyncOpenAI, words: str) -> str:
  """Returns the sentence for a server that takes no request of ours."""
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
