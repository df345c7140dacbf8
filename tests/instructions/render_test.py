import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.cleaning import clean_title
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions.aspects import Response
from instructrec_jax.instructions.render import (
  MAX_HISTORY,
  MAX_TITLE_WORDS,
  SEPARATOR,
  Slots,
  display_titles,
  ends_sentence,
  fitted_response,
  plain_words,
  reasoned_preference,
  reasoning,
  render,
  response,
)
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import Item
from instructrec_jax.text.vocabulary import Vocabulary

TEMPLATES = {t.name: t for t in load_templates("package", "pairwise")}
FORMS = [form for template in TEMPLATES.values() for form in template.forms]
LISTS = ("history", "candidates")
SLOTS = Slots(
  history=["Tent", "Stove"],
  preference="The user prefers red.",
  query="I want light",
)
DOUBLED = re.compile(r"\.\.|[!?]\.|[.!?]\"\.|  | [.,;:?!]|[,;:][.,;:]")


def _words(text: str) -> int:
  return len(text.split())


def _slots(titles: list[str], form, **more) -> Slots:
  """Slots from 15 titles: a history of 5, ten candidates with the target."""
  texts = {
    "preference": "The user likes red.",
    "query": "I want a gift",
    **more,
  }
  pairwise = form.template.task_form == "T1"
  return Slots(
    history=titles[:5],
    candidates=titles[5:7] if pairwise else titles[5:15],
    candidate=titles[6],
    target=titles[6],
    **texts,
  )


def _read_back(form, text: str) -> dict[str, str]:
  """Returns the text in each slot of an instruction.

  The template's full stop may be missing after a value that brought its own.
  """
  segments = form.segments_without_context
  pattern = re.escape(segments[0])
  for literal in segments[2::2]:
    stopped = re.match(r'"?\.', literal)
    rest = literal[stopped.end() :] if stopped else literal
    # A stop is the value's own, or else the template's.
    ends = {None: "", ".": r"(?:(?<=[.!?\"'])|\.)"}.get(
      stopped and stopped[0], r'(?:(?<=[.!?\'])"|"\.)'
    )
    pattern += "(.+)" + ends + re.escape(rest)
  found = re.fullmatch(pattern, text)
  assert found, (form.name, text)
  return dict(zip(segments[1::2], found.groups(), strict=True))


def _check_fits(form, slots: Slots, count_tokens) -> None:
  """Checks an instruction that the encoder's budget has to hold."""
  out = render(form, slots, count_tokens=count_tokens)
  assert out.fits
  assert count_tokens(out.text) < 512
  _check(form, slots, out.text, dropped=out.items_dropped)


def _check(form, slots: Slots, text: str, *, dropped: int = 0) -> None:
  """Checks that an instruction holds its slots' values and nothing else."""
  assert not re.search(r"[{}]|\[\[|\]\]|  ", text)
  shown = _read_back(form, text)
  assert set(shown) == form.slots - {"context"}
  for name, value in shown.items():
    wanted = getattr(slots, name)
    if name in LISTS:
      wanted = SEPARATOR.join(wanted[dropped if name == "history" else 0 :])
      if name == "candidates":
        # Word for word, and only once: other orders of it can be tried.
        assert text.count(wanted) == 1
    elif name in ("query", "preference"):
      wanted = plain_words(wanted)
      if f'"{value}"' in text:
        wanted = wanted.replace('"', "'")
    # A stop only where the value has none.
    stop = "" if ends_sentence(wanted) else "."
    assert value in (wanted, wanted + stop), (name, text)
  if "history" in shown and slots.target not in slots.history:
    assert slots.target not in shown["history"].split(SEPARATOR)


@pytest.fixture(scope="session")
def vocabulary(shared) -> Vocabulary:
  return Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")


@pytest.fixture(scope="module")
def games_titles(shared) -> list[str]:
  """Titles of Amazon's games, commas, colons, full stops and all."""
  path = shared / "data" / "games_2018" / "items.csv.gz"
  raw = pl.read_csv(path, columns=["title"])["title"].drop_nulls().to_list()
  cleaned = [title for title in map(clean_title, raw) if title]
  return display_titles([Item("", title) for title in cleaned])


@pytest.fixture(scope="session")
def music(shared, tmp_path_factory) -> DatasetFolder:
  raw = shared / "data" / "musical_instruments_2014"
  return prepare(
    out=tmp_path_factory.mktemp("music") / "data",
    format="amazon2014",
    reviews=next(raw.glob("reviews*")),
    metadata=next(raw.glob("meta*")),
  )


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_games_read_back(form, games_titles, vocabulary):
  wish = "I want a game, quick!"
  queries = {"P2": "The user likes old games.", "I1": wish, "I1*": wish}
  for start in range(0, 15 * 1000, 15 * 25):
    titles = games_titles[start : start + 15]
    query = queries.get(str(form.query), "PlayStation 4, Games")
    slots = _slots(titles, form, query=query)
    _check_fits(form, slots, vocabulary.count_tokens)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_musical_instruments_read_back(form, music, vocabulary):
  titles = display_titles(music.items)
  summaries = music.interactions["summary"].to_list()
  offsets = music.sequences.offsets.tolist()
  for user in range(0, len(music.sequences), 60):
    *history, target = music.sequences.user(user).tolist()
    others = [titles[(user + 7 * k) % len(titles)] for k in range(10)]
    slots = Slots(
      history=[titles[item] for item in history],
      candidates=[*others[:1], titles[target]]
      if form.template.task_form == "T1"
      else [*others[:4], titles[target], *others[5:]],
      candidate=titles[target],
      target=titles[target],
      # People's own words, with their own signs.
      preference=clean_title(summaries[offsets[user]]) or "Nice",
      query={
        "I1": clean_title(summaries[offsets[user + 1] - 1]) or "Nice",
        "I2": ", ".join(music.items[target].categories),
      }.get(str(form.query), "The user likes loud music."),
    )
    _check_fits(form, slots, vocabulary.count_tokens)


@pytest.mark.parametrize("ending", ["", ".", "!", "?", '."', ",", " \n"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_no_punctuation_is_doubled(form, ending):
  titles = ["Mario Bros.", "Go!", "Who?", "Plain", "Lamp, red"] * 3
  for turn in range(5):
    slots = _slots(
      titles[turn:] + titles[:turn],
      form,
      preference="Old games" + ending,
      query="Games, new" + ending,
    )
    text = render(form, slots, count_tokens=_words).text
    assert not DOUBLED.search(text), text
    assert ("Old games" in text) == form.with_preference
    assert ("Games, new" in text) == ("query" in form.slots)


@given(
  form=st.sampled_from(FORMS),
  lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25),
  budget=st.integers(20, 200),
)
@settings(max_examples=300, deadline=None)
def test_oldest_history_goes_first_and_no_more_than_needed(
  form, lengths, budget
):
  history = [f"h{n}" + " x" * (k - 1) for n, k in enumerate(lengths)]
  candidates = ["c0 y", "c1 y"]
  slots = Slots(
    history=history,
    candidates=candidates,
    candidate="c0 y",
    target="t0 y",
    preference="p0 y",
    query="q0 y",
  )
  out = render(form, slots, count_tokens=_words, budget=budget)
  # Nothing but history is ever dropped.
  _check(form, slots, out.text, dropped=out.items_dropped)
  # One place is the end of sequence's.
  assert out.fits == (_words(out.text) + 1 <= budget)
  droppable = len(history) - 1 if "history" in form.slots else 0
  assert out.fits or out.items_dropped == droppable
  if out.items_dropped:
    one_more = _words(out.text) + lengths[out.items_dropped - 1] + 1
    assert one_more > budget


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_an_empty_slot_is_an_error(form):
  full = dict.fromkeys(LISTS, ["Lamp"])
  full |= dict.fromkeys(("candidate", "target", "preference", "query"), "Lamp")
  for name in form.slots:
    wanted = f"template {form.template.name} needs a {name}$"
    with pytest.raises(ValueError, match=wanted):
      render(form, Slots(**full | {name: ""}), count_tokens=_words)


def test_context_is_shown_where_there_is_one(tmp_path):
  path = tmp_path / "mine.yaml"
  path.write_text(
    "[{name: Z01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had: {history}. [[Now: {context}. ]]And next?'}]"
  )
  (template,) = load_templates(path)
  (form,) = template.forms
  for context, text in (
    (None, "Had: Lamp. And next?"),
    ("Winter.", "Had: Lamp. Now: Winter. And next?"),
  ):
    slots = Slots(history=["Lamp"], context=context)
    assert render(form, slots, count_tokens=_words).text == text


def test_quotes_within_a_query_become_single():
  form = TEMPLATES["B02"].forms[0]
  slots = Slots(query='12" vinyl, "new"')
  text = render(form, slots, count_tokens=_words).text
  assert "query: \"12' vinyl, 'new'\". Reply" in text


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


def _answer(name: str, slots: Slots = SLOTS, **more) -> str:
  return response(TEMPLATES[name].forms[0], slots, target="Lamp", **more)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("A11", "Yes"),
    ("A01", "Lamp"),
    ("D01", "Lamp"),
    (
      "A03",
      "The history shows this taste: The user prefers red. What suits it: Lamp",
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
  if text == "Yes":
    assert _answer(name, positive=False) == "No"


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


@pytest.mark.parametrize(
  ("answer", "taste"),
  [
    (
      "The history shows this taste: The user likes tents. What suits it: Lamp",
      "The user likes tents.",
    ),
    # A vocabulary that folds case, and an answer that was cut.
    (
      "the history shows this taste: the user likes tents. what suits it: lamp",
      "the user likes tents.",
    ),
    ("The history shows this taste: The user likes", "The user likes"),
    ("Likes tents; What suits it: Lamp", "Likes tents"),
    ("What suits it: Lamp", ""),
    ("The history shows this taste: What suits it: Lamp", ""),
    ("", ""),
  ],
)
def test_the_taste_is_read_of_a_reasoned_answer(answer, taste):
  assert reasoned_preference(answer) == taste


def test_what_is_said_before_an_item_begins_the_answer_that_is_taught():
  (form,) = TEMPLATES["A03"].forms
  answer = response(form, SLOTS, target="Lamp")
  assert answer == f"{reasoning(str(SLOTS.preference))} Lamp"
  assert reasoned_preference(answer).rstrip(".") == (
    str(SLOTS.preference).rstrip(".")
  )


@given(length=st.integers(1, 40))
def test_lists_have_the_last_items_oldest_first(length):
  history = [f"h{n}" for n in range(length)]
  answer = _answer("C07", Slots(history=history))
  assert answer.split(SEPARATOR) == history[-MAX_HISTORY:]


@given(
  # One a kind of answer: most forms answer with an item alone.
  form=st.sampled_from([*{f.template.response: f for f in FORMS}.values()]),
  lengths=st.lists(st.integers(1, 6), min_size=1, max_size=25),
  budget=st.integers(2, 100),
)
@settings(max_examples=300, deadline=None)
def test_answers_fit_without_their_oldest_history_and_never_lose_their_item(
  form, lengths, budget
):
  history = [f"h{n}" + " x" * (k - 1) for n, k in enumerate(lengths)]
  slots = Slots(history=history, preference="p0 p1 p2 p3", query="q0 q1 q2 q3")
  out = fitted_response(
    form, slots, target="t0 y", count_tokens=_words, budget=budget
  )
  whole = response(form, slots, target="t0 y")
  # One place is the end of sequence's.
  assert out.fits == (_words(out.text) + 1 <= budget)
  assert (out.text == whole) == (not out.items_dropped + out.words_dropped)
  kind = form.template.response
  if kind.endswith("item"):
    assert out.text.endswith("t0 y")
  listed = history[-MAX_HISTORY:] if kind.holds_history else []
  shown = re.findall(r"h\d+(?: x)*", out.text)
  assert shown == listed[out.items_dropped :]
  told = re.findall(r"[pq]\d", out.text)
  sign = "p" if kind.holds_preference else "q"
  words = 4 * (kind.holds_preference or kind.holds_query)
  assert told == [f"{sign}{n}" for n in range(words - out.words_dropped)]
  # Words go when no item can, and neither before it must.
  least = 0 if kind == Response.HISTORY_AND_ITEM else 1
  droppable = max(len(listed) - least, 0)
  if out.words_dropped or not out.fits:
    assert out.items_dropped == droppable
  if not out.fits:
    assert out.words_dropped == max(words - 1, 0)
  elif out.words_dropped:
    assert _words(out.text) + 2 > budget
  elif out.items_dropped:
    before = 0 if shown else len("Bought before:".split())
    back = _words(listed[out.items_dropped - 1]) + before
    assert _words(out.text) + back + 1 > budget


@pytest.mark.parametrize(
  ("name", "missing"),
  [("A14", "preference"), ("B05", "query"), ("C09", "history")],
)
def test_an_answer_that_is_not_there_is_an_error(name, missing):
  with pytest.raises(ValueError, match=f"{name} answers a {missing}"):
    _answer(name, Slots())
