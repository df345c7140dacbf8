"""Requests of the teacher's tests, for this process or another."""

import contextlib
import sqlite3

from instructrec_jax.teacher.chat import ChatRequest

SCHEMA = {
  "type": "object",
  "properties": {"text": {"type": "string"}},
  "required": ["text"],
  "additionalProperties": False,
}


def make_requests(count: int, *, model: str = "m") -> list[ChatRequest]:
  """Returns distinct requests, always the same."""
  return [
    ChatRequest(
      model=model,
      system="What is wanted?",
      # U+2028, which some readers take for the end of a line.
      user=f"Guitar\u2028strings, number {number:02}",
      schema_name="intention",
      schema=SCHEMA,
      parameters={"max_completion_tokens": 64},
      prompt_version="1",
    )
    for number in range(count)
  ]


def billed(store) -> tuple[int, int]:
  """Returns all prompt and completion tokens in a store."""
  with contextlib.closing(sqlite3.connect(store.path)) as db:
    return db.execute(
      "SELECT coalesce(sum(prompt_tokens), 0), "
      "coalesce(sum(completion_tokens), 0) FROM requests"
    ).fetchone()
