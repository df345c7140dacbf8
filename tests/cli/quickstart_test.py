"""Tests for instructrec_jax/cli/quickstart.py: the whole pipeline, tiny."""

import itertools
import json

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.cli.questions import QUESTIONS, WISHES, shift
from instructrec_jax.cli.quickstart import quickstart
from instructrec_jax.errors import InputError
from instructrec_jax.scoring.reranker import T5Ranker


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  out = tmp_path_factory.mktemp("quickstart") / "run"
  # So many steps as it takes to learn what a wish is.
  results = quickstart(out=out, users=300, steps=150, test_users=20)
  return out, results


def test_every_ranker_is_in_the_table(run):
  out, results = run
  baselines = {"random", "popularity", "bm25", "tfidf", "cooccurrence"}
  for scenario, others in (
    ("sequential", {"model", "planted"}),
    # With a query, what the shop's rules say of the history is no ceiling.
    ("personalised_i2", {"model"}),
  ):
    rankers = {
      row["ranker"] for row in results["rows"] if row["scenario"] == scenario
    }
    assert rankers == baselines | others
  assert all(row["n"] == 20 for row in results["rows"])
  stored = (out / "results" / "results.json").read_text()
  assert json.loads(stored) == json.loads(json.dumps(results))


def test_the_report_shows_table_curves_and_examples(run):
  out, _ = run
  page = (out / "report.html").read_text()
  for part in ("planted", "validation HR@1", "Example 3", "true answer"):
    assert part in page


def test_what_is_asked_for_moves_the_ranking_that_way(run):
  out, _ = run
  answers = json.loads((out / "answers.json").read_text())
  kinds = [(answer["kind"], answer["wish"]) for answer in answers]
  assert kinds == list(itertools.product(QUESTIONS, WISHES))
  aspects = {answer["kind"]: answer["aspects"] for answer in answers}
  assert aspects == {
    "preference": "<P1,P2,I0,T3>",
    "vague": "<P1,I1,T3>",
    "specific": "<P1,I2,T3>",
  }
  for kind in QUESTIONS:
    assert shift(answers, kind) > 0.5, kind
  for answer in answers:
    assert answer["query"].rstrip(".")[-5:] in answer["instruction"]
    if answer["kind"] == "specific":
      first = answer["documents"][answer["results"][0]["index"]]
      assert answer["wish"] in first.split()


def test_the_model_can_be_loaded_and_scores(run):
  out, _ = run
  ranker = T5Ranker.load(out / "model", step="best")
  assert ranker.score([]) == []


def test_an_existing_folder_is_kept(run, capsys):
  out, _ = run
  with pytest.raises(InputError, match="exists already"):
    quickstart(out=out)
  assert main(["quickstart", "--out", str(out)]) == 2
  assert (out / "report.html").exists()
