import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.cleaning import clean_title
from instructrec_jax.instructions.render import (
  MAX_TITLE_WORDS,
  SEPARATOR,
  Slots,
  display_titles,
  render,
)
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import Item

TEMPLATES = load_templates()
DOUBLED = re.compile(r"\.\.|[!?]\.|  | [.,;:?!]|[,;:][.,;:]|[{}\[\]]")


def _slots(titles: list[str], **more) -> Slots:
  return Slots(
    history=titles[:5], candidates=titles[5:15], candidate=titles[4], **more
  )


def _words(text: str) -> int:
  return len(text.split())


@pytest.fixture(scope="module")
def real_titles(shared) -> list[str]:
  """Titles of Amazon's games, commas, colons, full stops and all."""
  path = shared / "data" / "games_2018" / "items.csv.gz"
  raw = pl.read_csv(path, columns=["title"])["title"].drop_nulls().to_list()
  cleaned = [title for title in map(clean_title, raw) if title]
  return display_titles([Item("", title) for title in cleaned])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_real_titles_read_back(template, real_titles, read_back):
  for start in range(0, 15 * 300, 15):
    titles = real_titles[start : start + 15]
    slots = _slots(titles)
    text = render(template, slots, count_tokens=_words, budget=10_000).text
    for slot, shown in read_back(template, text).items():
      wanted = getattr(slots, slot)
      wanted = [wanted] if slot == "candidate" else wanted
      assert shown[:-1] == wanted[:-1]
      # A title's full stop may serve as the instruction's.
      assert shown[-1].rstrip(".!?") == wanted[-1].rstrip(".!?")


@pytest.mark.parametrize("preference", [None, "Old games", "Old games."])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: t.name)
def test_no_punctuation_is_doubled(template, preference):
  titles = ["Mario Bros.", "Go!", "Who?", "Plain", "Lamp, red"] * 3
  for turn in range(5):
    slots = _slots(titles[turn:] + titles[:turn], preference=preference)
    text = render(template, slots, count_tokens=_words).text
    assert not DOUBLED.search(text), text
    optional = preference is not None and template.aspects.optional
    assert ("Old games" in text) == bool(optional)


@given(
  template=st.sampled_from(TEMPLATES),
  lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25),
  budget=st.integers(20, 200),
)
@settings(max_examples=200, deadline=None)
def test_oldest_history_goes_first_and_no_more_than_needed(
  template, lengths, budget
):
  history = [f"h{n}" + " x" * (k - 1) for n, k in enumerate(lengths)]
  slots = Slots(history=history, candidates=["c0 y", "c1 y"], candidate="c0 y")
  out = render(template, slots, count_tokens=_words, budget=budget)
  kept = SEPARATOR.join(history[out.items_dropped :])
  assert kept in out.text
  assert "c0 y" in out.text or template.aspects.task_form == "T2"
  # One place is the end of sequence's.
  assert out.fits == (_words(out.text) + 1 <= budget)
  assert out.fits or out.items_dropped == len(history) - 1
  if out.items_dropped:
    one_more = _words(out.text) + lengths[out.items_dropped - 1] + 1
    assert one_more > budget


def test_an_empty_slot_is_an_error():
  (template,) = [t for t in TEMPLATES if t.name == "A07"]
  with pytest.raises(ValueError, match="A07 needs a candidates"):
    render(template, Slots(history=["Lamp"]), count_tokens=_words)


def test_titles_have_no_separator_and_end_in_a_word():
  items = [
    Item("", "Lamp; red"),
    Item("", "Lamp;"),
    Item("", "Lamp -, :"),
    Item("", " ".join(map(str, range(60)))),
    Item("", ":"),
  ]
  titles = display_titles(items)
  assert titles[:3] == ["Lamp, red", "Lamp", "Lamp -"]
  assert titles[3].split() == list(map(str, range(MAX_TITLE_WORDS)))
  assert titles[4] == ":"
