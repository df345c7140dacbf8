import re

import pytest
import yaml

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.aspects import Preference, Query, Response
from instructrec_jax.instructions.templates import (
  dump_templates,
  load_templates,
)
from instructrec_jax.text.vocabulary import UNK_ID, Vocabulary

TEMPLATES = {t.name: t for t in load_templates()}
ALL = load_templates("package", "pairwise")
FORMS = [form for template in ALL for form in template.forms]

# The appendix's numbers, aspects (or strategy, which takes their place there),
# slots and answers. Its T1 of A11 and A12 is T0: both judge a single item.
APPENDIX = """
A01 <P1,I0,T2> history -> item
A02 <P1,P2,I0,T2> preference history -> item
A03 <P1,chain-of-thought> history -> reasoned_item
A04 <P1,(P2),I0,T2> history preference -> item
A05 <P1,(P2),I0,T2> history preference -> item
A06 <P1,(P2),I0,T2> history preference -> item
A07 <P1,(P2),I0,T3> history preference candidates -> item
A08 <P1,(P2),I0,T3> history preference candidates -> item
A09 <P1,(P2),I0,T3> preference history candidates -> item
A10 <P1,(P2),I0,T3> history preference candidates -> item
A11 <P1,(P2),I0,T0> history preference candidate -> yes_no
A12 <P1,(P2),I0,T0> history preference candidate -> yes_no
A13 <P1,(P2),I0,T3> history preference candidates -> item
A14 <P1,turn-around> history -> preference
A15 <P1,turn-around> history -> preference
A16 <P2,I0,T2> preference -> item
A17 <P2,I0,T2> preference -> item
B01 <P0,P2/I1/I2,T2> query -> item
B02 <P0,I2,T2> query -> item
B03 <P0,I2,T2> query -> item
B04 <P0,P2/I1/I2,T2> query -> item
B05 <P0,I1/I2,turn-around> target -> query
B06 <P0,I1/I2,turn-around> target -> query
B07 <P0,P2/I1/I2,T3> query candidates -> item
B08 <P0,P2/I1/I2,T3> query candidates -> item
B09 <P0,P2/I1/I2,T3> query candidates -> item
C01 <P1,P2,T2> history query -> item
C02 <P1,I1,T2> history query -> item
C03 <P1,I1,T2> history query -> item
C04 <P1,I2,T2> query history -> item
C05 <P1,I1,turn-around> history target -> query
C06 <P1,turn-around> history target -> preference
C07 <P0,P2/I1,relatedness> query target -> history
C08 <P1,I1,relatedness> history -> query_and_item
C09 <P0,P2/I1,turn-around> query -> history_and_item
C10 <P1,(P2),P2/I1/I2,T3> query history preference candidates -> item
C11 <P1,(P2),I1/I2,T3> query history preference candidates -> item
C12 <P1,(P2),I1/I2,T3> history preference query candidates -> item
C13 <P1,(P2),I1/I2,T3> history preference query candidates -> item
"""

GOOD = {
  "name": "Z01",
  "preferences": ["P1"],
  "optional": ["P2"],
  "task_form": "T3",
  "response": "item",
  "text": "Had: {history}. [[Likes: {preference}. ]]Choose: {candidates}.",
}
# A turned-around template: its answer is the query.
TURNED = {
  "name": "Z02",
  "preferences": ["P0"],
  "queries": ["I1"],
  "strategy": "turn-around",
  "response": "query",
  "text": "Search for this: {target}.",
}


def _load(tmp_path, *entries):
  path = tmp_path / "templates.yaml"
  path.write_text(yaml.safe_dump(list(entries)))
  return load_templates(path)


def test_a_query_is_a_preference_in_words_or_an_intention():
  assert {*Query} == {Preference.EXPLICIT, "I1", "I1*", "I2"}


def test_answers_hold_at_most_one_aspect():
  for response in Response:
    aspects = ("preference", "query", "history")
    held = [name for name in aspects if getattr(response, f"holds_{name}")]
    reasoned = ["preference"] * (response == Response.REASONED_ITEM)
    assert held == reasoned + [name for name in aspects if name in response]


def test_the_packages_templates_are_the_appendixs():
  found = [
    " ".join(
      [t.name, t.label, *re.findall(r"{(\w+)}", t.text), "->", t.response]
    )
    for t in TEMPLATES.values()
  ]
  assert found == APPENDIX.split("\n")[1:-1]


def test_unlisted_are_the_packages_that_list_no_candidates():
  package = load_templates()
  unlisted = [t for t in package if "{candidates}" not in t.text]
  assert load_templates("unlisted") == unlisted
  assert 0 < len(unlisted) < len(package)
  # A later one replaces an earlier one, and takes none away.
  assert load_templates("package", "unlisted") == package


def test_pairwise_templates_are_a_group_of_their_own():
  assert {t.group for t in load_templates("pairwise")} == {"D"}
  assert {t.task_form for t in load_templates("pairwise")} == {"T1"}


@pytest.mark.parametrize(
  ("name", "forms"),
  [
    ("A01", "p1_i0_t2"),
    ("A02", "p1_p2_i0_t2"),
    ("A03", "p1_p2_chain_of_thought"),
    ("A07", "p1_i0_t3 p1_p2_i0_t3"),
    ("A14", "p1_p2_turn_around"),
    ("A16", "p2_i0_t2"),
    ("B05", "p0_i1_turn_around p0_i2_turn_around"),
    ("B07", "p0_p2_t3 p0_i1_t3 p0_i1star_t3 p0_i2_t3"),
    ("C01", "p1_p2_t2"),
    ("C05", "p1_i1_turn_around"),
    ("C06", "p1_p2_turn_around"),
    ("C07", "p1_p2_relatedness p1_i1_relatedness p1_i1star_relatedness"),
    ("C08", "p1_i1_relatedness"),
    ("C09", "p1_p2_turn_around p1_i1_turn_around p1_i1star_turn_around"),
    # A preference that is the query is not shown a second time.
    (
      "C10",
      "p1_p2_t3 p1_i1_t3 p1_p2_i1_t3 p1_i1star_t3 p1_p2_i1star_t3 p1_i2_t3 "
      "p1_p2_i2_t3",
    ),
  ],
)
def test_families_count_what_only_the_answer_holds(name, forms):
  assert [f.family for f in TEMPLATES[name].forms] == forms.split()


def test_labels_and_names_of_forms():
  plain, in_words = TEMPLATES["A07"].forms
  assert (plain.label, in_words.label) == ("<P1,I0,T3>", "<P1,P2,I0,T3>")
  assert in_words.name == "A07_p1_p2_i0_t3"
  assert in_words.task_name == "instructrec_a07_p1_p2_i0_t3_v1"
  (only,) = TEMPLATES["A01"].forms
  assert (only.name, only.task_name) == ("A01", "instructrec_a01_v1")
  names = [form.name for form in FORMS]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_a_form_needs_what_it_shows_or_answers(form):
  used = set(form.family.split("_"))
  assert form.needs_preference == ("p2" in used)
  assert form.needs_history == ("p1" in used)
  assert form.with_preference == ("preference" in form.slots)
  if form.query:
    assert form.query.lower().replace("*", "star") in used
    asked = form.template.response.holds_query
    assert ("query" in form.slots) != asked
  assert "[[" not in "".join(form.segments)


def test_own_words_have_pieces_in_t5s_vocabulary(shared):
  vocabulary = Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")
  for form in FORMS:
    for literal in form.segments[::2]:
      assert UNK_ID not in vocabulary.encode_one(literal), form.name


def test_every_sign_that_a_template_may_have_is_in_t5s_vocabulary(
  shared, tmp_path
):
  vocabulary = Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")
  accepted = ""
  for code in (*range(32, 0x180), *range(0x2010, 0x2030), 0x20AC, 0x1F600):
    entry = GOOD | {"text": f"a{chr(code)}a {GOOD['text']}"}
    try:
      _load(tmp_path, entry)
    except InputError:
      continue
    accepted += chr(code)
    assert UNK_ID not in vocabulary.encode_one(f"a{chr(code)}a"), chr(code)
  assert set("abcXYZ019 .,:;!?()'\"&/%éüß") <= set(accepted)


def test_optional_parts_are_left_out(tmp_path):
  context = {"text": "[[Now: {context}. ]]" + GOOD["text"]}
  (template,) = _load(tmp_path, GOOD | context)
  without, shown = template.forms
  assert without.segments_without_context == (
    "Had: ",
    "history",
    ". Choose: ",
    "candidates",
    ".",
  )
  assert without.segments[:4] == ("Now: ", "context", ". Had: ", "history")
  assert shown.segments[1::2] == (
    "context",
    "history",
    "preference",
    "candidates",
  )


def test_a_later_file_replaces_and_extends(tmp_path):
  path = tmp_path / "mine.yaml"
  mine = GOOD | {"name": "A07"}
  path.write_text(yaml.safe_dump([mine, GOOD]))
  loaded = {t.name: t for t in load_templates("package", path)}
  assert list(loaded) == [*TEMPLATES, "Z01"]
  assert loaded["A07"].text == GOOD["text"]
  assert loaded["A08"] == TEMPLATES["A08"]


def test_a_dump_reads_as_the_same_templates(tmp_path):
  path = tmp_path / "dumped.yaml"
  path.write_text(dump_templates(ALL), encoding="utf-8")
  assert load_templates(path) == ALL


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    ({"text": "Had: {history}. Choose: {candidates}."}, "[[part with"),
    ({"text": "[[{preference}. ]]Choose: {candidates}."}, "lacks {history}"),
    (
      {"text": "[[{preference}: {history}. ]]Choose: {candidates}."},
      "no other slot",
    ),
    ({"text": GOOD["text"] + " [[So.]]"}, "no other slot"),
    ({"text": GOOD["text"] + " {price}."}, "no slot {price}"),
    ({"text": GOOD["text"] + " {candidate}."}, "must not have {candidate}"),
    ({"text": GOOD["text"] + " {target}."}, "must not have {target}"),
    ({"text": GOOD["text"] + " {history}."}, "more than once"),
    ({"text": GOOD["text"] + " {context}."}, "optional [[part]]"),
    ({"text": GOOD["text"].replace("[[", "").replace("]]", "")}, "[[part with"),
    ({"text": GOOD["text"] + " [[more"}, "'[' belongs to no"),
    ({"text": GOOD["text"] + " {history"}, "'{' belongs to no"),
    ({"text": GOOD["text"] + " <b>"}, "no '<'"),
    ({"text": GOOD["text"] + " a\nb"}, "no '\\n'"),
    ({"text": GOOD["text"] + " \N{SLIGHTLY SMILING FACE}"}, "vocabulary"),
    ({"text": GOOD["text"] + " a  b"}, "doubled"),
    ({"text": GOOD["text"] + "."}, "doubled"),
    ({"preferences": ["P9"]}, "preferences has 'P9', but there are P0, P1"),
    ({"preferences": "P1"}, "preferences must be a list"),
    ({"preferences": ["P0", "P1"]}, "preferences are"),
    ({"preferences": ["P1", "P2"]}, "preferences are"),
    ({"preferences": []}, "'preferences' is missing or empty"),
    ({"optional": ["P1"]}, "preferences are"),
    ({"preferences": ["P2"], "optional": ["P1"]}, "only P2 can be optional"),
    ({"queries": ["I1"]}, "lacks {query}"),
    ({"queries": ["I0"]}, "queries has 'I0', but there are P2, I1, I2"),
    ({"queries": ["I1", "I1"]}, "named twice"),
    ({"task_form": "T7"}, "task_form has 'T7'"),
    ({"task_form": None}, "needs a task_form"),
    ({"strategy": "magic"}, "strategy has 'magic'"),
    ({"strategy": "turn-around"}, "has no task_form"),
    ({"response": "number"}, "response has 'number'"),
    ({"response": "yes_no"}, "yes_no does not fit <P1,(P2),I0,T3>"),
    ({"response": "preference"}, "it would be item"),
    ({"task_form": "T0"}, "it would be yes_no"),
    ({"strategy": "chain-of-thought"}, "it would be reasoned_item"),
    (
      {"strategy": "chain-of-thought", "response": "reasoned_item"},
      "P2 is shown and asked for",
    ),
    *(
      (
        {
          "strategy": "chain-of-thought",
          "task_form": task_form,
          "response": "reasoned_item",
        },
        "a template whose strategy is chain-of-thought is of T2 or T3",
      )
      for task_form in ("T0", "T1")
    ),
    ({"queries": ["I1*"]}, "queries has 'I1*', but there are P2, I1, I2"),
    ({"text": 5}, "text must be text"),
    ({"text": "\ud800 {history}"}, "half of a character"),
    ({"held_out": "maybe"}, "held_out must be true or false"),
    ({"colour": "red"}, "no field 'colour'"),
    ({"colour": "red", "task_form": "T7"}, "no field 'colour'"),
    ({5: "red"}, "no field 5"),
  ],
)
def test_a_wrong_template_is_refused_by_name(tmp_path, change, complaint):
  with pytest.raises(InputError, match="template Z01: ") as error:
    _load(tmp_path, GOOD | change)
  assert complaint in str(error.value)


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    ({"queries": []}, "the answer is a query"),
    ({"text": 'Search "{query}" for {target}.'}, "must not have {query}"),
    ({"text": "Search for something."}, "lacks {target}"),
    ({"response": "item"}, "it would be history or"),
    (
      {
        "response": "history",
        "preferences": ["P1"],
        "text": 'Had: {history}. Asked: "{query}".',
      },
      "P1 is shown and asked for",
    ),
    (
      {"response": "preference", "queries": ["P2"], "text": '"{query}".'},
      "P2 is shown and asked for",
    ),
    (
      {"response": "history", "queries": ["P2"], "preferences": ["P2"]},
      "both as the preference and as the query",
    ),
    # The answer holds the target.
    (
      {"response": "history_and_item", "text": '{target} for "{query}".'},
      "must not have {target}",
    ),
  ],
)
def test_what_is_asked_for_is_not_shown(tmp_path, change, complaint):
  with pytest.raises(InputError, match="template Z02: ") as error:
    _load(tmp_path, TURNED | change)
  assert complaint in str(error.value)


def test_the_good_ones_are_good(tmp_path):
  assert len(_load(tmp_path, GOOD, TURNED)) == 2
  (template,) = _load(tmp_path, TURNED | {"queries": ["P2", "I2"]})
  assert [f.query for f in template.forms] == [Query.PREFERENCE, Query.SPECIFIC]
  assert template.preferences == (Preference.NONE,)


@pytest.mark.parametrize("field", ["preferences", "response", "text"])
def test_a_missing_field_is_named(tmp_path, field):
  without = {name: value for name, value in GOOD.items() if name != field}
  with pytest.raises(InputError, match=f"Z01: the field '{field}' is missing"):
    _load(tmp_path, without)


def test_what_is_no_list_of_templates_is_refused(tmp_path):
  path = tmp_path / "templates.yaml"
  with pytest.raises(InputError, match="no such file"):
    load_templates(path)
  with pytest.raises(InputError, match="is a directory"):
    load_templates(tmp_path)
  for text, complaint in (
    ("", "a list of templates"),
    ("name: A01", "a list of templates"),
    ("- [", "not valid YAML"),
    ("- name: first", "capital letter"),
  ):
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
      load_templates(path)
  with pytest.raises(InputError, match="Z01 is there more than once"):
    _load(tmp_path, GOOD, GOOD)


@pytest.mark.parametrize(
  "template", load_templates("package", "pairwise"), ids=lambda t: t.name
)
def test_wordings_are_true_of_every_user(template):
  words = set(re.findall(r"[a-z]+", template.text.lower()))
  persons = words & {"user", "customer", "shopper", "somebody", "buyer"}
  assert len(persons) <= 1, persons
  shows_preference = "preference" in words
  if shows_preference or template.response.holds_preference:
    # As preferences do: "The user likes strings."
    assert persons == {"user"}
  # A history may be of one item, and its oldest may be cut.
  if "history" in words:
    assert not words & {"everything", "all", "they", "them", "many"}
    assert not re.search(
      "in common|from first|these (products|purchases)", template.text
    )
  # A preference may be of late.
  assert "in general" not in template.text
