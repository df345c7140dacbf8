"""The Batch API: a batch is created once, and found again by its tag."""

import contextlib
import io
import time
from collections.abc import Iterable, Iterator

import openai
from openai.types import Batch

from instructrec_jax.errors import InputError
from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.jsonl import ENDPOINT, request_line

TAG = "instructrec_batch"
"""The field of a batch's metadata that holds its tag."""

PASSING = (
  openai.APIConnectionError,
  openai.InternalServerError,
  openai.RateLimitError,
)
# Of creating a batch, and of polls in a row that reach no server.
TRIES = 5
PAUSE_SECONDS = 5.0


class ServerUnavailable(InputError):
  """No answer from the server; the same again may work later."""


class BatchApi:
  """The calls to the server, whose errors are told in one sentence."""

  def __init__(self, client: openai.OpenAI):
    """Takes the client; its own retries serve all calls but one."""
    self._client = client

  def create(self, tag: str, requests: Iterable[ChatRequest]) -> str:
    """Uploads the requests and creates a batch of them; returns its id.

    Raises:
      InputError: the server refuses, or cannot be reached; in a rare case the
        batch exists all the same.
    """
    with self._clear_errors():
      file = self._client.files.create(
        file=(f"{tag}.jsonl", b"".join(map(request_line, requests))),
        purpose="batch",
      )
      # The client must not try again by itself: when an answer is lost, the
      # batch may be there, and a second one would be paid as well.
      batches = self._client.with_options(max_retries=0).batches
      for attempt in range(TRIES):
        try:
          return batches.create(
            input_file_id=file.id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={TAG: tag},
          ).id
        except PASSING:
          time.sleep(PAUSE_SECONDS * 2**attempt)
          if batch_id := self.tagged().get(tag):
            return batch_id
          if attempt == TRIES - 1:
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
    """Returns what the server says of a batch."""
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
    url = self._client.base_url
    try:
      yield
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
      # Not its message, which quotes parts of the key.
      raise InputError(
        f"{url}: the server refuses the key (status {error.status_code}); set "
        "OPENAI_API_KEY to one that it takes."
      ) from None
    except PASSING as error:
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
