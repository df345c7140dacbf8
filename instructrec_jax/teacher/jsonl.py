"""Requests and answers as lines of JSON: OpenAI's Batch files, and vLLM's.

`vllm run-batch -i in.jsonl -o out.jsonl` reads and writes the same lines as the
Batch API, so a GPU of one's own answers without any server.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pydantic

from instructrec_jax import storage
from instructrec_jax.errors import InputError, check_file
from instructrec_jax.progress import progress
from instructrec_jax.teacher.chat import (
  RETRYABLE,
  ChatAnswer,
  ChatRequest,
  Status,
  read_answer,
)
from instructrec_jax.teacher.store import ROWS_PER_COMMIT, Store, unanswered

ENDPOINT = "/v1/chat/completions"
TEACHER = "vllm_jsonl"
"""What the store calls this transport."""


@dataclasses.dataclass
class FileTally:
  """Counts of a file of requests or of answers.

  Attributes:
    written: requests that were put into it.
    statuses: how many answers have each status.
    unknown: lines for none of the open requests: foreign, repeated, or
      answered before.
    missing: open requests without a line.
  """

  statuses: collections.Counter[Status] = dataclasses.field(
    default_factory=collections.Counter
  )
  written: int = 0
  unknown: int = 0
  missing: int = 0


class _Response(pydantic.BaseModel):
  status_code: pydantic.StrictInt
  body: Any = None


class ResultLine(pydantic.BaseModel):
  """A line of answers, as OpenAI or vLLM writes it.

  Attributes:
    custom_id: key of the request that it claims to answer.
    response: status and body, if the request reached the model.
    error: why there is no answer, in one of the vendors' forms.
  """

  custom_id: pydantic.StrictStr
  response: _Response | None
  error: Any = None

  @classmethod
  def parse(cls, line: bytes, *, where: str) -> "ResultLine":
    """Reads one line; `where` says in a message of a broken one which it is."""
    try:
      # Not `model_validate_json`: it rejects a whole line, whose answer is
      # paid for, because of half a character in its text.
      return cls.model_validate(json.loads(line))
    except ValueError:
      raise InputError(
        f"{where}: not a line of answers; a whole JSON object with `custom_id` "
        "and `response` is expected, as the Batch API and `vllm run-batch` "
        "write it."
      ) from None

  @property
  def permanent(self) -> bool:
    """Whether the same request would fail again."""
    status = self.response.status_code if self.response else 0
    return 400 <= status < 500 and status not in RETRYABLE

  def answer(self, request: ChatRequest, *, attempts: int = 1) -> ChatAnswer:
    """Makes the answer to the line's request; FAILED if it holds none."""
    status = self.response.status_code if self.response else 0
    body = self.response.body if self.response else None
    if not self.error and status == 200:
      try:
        return read_answer(request, body, attempts=attempts)
      except ValueError as problem:
        error = str(problem)
    else:
      error = _message(self.error) or _message(body) or f"status {status}"
      error = " ".join(error.split())[:200]
    return ChatAnswer(
      request.key, Status.FAILED, attempts=attempts, error=error
    )


def request_line(request: ChatRequest) -> bytes:
  """Returns the line of a request, with its key as the custom id."""
  line = {
    "custom_id": request.key,
    "method": "POST",
    "url": ENDPOINT,
    "body": request.body(),
  }
  return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def write_requests(
  requests: Iterable[ChatRequest],
  path: pathlib.Path,
  *,
  store: Store,
  force: bool = False,
) -> int:
  """Writes the requests that the store has no answer to, one line each.

  Duplicates are written once, and the file whole or not at all.

  Returns:
    The number of lines.

  Raises:
    InputError: `path` exists and `force` is not set.
  """
  count = 0
  with (
    storage.output_file(path, force=force, is_ours=_is_requests),
    storage.staged_file(path) as partial,
    partial.open("wb") as file,
  ):
    for request in progress(unanswered(requests, store), desc="requests"):
      file.write(request_line(request))
      count += 1
  return count


def check_output(path: pathlib.Path, *, force: bool) -> None:
  """Raises InputError if `write_requests` may not write there."""
  with storage.output_file(path, force=force, is_ours=_is_requests):
    pass


def check_answers(path: pathlib.Path) -> None:
  """Raises InputError if there is no file of answers, or nothing in it."""
  if not path.exists():
    raise InputError(f"{path}: no such file of answers.")
  check_file(path)
  with path.open("rb") as file:
    for number, line in enumerate(file, start=1):
      if line.strip():
        # What begins otherwise is another kind of file.
        ResultLine.parse(line, where=f"{path}, line {number}")
        return
  raise InputError(f"{path}: the file of answers is empty.")


def _is_requests(path: pathlib.Path) -> bool:
  try:
    with path.open("rb") as file:
      line = json.loads(file.readline())
    return line["url"] == ENDPOINT and "custom_id" in line
  except (OSError, ValueError, KeyError, TypeError):
    return False


def read_answers(
  path: pathlib.Path, requests: Iterable[ChatRequest], *, store: Store
) -> FileTally:
  """Puts a file of answers, in any order, into the store.

  A row with an error is stored as failed, so that it can be asked again. More
  requests than the file answers do no harm.

  Raises:
    InputError: the file is missing, or a line of it is broken; lines before
      it may be stored by then, and reading them again does no harm.
  """
  check_answers(path)
  asked = {request.key: request for request in unanswered(requests, store)}
  tally = FileTally()
  answers = _file_answers(path, asked, tally)
  while chunk := list(itertools.islice(answers, ROWS_PER_COMMIT)):
    store.put_all(chunk, teacher=TEACHER)
    tally.statuses.update(answer.status for _, answer in chunk)
  tally.missing = len(asked)
  return tally


def _file_answers(
  path: pathlib.Path, asked: dict[str, ChatRequest], tally: FileTally
) -> Iterator[tuple[ChatRequest, ChatAnswer]]:
  """Yields the answers; removes their requests from `asked`."""
  with path.open("rb") as file:
    for number, line in enumerate(progress(file, desc="answers"), start=1):
      if not line.strip():
        continue
      result = ResultLine.parse(line, where=f"{path}, line {number}")
      request = asked.pop(result.custom_id, None)
      if request is None:
        tally.unknown += 1
      else:
        yield request, result.answer(request)


def _message(error: Any) -> str:
  """Finds the words in an error of OpenAI's or of vLLM's form."""
  if isinstance(error, Mapping):
    return _message(error.get("message") or error.get("error"))
  return error if isinstance(error, str) else ""
