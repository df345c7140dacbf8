"""Tests for the steps of instructrec_jax/reproduction/reproduce.py."""

import collections
import dataclasses
import json
import shutil

import pytest

from instructrec_jax import storage
from instructrec_jax.cli import build
from instructrec_jax.cli import options as opt
from instructrec_jax.data.folder import INSTRUCTIONS_FILE, VOCABULARY_FILE
from instructrec_jax.evaluation.rankers import with_rankers
from instructrec_jax.instructions.scenarios import SCENARIOS, find_scenarios
from instructrec_jax.reproduction import report
from instructrec_jax.reproduction.reproduce import gin_files, run_steps

from .conftest import Recorder

CHAT = ("--chat-model", "gpt-9", "--chat-limit", "5")
CAPS = ("--max-usd", "3", "--prices", "1", "2")


def _options(step):
  """Returns a step's options, the last of each name."""
  return dict(zip(step.argv[2::2], step.argv[3::2], strict=False))


@pytest.fixture
def steps(settings):
  def steps(**change):
    recorder = Recorder()
    ranked = run_steps(recorder, dataclasses.replace(settings, **change))
    # What was left out is looked for by nobody.
    assert ranked.keys() <= recorder.steps.keys()
    return recorder.steps

  return steps


def test_every_scenario_is_in_one_experiment(settings):
  tables = settings.experiments
  found = collections.Counter(
    name
    for experiment in tables
    for name in (
      *(scenario.name for scenario in experiment.scenarios),
      *experiment.lacking,
    )
  )
  assert found == {scenario.name: 1 for scenario in SCENARIOS}
  titles = [experiment.title for experiment in tables]
  assert titles[:5] == [f"Table {number}" for number in range(6, 11)]


def test_a_chat_model_is_paid_in_one_step_and_its_answers_used_in_others(steps):
  assert not any("chat" in name for name in steps())
  found = steps(chat=CHAT, chat_caps=CAPS)
  paid = ["chat", "chat_unseen"]
  asked = [s for s in found.values() if "--chat-model" in s.argv]
  for step in asked:
    assert _options(step)["--rankers"].endswith(",chat")
    # Caps are of one command: elsewhere nothing may be sent.
    assert ("--max-usd" in step.argv) == (step.name in paid)
    assert ("--max-requests" in step.argv) == (step.name not in paid)
  names = [step.name for step in asked]
  # The paper has no GPT-3.5 among a hundred candidates.
  assert names == [
    "chat",
    *("table_6", "table_7", "table_8", "table_9"),
    "chat_unseen",
    "table_11",
  ]
  together = [
    _options(found[name])["--scenarios"]
    for name in ("table_6", "table_7", "table_8", "table_9")
  ]
  assert _options(found["chat"])["--scenarios"] == ",".join(together)


def test_another_model_has_a_row_where_all_are_ranked(steps, tmp_path):
  found = steps(rankers=(), zero_shot=tmp_path)
  for name, step in found.items():
    wanted = name.startswith(("table", "further"))
    assert ("--zero-shot" in step.argv) == wanted


def test_a_whole_catalogue_is_searched_not_scored(steps):
  rankers = _options(steps()["whole_catalogue"])["--rankers"].split(",")
  assert rankers == ["random", "popularity", "cooccurrence", "catalogue"]


@pytest.mark.parametrize(
  ("rankers", "without"),
  [
    ("all,catalogue,labels", ""),
    ("model", ""),
    # Of the further ones, the data has none that search or list candidates.
    (
      "tem",
      "table_6 table_9 table_11 further_scenarios whole_catalogue deciles",
    ),
    ("labels", "table_10 further_scenarios whole_catalogue"),
    ("zero_shot", "whole_catalogue"),
  ],
)
def test_each_step_has_rankers_for_its_scenarios(
  steps, tmp_path, rankers, without
):
  found = steps(rankers=tuple(rankers.split(",")), zero_shot=tmp_path)
  assert steps().keys() - found.keys() == set(without.split())
  for name, step in found.items():
    options = _options(step)
    if "--scenarios" in options:
      names = options["--rankers"].split(",")
      # As `evaluate` checks it.
      with_rankers(
        find_scenarios(options["--scenarios"].split(",")),
        [name for name in names if name != "all"],
      )
      assert all(names), name


def test_what_no_ranker_ranks_is_named(settings):
  settings = dataclasses.replace(settings, rankers=("tem",))
  table = settings.experiments[0]
  for section in (
    report.ranking_section(table, None, None),
    report.unseen_section(settings, None),
    report.behaviour_section(settings, None),
  ):
    assert not section.tables
    assert section.lacking[0].startswith("sequential: ")


def test_a_recipe_is_all_the_files_that_it_includes(root):
  files = gin_files(root / "gin" / "experiment" / "mini.gin")
  assert [file.name for file in files] == [
    "mini.gin",
    "mini.gin",
    "t5_1_1.gin",
    "train.gin",
  ]


def test_a_folder_without_a_vocabulary_is_built_to_learn_from_scratch(
  steps, settings, tmp_path
):
  assert _options(steps()["build"])["--vocab"]
  bare = tmp_path / "shop"
  shutil.copytree(settings.dataset, bare)
  (bare / VOCABULARY_FILE).unlink()
  words = steps(dataset=bare)["build"].argv[2:]
  parsed = opt.parse(opt.Parser(prog="build"), build.Options, words)
  assert (parsed.pieces, parsed.sequences, parsed.fold_case) == (
    "whole-titles",
    True,
    True,
  )


def test_sequences_are_trained_on_where_they_are_built(
  steps, settings, tmp_path
):
  def mixture(dataset):
    (bound,) = [
      word.partition("=")[2]
      for word in steps(dataset=dataset)["train"].argv
      if word.startswith("--gin.MIXTURE=")
    ]
    return json.loads(bound)

  assert mixture(settings.dataset) == "instructrec_all_v1"
  other = tmp_path / "shop"
  shutil.copytree(settings.dataset, other)
  built = storage.read_json(other / INSTRUCTIONS_FILE, dict)
  built["requests"]["sequences_test"] = {"rows": 9}
  storage.write_json(other / INSTRUCTIONS_FILE, built)
  parts = dict(part.split("=") for part in mixture(other).split(","))
  assert {"instructrec_sequences_v1", "instructrec_all_v1"} < parts.keys()
