"""What the tests of the online teacher ask, in their process or another."""

from instructrec_jax.teacher.chat import ChatRequest
from instructrec_jax.teacher.prompts import IntentionAnswer, strict_schema


def make_requests(count: int) -> list[ChatRequest]:
  """Returns distinct requests, always the same."""
  return [
    ChatRequest(
      model="m",
      system="What is wanted?",
      user=f"review {number}",
      schema_name="intention",
      schema=strict_schema(IntentionAnswer),
      parameters={"max_completion_tokens": 64},
      prompt_version="1",
    )
    for number in range(count)
  ]
