from instructrec_jax.instructions.statistics import (
  instruction_statistics,
  table,
)
from instructrec_jax.instructions.templates import load_templates


def test_table_2_counts_templates_and_annotations(tmp_path):
  path = tmp_path / "mine.yaml"
  path.write_text(
    "- {name: A01, preferences: [P1], task_form: T2, response: item, "
    "text: 'Had these: {history}. What next?'}\n"
    "- {name: A02, preferences: [P1], optional: [P2], task_form: T2, "
    "response: item, text: 'Had: {history}. [[Likes: {preference}. ]]So?'}\n"
  )
  summary = {"preferences": 5, "intentions": 3, "words": {"all": 9.5}}
  found = instruction_statistics(load_templates(path), summary)
  assert found == {
    "annotations": 8,
    "preferences": 5,
    "intentions": 3,
    "annotation_words": 9.5,
    "templates": 2,
    "A": 2,
    # "Had these: . What next?" and "Had: . Likes: . So?"
    "template_words": 5.0,
  }
  lines = table(found).splitlines()
  assert lines[2] == "| # of fine-grained instructions | 8 | 252,730 |"
  assert "| - # of preferences related instructions | 2 | 17 |" in lines
