import dataclasses
import json
import re

import pytest

from instructrec_jax.teacher import chat
from instructrec_jax.teacher.chat import ChatRequest, Status
from instructrec_jax.teacher.questions import VIEWS, strict_schema

REQUEST = ChatRequest(
  model="teacher-1",
  system="Say what the customer wants.",
  user="Great strings.",
  schema_name="intention",
  schema=strict_schema(VIEWS),
  parameters={"temperature": 0.4},
  prompt_version="1",
)
ANSWER = {"user_view": "I want strings.", "item_view": ""}


def _completion(content, *, reason="stop", **message):
  return {
    "choices": [
      {"message": {"content": content, **message}, "finish_reason": reason}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 5},
  }


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("model", "teacher-2"),
    ("system", "Other words."),
    ("user", "Poor strings."),
    ("schema_name", "other"),
    ("schema", {"properties": {}}),
    ("parameters", {"temperature": 0.5}),
    ("prompt_version", "2"),
  ],
)
def test_every_part_of_a_request_is_in_its_key(field, value):
  assert dataclasses.replace(REQUEST, **{field: value}).key != REQUEST.key
  assert dataclasses.replace(REQUEST).key == REQUEST.key


def test_body_asks_for_strict_structured_output():
  body = REQUEST.body()
  assert body["model"] == "teacher-1" and body["temperature"] == 0.4
  assert [m["role"] for m in body["messages"]] == ["system", "user"]
  form = body["response_format"]["json_schema"]
  assert form["strict"] is True
  assert form["schema"]["additionalProperties"] is False
  assert form["schema"]["required"] == ["user_view", "item_view"]


@pytest.mark.parametrize(
  ("completion", "status"),
  [
    (_completion(json.dumps(ANSWER)), Status.ANSWERED),
    (_completion(json.dumps(ANSWER)[:9], reason="length"), Status.TRUNCATED),
    (_completion(None, refusal="I cannot help."), Status.REFUSED),
    (_completion("", reason="content_filter"), Status.REFUSED),
    (_completion("I want strings."), Status.MALFORMED),
    (_completion('["a"]'), Status.MALFORMED),
    (_completion('{"user_view": "a"}'), Status.MALFORMED),
    (_completion('{"user_view": "a", "item_view": 3}'), Status.MALFORMED),
    (_completion(json.dumps(ANSWER | {"more": ""})), Status.MALFORMED),
  ],
)
def test_each_kind_of_answer_gets_its_status(completion, status):
  answer = chat.read_answer(REQUEST, completion, attempts=2)
  assert answer.status == status
  assert answer.key == REQUEST.key and answer.attempts == 2
  assert (answer.prompt_tokens, answer.completion_tokens) == (7, 5)
  # What was paid for is kept, whatever it is.
  assert answer.text == (completion["choices"][0]["message"]["content"] or "")


@pytest.mark.parametrize(
  "nonsense", [{}, {"choices": []}, {"choices": [{}]}, {"choices": "x"}]
)
def test_what_is_no_completion_is_no_answer(nonsense):
  with pytest.raises(ValueError, match="no chat completion"):
    chat.read_answer(REQUEST, nonsense)


def test_half_a_character_costs_no_paid_answer():
  answer = chat.read_answer(REQUEST, _completion("Cut \ud83d", reason="length"))
  assert (answer.status, answer.text) == (Status.TRUNCATED, "Cut ?")


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("I want", "JSON"),
    ('{"user_view": 1, "item_view": ""}', "user_view: .*string"),
    ('{"user_view": ""}', "item_view: .*required"),
  ],
)
def test_a_malformed_answer_says_where(text, says):
  assert re.search(says, str(chat.schema_problem(text, REQUEST.schema)))
