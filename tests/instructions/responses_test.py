import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.instructions.render import (
  MAX_HISTORY,
  SEPARATOR,
  Slots,
  response,
)
from instructrec_jax.instructions.templates import load_templates

TEMPLATES = {t.name: t for t in load_templates("package", "pairwise")}
FORMS = [form for template in TEMPLATES.values() for form in template.forms]
SLOTS = Slots(
  history=["Tent", "Stove"],
  preference="The user prefers red.",
  query="I want light",
)


def _answer(name: str, slots: Slots = SLOTS, **more) -> str:
  return response(TEMPLATES[name].forms[0], slots, target="Lamp", **more)


def test_yes_no_tells_whether_it_is_about_the_target():
  assert _answer("A11", positive=True) == "Yes"
  assert _answer("A11", positive=False) == "No"


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("A01", "Lamp"),
    ("D01", "Lamp"),
    (
      "A03",
      "Behind the purchases is this taste: The user prefers red. What suits "
      "it: Lamp",
    ),
    ("A14", "The user prefers red."),
    ("B05", "I want light"),
    ("C06", "The user prefers red."),
    ("C07", "Tent; Stove"),
    ("C08", "The search: I want light. The product: Lamp"),
    ("C09", "Bought before: Tent; Stove. Bought next: Lamp"),
  ],
)
def test_answers_are_these(name, text):
  assert _answer(name) == text


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_an_answer_with_an_item_ends_in_its_title(form):
  text = response(form, SLOTS, target="Lamp")
  if form.template.response.endswith("item"):
    assert text.endswith("Lamp")
  else:
    assert "Lamp" not in text
  held = form.template.response
  assert (SLOTS.query in text) == held.holds_query
  assert (str(SLOTS.preference) in text) == held.holds_preference
  assert ("Tent; Stove" in text) == held.holds_history


@given(length=st.integers(1, 40))
def test_lists_have_the_last_items_oldest_first(length):
  history = [f"h{n}" for n in range(length)]
  answer = _answer("C07", Slots(history=history))
  assert answer.split(SEPARATOR) == history[-MAX_HISTORY:]


@pytest.mark.parametrize(
  ("name", "missing"),
  [("A14", "preference"), ("B05", "query"), ("C09", "history")],
)
def test_an_answer_that_is_not_there_is_an_error(name, missing):
  with pytest.raises(ValueError, match=f"{name} answers a {missing}"):
    _answer(name, Slots())
