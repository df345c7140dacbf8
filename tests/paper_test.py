"""Tests for instructrec_jax/paper.py."""

import pathlib
import re

import pytest

from instructrec_jax import paper
from instructrec_jax.instructions.scenarios import SCENARIOS
from instructrec_jax.reproduction.report import paper_contradictions
from instructrec_jax.teacher import review


def test_every_printed_table_is_transcribed_and_maps_to_a_scenario():
  tables = {block["table"] for block in paper.results()["rankings"]}
  assert tables == {f"Table {number}" for number in range(6, 12)}
  by_name = {scenario.name: scenario for scenario in SCENARIOS}
  for block in paper.results()["rankings"]:
    scenario = by_name[block["scenario"]]
    if block["table"] != "Table 11":
      assert scenario.table == block["table"]
    assert set(paper.results()["metrics"]) <= set(scenario.metrics)


def test_the_numbers_are_those_of_the_papers_text(shared):
  """Each row of ours stands in the paper, figure by figure."""
  path = pathlib.Path(shared) / "paper" / "instructrec.md"
  if not path.exists():
    pytest.skip("the paper's text is absent")
  text = re.sub(r"</?b>", "", path.read_text(encoding="utf-8"))
  for block in paper.results()["rankings"]:
    for values in block["rows"].values():
      assert "\t".join(f"{value:.4f}" for value in values) in text
  for number in ("252,730", "151,638", "101,092", "23.5", "41.4"):
    assert number in text


def test_table_3_answers_the_questions_of_the_review():
  for kind, shares in paper.results()["quality"].items():
    assert kind in review.PAPER
    assert list(shares) == list(review.QUESTIONS)


def test_the_two_impossible_rows_are_found():
  first, second = paper_contradictions()
  assert first.startswith("Table 7, personalised_i1, chat: HR@5")
  assert second.startswith("Table 8, product_search_i2, chat: NDCG@5")


def test_the_papers_own_dataset_is_known_by_its_counts():
  games = paper.results()["datasets"]["games"]
  assert paper.same_dataset(games) == "games"
  assert paper.same_dataset({**games, "users": 1}) is None
