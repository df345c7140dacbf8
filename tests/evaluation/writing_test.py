"""Tests for instructrec_jax/evaluation/writing.py: what the figures say."""

import html
import json
import shutil

import numpy as np
import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import evaluate as evaluate_lib
from instructrec_jax.evaluation import writing
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.writing import Tasks, evaluate_writing
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.rows import (
  Renderer,
  group_families,
  instruction_rows,
)
from instructrec_jax.instructions.scenarios import WRITING, find_writing
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.teacher.annotations import Annotations
from instructrec_jax.text.vocabulary import Vocabulary

TASKS = {task.name: task for task in WRITING}


class Said:
  """Writes what a function makes of the teacher's text, and finds all."""

  def __init__(self, folder, change):
    tasks = Tasks(folder, split="test")
    # Of a task: what asks for a vague query asks for a specific one, too.
    self._texts = {
      tuple(each.instruction for each in asked): [
        change(each.text) for each in asked
      ]
      for task in WRITING
      for asked in [tasks.asked(task, limit=None)]
    }

  def write(self, instructions, max_tokens):
    return self._texts[tuple(instructions)]

  def finds(self, instructions, titles, items):
    return np.ones(len(items))


@pytest.fixture(scope="module")
def folder(built):
  return DatasetFolder.open(built)


def figures(folder, change, tasks=WRITING):
  source = Tasks(folder, split="test")
  rows, _ = evaluate_writing(
    source.find(tasks, limit=None),
    {"model": Said(folder, change)},
    source,
    resamples=50,
  )
  return {
    (row["scenario"], row["writer"], row["metric"]): row["value"]
    for row in rows
  }


def test_the_teachers_own_texts_are_as_good_as_the_teacher(folder):
  found = figures(folder, lambda text: text)
  for task in WRITING:
    assert found[task.name, "model", "rouge_l"] == pytest.approx(1)
    assert found[task.name, "model", "bleu"] == pytest.approx(1)
    for metric in ("bm25_hr@10", "valid", "bought", "copied", "distinct_2"):
      for_both = [
        found.get((task.name, name, metric)) for name in ("teacher", "model")
      ]
      assert for_both[0] == for_both[1]
  for name in ("history_writing_i1", "history_writing_p2"):
    assert found[name, "teacher", "valid"] == 1
    assert found[name, "teacher", "bought"] == 1
  # A query of the teacher's is of the target's kind.
  assert found["query_writing_i2", "teacher", "bm25_hr@10"] > 0.2


@pytest.mark.parametrize("nothing", ["", " ;", ",:"])
def test_texts_that_say_nothing_have_nothing(folder, nothing):
  found = figures(folder, lambda text: nothing)
  own = [value for (_, name, _), value in found.items() if name == "model"]
  # What has no words ties with all of the catalogue.
  assert max(own) <= 10 / len(folder.items) + 1e-9
  assert min(own) == 0


def test_a_title_of_no_shop_is_not_valid_and_anothers_is_not_bought(folder):
  task = TASKS["history_writing_p2"]

  def share(metric, more):
    found = figures(folder, lambda text: f"{text}; {more}", [task])
    return found[task.name, "model", metric]

  assert share("valid", "Zork Spoon Blue") == share("bought", "Zork Spoon Blue")
  assert 0.4 < share("valid", "Zork Spoon Blue") < 1
  title = folder.items[0].title
  assert share("valid", title) == 1 and 0.4 < share("bought", title) < 1


@pytest.mark.parametrize(
  ("text", "instruction", "share"),
  [
    ("a b c d", "x a b c y", 0.5),
    ("A, b", "the a B", 1),
    ("a b", "b a", 0),
    ("", "a", 0),
    ("палатка", "одна палатка", 1),
  ],
)
def test_copied_is_the_share_of_trigrams_that_were_shown(
  text, instruction, share
):
  assert writing.copied(text, instruction) == share


def test_overlap_and_variety_are_by_definition():
  # The longest common subsequence is "a c": P = 2/2, R = 2/3.
  assert writing.rouge_l(["a b c"], ["A c"]) == pytest.approx(0.8)
  assert writing.rouge_l(["большая палатка"], ["палатка"]) == pytest.approx(
    2 / 3
  )
  assert writing.distinct(["a b a", "a b"], 1) == 2 / 5
  assert writing.distinct(["a b a", "a b"], 2) == 2 / 3
  # All n-grams are the teacher's; half as many words cost exp(1 - 8 / 4).
  (short, *_) = writing.bleu(["a b c d e f g h"], ["A b c d"])
  assert short == pytest.approx(np.exp(-1))
  teachers = ["a b c d e f", "g h i j k l"] * 10
  value, low, high = writing.bleu(teachers, ["a b c d x f", "G h i j k"] * 10)
  assert 0 < low < value < high < 1


def test_what_is_asked_is_what_is_trained_on(folder):
  """Instructions are those of the rows that `build` writes."""
  tasks = Tasks(folder, split="test")
  words = Vocabulary.load(folder.vocabulary_path)
  material = Material(folder, annotations=Annotations.load(folder))
  families = group_families(load_templates())
  for name, template in (
    ("preference_writing", "A14"),
    ("query_writing_i1", "B05"),
  ):
    task = TASKS[name]
    rows = instruction_rows(
      material,
      Renderer(count_tokens=words.count_tokens, budget=512, answer_budget=64),
      facts=material.facts("test"),
      families={task.family: families[task.family]},
      seed=0,
    )
    rows = [row for row in rows if row.form.startswith(template)]
    asked = tasks.asked(task, limit=10**6)
    assert rows and {r.inputs for r in rows} <= {a.instruction for a in asked}
    counts = json.loads((folder.path / "instructions.json").read_text())["rows"]
    assert tasks.trained(task) == sum(
      counts[f"{form.name}_train"] for form in families[task.family]
    )
  of_queries = tasks.asked(TASKS["query_writing_i1"], limit=10**6)
  pairs = {(each.instruction, each.text) for each in of_queries}
  assert {(row.inputs, row.targets) for row in rows} <= pairs


def test_a_query_searches_by_the_words_of_its_kind_without_a_history(folder):
  tasks = Tasks(folder, split="test")
  families = group_families(load_templates())
  for name, family in (
    ("query_writing_p1_i1", "p0_i1_t2"),
    ("query_writing_i2", "p0_i2_t2"),
  ):
    texts = [
      form.template.text.format(query="a tent") for form in families[family]
    ]
    (search,) = tasks.searches(TASKS[name], ["a tent"]) or [""]
    assert search in texts
  assert tasks.searches(TASKS["preference_writing"], ["a tent"]) is None


def test_a_model_writes_and_searches(built, tiny_model, tmp_path):
  out = tmp_path / "out"
  arguments = ["--dataset", built, "--model", tiny_model, "--out", out]
  arguments += ["--scenarios", "writing,sequential", "--limit", "8"]
  arguments += ["--rankers", "popularity,model", "--resamples", "20"]
  assert main(["evaluate", *map(str, arguments)]) == 0
  results = json.loads((out / "results.json").read_text())
  assert {row["scenario"] for row in results["writing"]} == {*TASKS}
  assert [s["name"] for s in results["scenarios"]] == ["sequential"]
  of_queries = [
    row for row in results["writing"] if row["metric"] == "model_hr@10"
  ]
  assert {row["writer"] for row in of_queries} == {"teacher", "model"}
  assert all(0 <= row["value"] <= 1 for row in results["writing"])
  assert all(
    {*each["texts"]} == {"teacher", "model"} for each in results["written"]
  )
  assert "### query_writing_i1: 8 texts" in (out / "results.md").read_text()
  page = html.unescape((out / "report.html").read_text())
  assert "query_writing_i1: some of the texts" in page
  for name in TASKS:
    of_task = [r for r in results["written"] if r["scenario"] == name]
    assert len(of_task) == 8
    assert all(each["texts"]["teacher"] in page for each in of_task[:5])


def test_a_model_that_only_writes_ranks_nothing(
  built, tiny_model, tmp_path, monkeypatch
):
  """Whatever --rankers says, even another tool's run."""
  monkeypatch.setattr(evaluate_lib, "load_ranker", None)
  run = tmp_path / "other.run"
  run.write_text("sequential_test_0 Q0 i0 1 1.0 other\n")
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=tmp_path / "out",
    scenarios=["history_writing_p2"],
    rankers=["popularity", str(run)],
    limit=2,
    resamples=20,
  )
  assert not results["rows"] and {r["writer"] for r in results["writing"]} == {
    *("teacher", "model")
  }
  assert "history_writing_p2" in (tmp_path / "out/report.html").read_text()


def test_the_price_of_a_chat_is_of_what_is_ranked(built, capsys):
  arguments = ["evaluate", "--dataset", str(built)]
  arguments += ["--chat-model", "gpt-4o-mini"]
  arguments += ["--rankers", "chat", "--scenarios"]
  assert main([*arguments, "writing", "--dry-run"]) == 2
  assert "a chat model ranks" in capsys.readouterr().err
  # It writes nothing, so it needs no place.
  assert main([*arguments, "sequential,writing", "--dry-run"]) == 0
  assert main([*arguments, "sequential"]) == 2
  assert "--out is missing" in capsys.readouterr().err


def test_bad_input_is_one_sentence(built, tiny_model, tmp_path):
  with pytest.raises(InputError, match="add --model"):
    evaluate(dataset=built, out=None, scenarios=["query_writing_i1"])
  unbuilt = tmp_path / "unbuilt"
  shutil.copytree(built, unbuilt)
  (unbuilt / "instructions.json").unlink()
  with pytest.raises(InputError, match="instructrec build"):
    evaluate(dataset=unbuilt, model=tiny_model, out=None, scenarios=["writing"])
  assert find_writing(["query_writing_i2", "sequential"]) == (
    [TASKS["query_writing_i2"]],
    ["sequential"],
  )
