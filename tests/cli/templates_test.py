"""`instructrec templates`, as one would type it."""

import collections
import json

import pytest

from instructrec_jax.cli.main import main

GOOD = """
- name: Z01
  preferences: [P1]
  task_form: T2
  response: item
  text: "Had: {history}. And next?"
"""


def test_people_see_aspects_an_example_and_its_answer(capsys):
  assert main(["templates"]) == 0
  text = capsys.readouterr().out
  assert "\nA13  <P1,(P2),I0,T3>  plain, answers item\n" in text
  assert "The user prefers" in text.split("\nA13")[1].split("\nA14")[0]
  assert "39 templates (17 A, 9 B, 13 C) in 93 forms." in text


def test_programs_get_json_alone(capsys):
  assert main(["templates", "--json"]) == 0
  entries = json.loads(capsys.readouterr().out)
  groups = collections.Counter(entry["group"] for entry in entries)
  assert groups == {"A": 17, "B": 9, "C": 13}
  assert all(entry["example"] and entry["target"] for entry in entries)
  assert sum(len(entry["forms"]) for entry in entries) == 93


def test_the_page_in_docs_is_what_the_command_prints(root, capsys):
  assert main(["templates", "--markdown"]) == 0
  page = (root / "docs" / "templates.md").read_text(encoding="utf-8")
  assert page == capsys.readouterr().out, (
    "run `instructrec templates --markdown > docs/templates.md`"
  )


def test_files_extend_the_packages_templates(tmp_path, capsys):
  path = tmp_path / "mine.yaml"
  path.write_text(GOOD + GOOD.replace("Z01", "A01"))
  command = ["templates", "--json", "--file", "pairwise", str(path)]
  assert main(command) == 0
  entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
  assert len(entries) == 39 + 3 + 1
  assert entries["A01"]["example"].startswith("Had: Resident Evil 4; ")


@pytest.mark.parametrize(
  ("text", "says"),
  [
    (GOOD.replace("history", "past"), "template Z01: there is no slot {past}"),
    (GOOD.replace("[P1]", "[P3]"), "template Z01: preferences has 'P3'"),
    (GOOD.replace("next?", "<next>"), "template Z01: T5's vocabulary has no"),
    (GOOD.replace("response: item", ""), "template Z01: the field 'response'"),
    (GOOD + GOOD, "template Z01 is there more than once"),
    ("- name: [Z01", "not valid YAML"),
  ],
)
def test_a_broken_file_is_one_sentence_and_2(text, says, tmp_path, capsys):
  path = tmp_path / "broken.yaml"
  path.write_text(text)
  assert main(["templates", "--file", str(path)]) == 2
  printed = capsys.readouterr()
  (line,) = printed.err.strip().splitlines()
  assert says in line and str(path) in line
  assert not printed.out
