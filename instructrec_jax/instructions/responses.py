"""What the model should answer, by a template's kind of response.

An answer that holds an item ends in its title, word for word.
"""

from instructrec_jax.instructions.aspects import Response
from instructrec_jax.instructions.forms import Form
from instructrec_jax.instructions.render import (
  SEPARATOR,
  Slots,
  ends_sentence,
  plain_words,
)

YES = "Yes"
NO = "No"
MAX_HISTORY = 20


def response(
  form: Form, slots: Slots, *, target: str, positive: bool = True
) -> str:
  """Returns the answer's text.

  Args:
    form: whose template says what is asked for.
    slots: with the preference, query or history, where that is the answer.
    target: the target item's title.
    positive: of a pointwise instruction: it asks about the target itself.

  Raises:
    ValueError: the answer is something that `slots` does not have.
  """
  kind = form.template.response
  preference = plain_words(slots.preference or "")
  query = plain_words(slots.query)
  history = SEPARATOR.join(slots.history[-MAX_HISTORY:])
  missing = (
    (kind.holds_preference and not preference and "preference")
    or (kind.holds_query and not query and "query")
    or (kind.holds_history and not history and "history")
  )
  if missing:
    raise ValueError(f"template {form.template.name} answers a {missing}")
  match kind:
    case Response.ITEM:
      return target
    case Response.YES_NO:
      return YES if positive else NO
    case Response.PREFERENCE:
      return preference
    case Response.QUERY:
      return query
    case Response.HISTORY:
      return history
    case Response.QUERY_AND_ITEM:
      return f"The search: {_sentence(query)} The product: {target}"
    case Response.HISTORY_AND_ITEM:
      return f"Bought before: {_sentence(history)} Bought next: {target}"
    case Response.REASONED_ITEM:
      # The paper's section 2.2.2: preferences, then the recommendation.
      return (
        f"Behind the purchases is this taste: {_sentence(preference)} "
        f"What suits it: {target}"
      )


def _sentence(text: str) -> str:
  return text if ends_sentence(text) else f"{text}."
