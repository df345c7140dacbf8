"""A question to a chat model and its answer, whatever carries them."""

import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any


class Status(enum.StrEnum):
  """What came of a request."""

  ANSWERED = "answered"
  REFUSED = "refused"
  """The model declined, or a content filter did."""
  TRUNCATED = "truncated"
  """The answer hit the limit on its tokens."""
  MALFORMED = "malformed"
  """The answer is not of the schema that was asked for."""
  FAILED = "failed"
  """No answer after all attempts."""


@dataclasses.dataclass(frozen=True)
class ChatRequest:
  """One question, complete: equal questions are asked, and paid, once.

  Attributes:
    model: as the server calls it.
    system: what the model is told of its task.
    user: the text that it works on.
    schema_name: name of the answer's form.
    schema: the strict JSON schema of the answer; empty for plain words.
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
    """The hash of all of it, in hexadecimal."""
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
    key: of the request.
    status: judged from the transport's side and the schema.
    text: the raw answer, "" if there is none.
    finish_reason: as the server gave it.
    prompt_tokens: as billed; 0 if unknown.
    completion_tokens: the same.
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


def read_answer(
  request: ChatRequest, completion: Mapping[str, Any], *, attempts: int = 1
) -> ChatAnswer:
  """Judges a chat completion, as JSON from any transport.

  Raises:
    ValueError: it is no chat completion at all.
  """
  try:
    choice = completion["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason") or ""
    text, refusal = message.get("content") or "", message.get("refusal")
    usage = completion.get("usage") or {}
    tokens = [
      int(usage.get(name) or 0)
      for name in ("prompt_tokens", "completion_tokens")
    ]
  except (KeyError, IndexError, TypeError, AttributeError, ValueError):
    raise ValueError("the server's answer is no chat completion") from None
  error = ""
  if refusal or reason == "content_filter":
    status, error = Status.REFUSED, " ".join(str(refusal or reason).split())
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
    prompt_tokens=tokens[0],
    completion_tokens=tokens[1],
    attempts=attempts,
    error=error[:200],
  )


def schema_problem(text: str, schema: Mapping[str, Any]) -> str | None:
  """Says how an answer breaks a flat schema of texts and booleans, if it does.

  Servers other than OpenAI's may take `strict` for a hint.
  """
  if not schema:
    return None if text.strip() else "the answer is empty"
  try:
    value = json.loads(text)
  except ValueError:
    return "the answer is not JSON"
  if not isinstance(value, dict):
    return "the answer is no JSON object"
  if value.keys() != schema["properties"].keys():
    return f"the answer has the fields {', '.join(sorted(value)) or 'none'}"
  kinds = {"string": str, "boolean": bool}
  for name, field in schema["properties"].items():
    if not isinstance(value[name], kinds[field["type"]]):
      return f"the answer's {name} is no {field['type']}"
  return None
