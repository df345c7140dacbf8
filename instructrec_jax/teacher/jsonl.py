"""Requests and answers as lines of JSON: OpenAI's Batch files, and vLLM's.

`vllm run-batch -i in.jsonl -o out.jsonl` reads and writes the same lines as the
Batch API, so a GPU of one's own answers without any server.
"""

import array
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
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

# What the Batch API takes in a file.
FILE_REQUESTS, FILE_BYTES = 50_000, 200_000_000
# Bytes by which an answer's request is found.
_DIGEST = 16
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

  Duplicates are written once, and a file whole or not at all. A * in its name
  stands for the numbers of files that the Batch API takes.

  Returns:
    The number of lines.

  Raises:
    InputError: `path` exists and `force` is not set.
  """
  count = 0
  left = map(
    request_line, progress(unanswered(requests, store), desc="requests")
  )
  with (
    _output(path, force=force) as there,
    contextlib.ExitStack() as written,
  ):
    line = next(left, None)
    for number in itertools.count():
      if number and line is None:
        break
      name = path.name.replace("*", f"{number:05}")
      partial = written.enter_context(storage.staged_file(path.with_name(name)))
      there.discard(path.with_name(name))
      with partial.open("wb") as file:
        for held in itertools.count():
          if line is None or ("*" in path.name and _is_full(file, held, line)):
            break
          file.write(line)
          line = next(left, None)
          count += 1
    for old in there:
      old.unlink()
  return count


def _is_full(file: IO[bytes], held: int, line: bytes) -> bool:
  is_long = file.tell() + len(line) > FILE_BYTES
  return held == FILE_REQUESTS or (held > 0 and is_long)


def check_output(path: pathlib.Path, *, force: bool) -> None:
  """Raises InputError if `write_requests` may not write there."""
  with _output(path, force=force):
    pass


@contextlib.contextmanager
def _output(path: pathlib.Path, *, force: bool) -> Iterator[set[pathlib.Path]]:
  """Holds the name; yields the files that it stands for, which may go."""
  check = functools.partial(
    storage.output_file, force=force, is_ours=_is_requests
  )
  with check(path):
    there = storage.matching(path) if "*" in path.name else []
    for each in there:
      with check(each):
        pass
    yield {*there}


def check_answers(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of answers that a name stands for.

  Raises:
    InputError: there is none, or nothing in one.
  """
  files = storage.matching(path)
  if not all(each.exists() for each in files or [path]):
    raise InputError(f"{path}: no such file of answers.")
  for each in files:
    check_file(each)
    with each.open("rb") as file:
      lines = ((n, line) for n, line in enumerate(file, 1) if line.strip())
      number, line = next(lines, (0, b""))
    if not number:
      raise InputError(f"{each}: the file of answers is empty.")
    # What begins otherwise is another kind of file.
    ResultLine.parse(line, where=f"{each}, line {number}")
  return files


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
  requests than the file answers do no harm. A * in its name stands for several
  files. Memory holds where each answer stands, in 28 bytes.

  Raises:
    InputError: the file is missing, or a line of it is broken.
  """
  tally = FileTally()
  with _Answers(check_answers(path)) as answers:
    answered = answers.of(unanswered(requests, store), tally)
    while chunk := list(itertools.islice(answered, ROWS_PER_COMMIT)):
      store.put_all(chunk, teacher=TEACHER)
      tally.statuses.update(answer.status for _, answer in chunk)
    tally.unknown = len(answers) - tally.statuses.total()
  return tally


class _Answers:
  """Files of answers, read at random. A context."""

  def __init__(self, paths: list[pathlib.Path]):
    """Reads all lines, and keeps where each stands."""
    self._paths, self._files = paths, []
    keys, numbers, starts = bytearray(), array.array("i"), array.array("q")
    for file_number, path in enumerate(paths):
      start = 0
      with path.open("rb") as file:
        for number, line in enumerate(progress(file, desc="answers"), start=1):
          if line.strip():
            found = ResultLine.parse(line, where=f"{path}, line {number}")
            keys += _digest(found.custom_id)
            numbers.append(file_number)
            starts.append(start)
          start += len(line)
    digests = np.frombuffer(keys, f"S{_DIGEST}")
    # Of two answers to one request the first counts.
    order = np.argsort(digests, kind="stable")
    self._digests = digests[order]
    self._numbers = np.array(numbers)[order]
    self._starts = np.array(starts)[order]

  def __enter__(self) -> "_Answers":
    self._files = [path.open("rb") for path in self._paths]
    return self

  def __exit__(self, *_: object) -> None:
    for file in self._files:
      file.close()

  def __len__(self) -> int:
    return len(self._digests)

  def of(
    self, requests: Iterable[ChatRequest], tally: FileTally
  ) -> Iterator[tuple[ChatRequest, ChatAnswer]]:
    """Yields the requests that have an answer; counts those that have none."""
    for request in requests:
      place = int(np.searchsorted(self._digests, _digest(request.key)))
      found = None
      if place < len(self):
        number, start = int(self._numbers[place]), int(self._starts[place])
        self._files[number].seek(start)
        line = self._files[number].readline()
        found = ResultLine.parse(line, where=str(self._paths[number]))
      if found and found.custom_id == request.key:
        yield request, found.answer(request)
      else:
        tally.missing += 1


def _digest(name: str) -> bytes:
  return hashlib.blake2b(name.encode(), digest_size=_DIGEST).digest()


def _message(error: Any) -> str:
  """Finds the words in an error of OpenAI's or of vLLM's form."""
  if isinstance(error, Mapping):
    return _message(error.get("message") or error.get("error"))
  return error if isinstance(error, str) else ""
