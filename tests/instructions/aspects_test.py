from instructrec_jax.instructions.aspects import (
  Intention,
  Preference,
  Query,
  Response,
)


def test_a_query_is_a_preference_in_words_or_an_intention():
  intentions = set(Intention) - {Intention.NONE}
  assert set(Query) >= {Preference.EXPLICIT} | intentions


def test_answers_hold_at_most_one_aspect():
  for response in Response:
    held = (
      response.holds_preference,
      response.holds_query,
      response.holds_history,
    )
    names = ("preference", "query", "history")
    assert [name in response for name in names] == list(held) or (
      response == Response.REASONED_ITEM and held == (True, False, False)
    )
