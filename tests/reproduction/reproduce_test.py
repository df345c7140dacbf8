"""Tests for instructrec_jax/reproduction: the whole of it, tiny."""

import csv
import dataclasses
import json
import re

import pytest

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.reproduction import report
from instructrec_jax.reproduction.reproduce import reproduce, run_steps
from instructrec_jax.text.vocabulary import train_vocabulary

from .conftest import Recorder

# Steps that read no model.
_OF_DATA = ("annotate", "statistics", "quality_sheet")


class Stop(Exception):
  """What the tests end a run with."""


def _refuse(argv, **_):
  raise Stop(" ".join(argv))


@pytest.fixture
def table(reproduced):
  with (reproduced.out / "tables.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_every_table_is_there_and_what_it_lacks_is_named(reproduced):
  text = (reproduced.out / "report.md").read_text()
  titles = re.findall(r"^## ([^:]+)", text, re.MULTILINE)
  tables = [f"Table {number}" for number in (2, 3, *range(5, 12))]
  assert titles[: len(tables) + 1] == [*tables, "Figure 3"]
  lacking = reproduced.manifest["lacking"]
  assert set(lacking) == {"Table 3", "further scenarios", "whole catalogue"}
  assert "fill" in lacking["Table 3"][0]
  # Their families were not built.
  *families, _ = lacking["further scenarios"]
  assert all("no template" in reason for reason in families)


def test_every_ranker_is_in_every_table_on_the_same_candidates(table):
  for name in ("Table 6", "Table 7", "Table 8", "Table 9", "Table 10"):
    rows = [row for row in table if row["table"] == name]
    assert {row["ranker"] for row in rows} == {
      "random",
      "popularity",
      "cooccurrence",
      "model",
    }
    by_scenario = {(r["scenario"], r["candidates_sha256"]) for r in rows}
    assert len(by_scenario) == (3 if name == "Table 7" else 1)


def test_each_number_traces_to_a_command_and_what_it_read(reproduced, table):
  steps = reproduced.manifest["steps"]
  for row in table:
    step = steps[row["step"]]
    assert step["state"] == "finished"
    assert step["command"].startswith("instructrec ")
    assert set(step["code"]) == {"commit", "changed"}
    ((path, sha256),) = step["outputs"].items()
    assert storage.sha256_of(path) == sha256
  for row in (row for row in table if row["ranker"]):
    results = storage.read_json(
      reproduced.out / "results" / row["step"] / "results.json"
    )
    behind = row["metric"].startswith("end_to_end_")
    same = [
      entry["value"]
      for entry in results["end_to_end" if behind else "rows"]
      if entry["scenario"] == row["scenario"]
      and entry["ranker"] == row["ranker"]
      and entry["metric"] == row["metric"].removeprefix("end_to_end_")
    ]
    assert same == [float(row["value"])]
  manifest = storage.read_json(reproduced.out / "manifest.json")
  assert manifest == json.loads(json.dumps(reproduced.manifest))
  assert manifest["libraries"]["jax"]
  assert manifest["data"][str(reproduced.settings.dataset / "manifest.json")]
  for name, sha256 in manifest["written"].items():
    assert storage.sha256_of(reproduced.out / name) == sha256


def test_the_model_is_asked_in_the_words_that_validation_chose(reproduced):
  (ours,) = [
    command
    for command in reproduced.execute.ran
    if "evaluate" in command and "results/table_6" in command
  ]
  assert "--select-template" in ours
  results = storage.read_json(reproduced.out / "results/table_6/results.json")
  assert results["templates"]


def test_where_no_list_is_shown_there_is_no_place_in_it(reproduced):
  results = storage.read_json(reproduced.out / "results/table_6/results.json")
  section = report.behaviour_section(reproduced, results | {"positions": []})
  assert [table.title[:27] for table in section.tables] == [
    "by the target's popularity,"
  ]
  assert "without a list" in section.lacking[0]


def test_a_verdict_on_another_dataset_names_it(reproduced):
  page = (reproduced.out / "report.html").read_text()
  assert "sequential on other, where it was not trained: the model" in page
  assert "<p>sequential: the model" in page


def test_the_papers_numbers_stand_beside_ours(reproduced, table):
  text = re.sub(" +", " ", (reproduced.out / "report.md").read_text())
  assert "InstructRec (paper, Games) | .6947" in text
  assert "Flan-T5-XL (paper, CDs) | .0927" in text
  (row,) = [
    row
    for row in table
    if (row["table"], row["ranker"], row["metric"])
    == ("Table 6", "model", "ndcg@5")
  ]
  assert (row["paper"], row["paper_dataset"]) == ("0.8295", "games")


def test_the_report_is_one_page_with_plots(reproduced):
  page = (reproduced.out / "report.html").read_text()
  for label in (
    "held out: personalised_i1 by rung",
    "HR@1 by place in the prompt",
    "HR@1 by decile of popularity",
    "loss over training steps",
  ):
    assert f'aria-label="{label}"' in page
  assert not re.search(r"<(script|link|img)|url\((?!#)", page)


def test_deciles_are_of_table_6s_requests(reproduced, table):
  deciles = storage.read_json(reproduced.out / "deciles.json")
  for entry in deciles:
    groups = entry["by_decile"]
    count = sum(group["requests"] for group in groups)
    assert count == reproduced.settings.limit
    mean = sum(group["value"] * group["requests"] for group in groups) / count
    (row,) = [
      row
      for row in table
      if (row["table"], row["ranker"], row["metric"])
      == ("Table 6", entry["ranker"], "hr@1")
    ]
    assert mean == pytest.approx(float(row["value"]))


def test_nothing_is_run_twice(reproduced):
  before = (reproduced.out / "tables.csv").read_bytes()
  reproduce(reproduced.settings, execute=_refuse)
  assert (reproduced.out / "tables.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["table_8", "ladder_2_train"])
def test_a_step_that_was_killed_is_done_again_alone(reproduced, name):
  before = (reproduced.out / "tables.csv").read_bytes()
  path = reproduced.out / "steps" / f"{name}.json"
  record = storage.read_json(path)
  kept = ("key", "argv", "command", "attempts", "title")
  # What is on disk while it is at work.
  storage.write_json(
    path, {"state": "started", **{key: record[key] for key in kept}}
  )
  execute = type(reproduced.execute)()
  manifest = reproduce(reproduced.settings, execute=execute)
  assert execute.ran == [" ".join(record["argv"])]
  assert manifest["steps"][name]["attempts"] == record["attempts"] + 1
  assert (reproduced.out / "tables.csv").read_bytes() == before


@pytest.mark.parametrize(
  ("change", "kept"),
  [
    ({"ladder_steps": 3}, lambda name: not name.startswith("ladder")),
    (
      {"limit": 11},
      lambda name: name in _OF_DATA or "train" in name or "build" in name,
    ),
    (
      {"rankers": ("random", "model")},
      lambda name: (
        name in (*_OF_DATA, "build", "build_unseen", "train")
        or "ladder" in name
      ),
    ),
    ({"seed": 1}, lambda name: name in ("annotate", "statistics")),
  ],
)
def test_an_option_changes_the_steps_that_it_decides(reproduced, change, kept):
  before, after = (
    _keys(dataclasses.replace(reproduced.settings, **options))
    for options in ({}, change)
  )
  changed = {name for name in before if before[name] != after[name]}
  assert changed == {name for name in before if not kept(name)}


def _keys(settings):
  recorder = Recorder()
  run_steps(recorder, settings)
  return {name: step.key for name, step in recorder.steps.items()}


def test_a_step_that_fails_is_told_in_a_sentence(reproduced, tmp_path):
  def fail(argv, *, stdout, log, tick):
    log.write_text("lots of output\ninstructrec statistics: no such thing.\n")
    return 2

  settings = dataclasses.replace(reproduced.settings, out=tmp_path / "out")
  with pytest.raises(InputError, match="statistics failed: .*no such thing"):
    reproduce(settings, execute=fail)


def test_people_fill_table_3(reproduced):
  sheet = reproduced.out / "quality_sheet.csv"
  empty = sheet.read_text()
  with sheet.open(newline="") as file:
    heads, *lines = csv.reader(file)
  with sheet.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(heads)
    writer.writerows([*line[:6], "yes", "no", "yes", ""] for line in lines)
  try:
    manifest = reproduce(reproduced.settings, execute=_refuse)
    text = (reproduced.out / "report.md").read_text()
  finally:
    sheet.write_text(empty)
  reproduce(reproduced.settings, execute=_refuse)
  assert "Table 3" not in manifest["lacking"]
  assert re.search(r"based on the information.* 100% \[9.%, 100%\]", text)


def test_the_folder_of_something_else_is_left_alone(reproduced, tmp_path):
  (tmp_path / "mine.txt").write_text("mine")
  settings = dataclasses.replace(reproduced.settings, out=tmp_path)
  with pytest.raises(InputError, match="not of `instructrec reproduce`"):
    reproduce(settings, execute=_refuse)
  assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_results_of_an_earlier_version_are_named(reproduced, monkeypatch):
  def old(out, step):
    raise KeyError("p_holm")

  monkeypatch.setattr(report, "_read_results", old)
  with pytest.raises(InputError, match="lack 'p_holm': pass --force"):
    reproduce(reproduced.settings, execute=_refuse)


def test_a_folder_of_another_vocabulary_is_refused(reproduced, tmp_path):
  other = tmp_path / "vocabulary.model"
  train_vocabulary(["tent stove lantern rope"] * 9, other, size=30)
  settings = dataclasses.replace(reproduced.settings, vocabulary=other)
  with pytest.raises(InputError, match="built with another vocabulary than"):
    settings.check()
  own = settings.dataset / "vocabulary.model"
  dataclasses.replace(settings, vocabulary=own).check()
