"""A request to a chat model and its answer, independent of the transport."""

import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

RETRYABLE = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed later."""


class Status(enum.StrEnum):
  """Outcome of a request."""

  ANSWERED = "answered"
  REFUSED = "refused"
  """The model declined, or a content filter did."""
  TRUNCATED = "truncated"
  """The answer hit the limit on its tokens."""
  MALFORMED = "malformed"
  """The answer does not match the schema that was asked for."""
  FAILED = "failed"
  """No answer after all attempts."""


@dataclasses.dataclass(frozen=True)
class ChatRequest:
  """One complete request; equal ones are sent, and paid, once.

  Attributes:
    model: as the server calls it.
    schema: the strict JSON schema of the answer; empty for plain text.
    parameters: of sampling, such as temperature and max_completion_tokens.
    prompt_version: of the wording; a new one makes new requests.
  """

  model: str
  system: str
  user: str
  schema_name: str
  schema: Mapping[str, Any]
  parameters: Mapping[str, float | int | str]
  prompt_version: str

  @functools.cached_property
  def key(self) -> str:
    """SHA-256 of all fields, in hexadecimal."""
    text = json.dumps(dataclasses.asdict(self), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def body(self) -> dict[str, Any]:
    """Returns the body of a POST to /v1/chat/completions."""
    body: dict[str, Any] = {
      "model": self.model,
      "messages": [
        {"role": "system", "content": self.system},
        {"role": "user", "content": self.user},
      ],
    }
    if self.schema:
      body["response_format"] = {
        "type": "json_schema",
        "json_schema": {
          "name": self.schema_name,
          "strict": True,
          "schema": dict(self.schema),
        },
      }
    return body | dict(self.parameters)


@dataclasses.dataclass(frozen=True, slots=True)
class ChatAnswer:
  """What came back for a request.

  Attributes:
    status: from the finish reason, the refusal and the schema.
    text: the raw answer, "" if there is none.
    prompt_tokens, completion_tokens: as billed; 0 if unknown.
    attempts: how often the request was sent.
    error: what went wrong, in one line, without any key.
  """

  key: str
  status: Status
  text: str = ""
  finish_reason: str = ""
  prompt_tokens: int = 0
  completion_tokens: int = 0
  attempts: int = 1
  error: str = ""


def _without_surrogates(text: Any) -> Any:
  """Replaces lone surrogates, which a cut answer may end with."""
  return (
    text.encode(errors="replace").decode() if isinstance(text, str) else text
  )


class _Message(pydantic.BaseModel):
  content: Annotated[
    str | None, pydantic.BeforeValidator(_without_surrogates)
  ] = None
  refusal: Any = None


class _Choice(pydantic.BaseModel):
  message: _Message
  finish_reason: str | None = None


class _Usage(pydantic.BaseModel):
  # Less than none would give back what was spent.
  prompt_tokens: Annotated[int, pydantic.Field(ge=0)] | None = None
  completion_tokens: Annotated[int, pydantic.Field(ge=0)] | None = None


class _Completion(pydantic.BaseModel):
  """What is read of a chat completion; openai's own type demands far more."""

  choices: list[_Choice] = pydantic.Field(min_length=1)
  usage: _Usage | None = None


def read_answer(
  request: ChatRequest, completion: Any, *, attempts: int = 1
) -> ChatAnswer:
  """Reads a chat completion, as JSON from any transport.

  Raises:
    ValueError: it is not a chat completion.
  """
  try:
    found = _Completion.model_validate(completion)
  except pydantic.ValidationError:
    raise ValueError("the server's answer is no chat completion") from None
  message, usage = found.choices[0].message, found.usage or _Usage()
  reason, text = found.choices[0].finish_reason or "", message.content or ""
  error = ""
  if message.refusal or reason == "content_filter":
    status = Status.REFUSED
    error = " ".join(str(message.refusal or reason).split())
  elif reason == "length":
    status = Status.TRUNCATED
  elif (problem := schema_problem(text, request.schema)) is not None:
    status, error = Status.MALFORMED, problem
  else:
    status = Status.ANSWERED
  return ChatAnswer(
    key=request.key,
    status=status,
    text=text,
    finish_reason=reason,
    prompt_tokens=usage.prompt_tokens or 0,
    completion_tokens=usage.completion_tokens or 0,
    attempts=attempts,
    error=error[:200],
  )


def schema_problem(text: str, schema: Mapping[str, Any]) -> str | None:
  """Returns how an answer violates a flat schema of strings and booleans.

  Some servers do not enforce `strict`.
  """
  if not schema:
    return None if text.strip() else "the answer is empty"
  try:
    _answer_model(
      tuple((name, kind["type"]) for name, kind in schema["properties"].items())
    ).model_validate_json(text)
  except pydantic.ValidationError as error:
    first = error.errors(include_url=False, include_input=False)[0]
    where = "".join(f"{place}: " for place in first["loc"])
    return f"the answer does not match its schema: {where}{first['msg']}"
  return None


@functools.cache
def _answer_model(
  types: tuple[tuple[str, str], ...],
) -> type[pydantic.BaseModel]:
  """Makes a model from a stored request's schema, whatever its version."""
  kinds = {"string": str, "boolean": bool}
  fields: dict[str, Any] = {name: (kinds[type], ...) for name, type in types}
  config = pydantic.ConfigDict(extra="forbid", strict=True)
  return pydantic.create_model("Answer", __config__=config, **fields)
