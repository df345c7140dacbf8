"""Requests of the teacher's tests, for this process or another."""

import contextlib
import sqlite3

from instructrec_jax.teacher.chat import ChatRequest

# Not `strict_schema(IntentionAnswer)`, whose module is slow to import.
_VIEWS = ("user_view", "item_view")
SCHEMA = {
  "type": "object",
  "properties": {view: {"type": "string"} for view in _VIEWS},
  "required": list(_VIEWS),
  "additionalProperties": False,
}


def billed(store) -> tuple[int, int]:
  """Returns all prompt and completion tokens in a store."""
  with contextlib.closing(sqlite3.connect(store.path)) as db:
    return db.execute(
      "SELECT coalesce(sum(prompt_tokens), 0), "
      "coalesce(sum(completion_tokens), 0) FROM requests"
    ).fetchone()


def make_requests(count: int) -> list[ChatRequest]:
  """Returns distinct requests, always the same."""
  return [
    ChatRequest(
      model="m",
      system="What is wanted?",
      user=f"review {number}",
      schema_name="intention",
      schema=SCHEMA,
      parameters={"max_completion_tokens": 64},
      prompt_version="1",
    )
    for number in range(count)
  ]
