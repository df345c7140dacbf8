import pytest
import yaml

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.text.vocabulary import UNK_ID, Vocabulary

# The appendix's numbers and aspects; its T1 of A11 and A12 is T0 (both judge a
# single item).
APPENDIX = {
  "A01": "<P1,I0,T2>",
  "A04": "<P1,(P2),I0,T2>",
  "A05": "<P1,(P2),I0,T2>",
  "A06": "<P1,(P2),I0,T2>",
  "A07": "<P1,(P2),I0,T3>",
  "A08": "<P1,(P2),I0,T3>",
  "A09": "<P1,(P2),I0,T3>",
  "A10": "<P1,(P2),I0,T3>",
  "A11": "<P1,(P2),I0,T0>",
  "A12": "<P1,(P2),I0,T0>",
  "A13": "<P1,(P2),I0,T3>",
}

GOOD = {
  "name": "Z01",
  "preferences": ["P1"],
  "optional": ["P2"],
  "intention": "I0",
  "task_form": "T3",
  "response": "item",
  "text": "Had: {history}. [[Likes: {preference}. ]]Choose: {candidates}.",
}


def _load(tmp_path, *entries):
  path = tmp_path / "templates.yaml"
  path.write_text(yaml.safe_dump(list(entries)))
  return load_templates(path)


def test_the_packages_templates_have_the_appendix_aspects():
  found = {t.name: t.aspects.label for t in load_templates()}
  assert found == APPENDIX


def test_own_words_have_pieces_in_t5s_vocabulary(shared):
  vocabulary = Vocabulary.load(shared / "vocab" / "t5" / "spiece.model")
  for template in load_templates():
    for literal in template.with_preference[::2]:
      assert UNK_ID not in vocabulary.encode_one(literal), template.name


def test_without_preference_leaves_the_optional_part_out(tmp_path):
  (template,) = _load(tmp_path, GOOD)
  assert template.without_preference == (
    "Had: ",
    "history",
    ". Choose: ",
    "candidates",
    ".",
  )
  assert "preference" in template.with_preference


@pytest.mark.parametrize(
  "change",
  [
    # A search by category (family B), and a required preference (A02).
    {
      "preferences": ["P0"],
      "optional": [],
      "intention": "I2",
      "text": "Search: {intention}. Choose: {candidates}.",
    },
    {
      "preferences": ["P1", "P2"],
      "optional": [],
      "text": "Had: {history}. Likes: {preference}. Choose: {candidates}.",
    },
  ],
)
def test_the_format_holds_the_other_families(tmp_path, change):
  (template,) = _load(tmp_path, {**GOOD, **change})
  assert template.without_preference == template.with_preference


@pytest.mark.parametrize(
  ("change", "complaint"),
  [
    ({"text": "Had: {history}. Choose: {candidates}."}, "lacks {preference}"),
    ({"text": "[[{preference}. ]]Choose: {candidates}."}, "lacks {history}"),
    (
      {"text": "[[{preference}: {history}. ]]Choose: {candidates}."},
      "lacks {history}",
    ),
    ({"text": GOOD["text"] + " {price}."}, "no slot {price}"),
    ({"text": GOOD["text"] + " {candidate}."}, "must not have {candidate}"),
    ({"text": GOOD["text"].replace("[[", "").replace("]]", "")}, "brackets"),
    ({"text": GOOD["text"] + " [[more"}, "no '['"),
    ({"text": GOOD["text"] + " <b>"}, "no '<'"),
    ({"text": GOOD["text"] + " {history"}, "no '{'"),
    ({"text": GOOD["text"] + " a\nb"}, "no '\\n'"),
    ({"text": GOOD["text"] + " a  b"}, "doubled"),
    ({"text": GOOD["text"] + "."}, "doubled"),
    ({"preferences": ["P9"]}, "'P9' is not a valid Preference"),
    ({"preferences": ["P0", "P1"]}, "preferences are"),
    ({"preferences": []}, "preferences are"),
    ({"optional": ["P1"]}, "preferences are"),
    ({"intention": "I1"}, "lacks {intention}"),
    ({"task_form": "T7"}, "'T7' is not a valid TaskForm"),
    ({"strategy": "magic"}, "'magic' is not a valid Strategy"),
    ({"response": "number"}, "one of item, yes_no"),
    ({"response": "yes_no"}, "T0"),
    ({"colour": "red"}, "no field 'colour'"),
  ],
)
def test_a_wrong_template_is_refused_by_name(tmp_path, change, complaint):
  with pytest.raises(InputError, match="Z01") as error:
    _load(tmp_path, {**GOOD, **change})
  assert complaint in str(error.value)


def test_a_missing_field_is_named(tmp_path):
  without = {name: value for name, value in GOOD.items() if name != "response"}
  with pytest.raises(InputError, match="Z01: the field 'response' is missing"):
    _load(tmp_path, without)


def test_what_is_no_list_of_templates_is_refused(tmp_path):
  path = tmp_path / "templates.yaml"
  with pytest.raises(InputError, match="no such file"):
    load_templates(path)
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
