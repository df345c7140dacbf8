"""Questions and answers as lines of JSON: OpenAI's Batch files, and vLLM's.

`vllm run-batch -i in.jsonl -o out.jsonl` takes and writes the same lines as the
Batch API, so a GPU of one's own answers without any server.
"""

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tqdm

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.teacher.chat import (
  ChatAnswer,
  ChatRequest,
  Status,
  read_answer,
)
from instructrec_jax.teacher.store import Store

ENDPOINT = "/v1/chat/completions"
TEACHER = "vllm_jsonl"
"""What the store calls this transport."""

_ROWS_AT_ONCE = 1000
# Refusals that may pass; any other 4xx comes again with the same request.
_PASSING = frozenset({408, 409, 425, 429})


@dataclasses.dataclass
class FileTally:
  """What a file of requests or of answers holds.

  Attributes:
    written: requests that were put into it.
    statuses: how many answers have each status.
    unknown: lines for none of the requests that were open: others', repeated
      ones, or answered before.
    missing: open requests without a line.
  """

  statuses: collections.Counter[Status] = dataclasses.field(
    default_factory=collections.Counter
  )
  written: int = 0
  unknown: int = 0
  missing: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ResultLine:
  """A line of answers.

  Attributes:
    key: of the request that it claims to answer.
    completion: the chat completion, as JSON; None if there is none.
    error: why there is none, in one line.
    permanent: the same request would fail again.
  """

  key: str
  completion: Mapping[str, Any] | None
  error: str = ""
  permanent: bool = False


def request_line(request: ChatRequest) -> bytes:
  """Returns the line that asks a request, with its key as the custom id."""
  line = {
    "custom_id": request.key,
    "method": "POST",
    "url": ENDPOINT,
    "body": request.body(),
  }
  return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def parse_result(line: bytes, *, where: str) -> ResultLine:
  """Reads one line of answers.

  Args:
    line: as OpenAI or vLLM wrote it.
    where: file and line, for the message.

  Raises:
    InputError: the line is broken.
  """
  try:
    row = json.loads(line)
    key, response, error = row["custom_id"], row["response"], row.get("error")
    status = response["status_code"] if response else 0
    body = response.get("body") if response else None
    if not isinstance(key, str) or not isinstance(status, int):
      raise ValueError
  except (ValueError, KeyError, TypeError, AttributeError):
    raise InputError(
      f"{where}: not a line of answers; a whole JSON object with `custom_id` "
      "and `response` is expected, as the Batch API and `vllm run-batch` "
      "write it."
    ) from None
  if not error and status == 200:
    return ResultLine(key, body if isinstance(body, dict) else {})
  text = _message(error) or _message(body) or f"status {status}"
  permanent = 400 <= status < 500 and status not in _PASSING
  return ResultLine(key, None, " ".join(text.split())[:200], permanent)


def judge(
  request: ChatRequest, result: ResultLine, *, attempts: int = 1
) -> ChatAnswer:
  """Makes a line the answer to its request; FAILED if it holds none."""
  error = result.error
  if result.completion is not None:
    try:
      return read_answer(request, result.completion, attempts=attempts)
    except ValueError as problem:
      error = str(problem)
  return ChatAnswer(
    key=request.key, status=Status.FAILED, attempts=attempts, error=error
  )


def unanswered(
  requests: Iterable[ChatRequest], store: Store
) -> Iterator[ChatRequest]:
  """Yields each distinct request that the store has no answer to."""
  seen = store.answered_keys()
  for request in requests:
    if request.key not in seen:
      seen.add(request.key)
      yield request


def write_requests(
  requests: Iterable[ChatRequest],
  path: pathlib.Path,
  *,
  store: Store,
  force: bool = False,
) -> int:
  """Writes what the store has no answer to, one line each.

  Args:
    requests: may repeat themselves; they are asked once.
    path: of the file, written whole or not at all.
    store: its answers are not asked for again.
    force: replace `path` if it exists.

  Returns:
    The number of lines.

  Raises:
    InputError: `path` exists and `force` is not set.
  """
  count = 0
  with (
    storage.staged_file(path, force=force) as partial,
    partial.open("wb") as file,
  ):
    for request in tqdm.tqdm(
      unanswered(requests, store), desc="requests", disable=None
    ):
      file.write(request_line(request))
      count += 1
  return count


def read_answers(
  path: pathlib.Path,
  requests: Iterable[ChatRequest],
  *,
  store: Store,
  teacher: str = TEACHER,
) -> FileTally:
  """Puts a file of answers, in any order, into the store.

  A row with an error is stored as failed, so that it can be asked again.

  Args:
    path: what `vllm run-batch` wrote.
    requests: those that the file answers; more do no harm.
    store: where the answers go.
    teacher: what the store shall call who answered.

  Raises:
    InputError: the file is missing, or a line of it is broken; lines before
      it may be stored by then, and reading them again does no harm.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f"{path}: no such file of answers.")
  asked = {request.key: request for request in unanswered(requests, store)}
  tally = FileTally()
  answers = _file_answers(path, asked, tally)
  while chunk := list(itertools.islice(answers, _ROWS_AT_ONCE)):
    store.put_all(chunk, teacher=teacher)
    tally.statuses.update(answer.status for _, answer in chunk)
  tally.missing = len(asked)
  return tally


def _file_answers(
  path: pathlib.Path, asked: dict[str, ChatRequest], tally: FileTally
) -> Iterator[tuple[ChatRequest, ChatAnswer]]:
  """Yields the answers; takes their requests out of `asked`."""
  with path.open("rb") as file:
    for number, line in enumerate(
      tqdm.tqdm(file, desc="answers", disable=None), start=1
    ):
      if not line.strip():
        continue
      result = parse_result(line, where=f"{path}, line {number}")
      request = asked.pop(result.key, None)
      if request is None:
        tally.unknown += 1
      else:
        yield request, judge(request, result)


def _message(error: Any) -> str:
  """Finds the words in an error of OpenAI's or of vLLM's form."""
  if isinstance(error, Mapping):
    return _message(error.get("message") or error.get("error"))
  return error if isinstance(error, str) else ""
