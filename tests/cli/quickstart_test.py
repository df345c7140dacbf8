"""Tests for instructrec_jax/cli/quickstart.py: the whole pipeline, tiny."""

import itertools
import json
import shutil

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.cli.quickstart import QUESTIONS, WISHES, shift
from instructrec_jax.data import prepare as prepare_module
from instructrec_jax.scoring.reranker import T5Ranker


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  out = tmp_path_factory.mktemp("quickstart") / "run"
  # So many steps as it takes to learn what a wish is.
  arguments = ["--users", "300", "--steps", "250", "--test-users", "20"]
  assert main(["quickstart", "--out", str(out), *arguments]) == 0
  return out


def _refused(capsys, out, *arguments):
  """Returns what is said of a quickstart that is refused."""
  assert main(["quickstart", "--out", str(out), *arguments]) == 2
  return capsys.readouterr().err


def test_every_ranker_is_in_the_table(run):
  results = json.loads((run / "results" / "results.json").read_text())
  baselines = {"random", "popularity", "bm25", "tfidf", "cooccurrence", "svd"}
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


def test_the_report_shows_table_curves_and_examples(run):
  page = (run / "report.html").read_text()
  for part in ("planted", "validation HR@1", "Example 3", "true answer"):
    assert part in page


def test_what_is_asked_for_moves_the_ranking_that_way(run):
  answers = json.loads((run / "answers.json").read_text())
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
  ranker = T5Ranker.load(run / "model", step="best")
  assert ranker.score([]) == []


def test_an_existing_folder_is_kept(run, capsys):
  assert "exists already" in _refused(capsys, run)
  assert (run / "report.html").exists()


class Begun(Exception):
  """What the tests end a quickstart with, once it makes something."""


@pytest.fixture
def begin(monkeypatch):
  def prepare(**_):
    raise Begun

  monkeypatch.setattr(prepare_module, "prepare", prepare)


@pytest.mark.parametrize(
  ("numbers", "says"),
  [
    (("--users", "60"), "--users is 60: at least 200"),
    (("--steps", "0"), "--steps is 0"),
    (("--test-users", "0"), "--test-users is 0"),
    (("--seed", "-1"), "--seed is -1"),
  ],
)
def test_numbers_are_checked_before_anything_is_replaced(
  run, begin, numbers, says, capsys
):
  assert says in _refused(capsys, run, "--force", *numbers)
  assert (run / "report.html").exists()


@pytest.mark.parametrize(
  "others",
  [
    ["thesis.txt"],
    # A model, and a shop of somebody's own.
    ["model/model.json"],
    ["shop/manifest.json", "model/model.json"],
    ["shop/planted.json", "thesis.txt"],
  ],
)
def test_force_does_not_replace_something_else(tmp_path, begin, others, capsys):
  for name in others:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
  said = _refused(capsys, tmp_path, "--force")
  assert "something else than quickstart makes" in said
  assert all((tmp_path / name).exists() for name in others)


@pytest.mark.parametrize(
  "left",
  [[], [".shop.partial"], ["shop/planted.json", ".answers.partial.json"]],
)
def test_force_replaces_what_a_killed_quickstart_left(tmp_path, begin, left):
  for name in left:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
  with pytest.raises(Begun):
    main(["quickstart", "--out", str(tmp_path), "--force"])
  assert not list(tmp_path.iterdir())


def test_force_replaces_what_quickstart_has_made(run, begin, tmp_path):
  copied = shutil.copytree(run, tmp_path / "copy")
  with pytest.raises(Begun):
    main(["quickstart", "--out", str(copied), "--force"])
  assert not list(copied.iterdir())
