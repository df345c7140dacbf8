"""Tests for instructrec_jax/cli/quickstart.py: the whole pipeline, tiny."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.cli.quickstart import PLAIN, QUESTIONS, WISHES, shift
from instructrec_jax.data import prepare as prepare_module
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.synthetic import KINDS
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.teacher.kinds import kind_of, with_article

# Of `paraphrases.yaml`'s held-out ones and others: no training row has them.
WORDINGS = (
  "{it}",
  "{a} please",
  "I'd like {a}",
  "looking for {it}",
  "got any {many}?",
  "ready to purchase {a}",
)
DENIALS = ("{a}, not {not}", "I'd like {a}, not {not}.", "{it} -{not}")


# The first of them trains a model; a slow machine takes many minutes.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  out = tmp_path_factory.mktemp("quickstart") / "run"
  # All of its shoppers and steps: of fewer it learns less of what people say.
  # Steps take more than compiling, so that it is compiled as for users.
  flags = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
  subprocess.run(
    [
      *(sys.executable, "-m", "instructrec_jax.cli.main", "quickstart"),
      *("--out", out, "--test-users", "20"),
    ],
    env={k: v for k, v in os.environ.items() if k not in flags},
    check=True,
  )
  return out


def _refused(capsys, out, *arguments):
  """Returns what is said of a quickstart that is refused."""
  assert main(["quickstart", "--out", str(out), *arguments]) == 2
  return capsys.readouterr().err


def test_every_ranker_is_in_the_table(run):
  results = json.loads((run / "results" / "results.json").read_text())
  baselines = {"random", "popularity", "bm25", "tfidf", "cooccurrence", "svd"}
  baselines.add("bm25_categories")
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


def test_what_it_writes_stands_beside_the_teachers(run):
  results = json.loads((run / "written" / "results.json").read_text())
  figures = {
    (row["scenario"], row["writer"], row["metric"]): row["value"]
    for row in results["writing"]
  }
  # Queries name what is looked for as often as the teacher's do.
  found = [
    figures["query_writing_i1", name, "bm25_hr@10"]
    for name in ("teacher", "model")
  ]
  assert found[1] >= found[0] - 0.05
  assert figures["history_writing_p2", "model", "valid"] > 0.9
  rankers = {row["ranker"] for row in results["rows"]}
  assert rankers == {"popularity", "model", "unlisted", "reasoned"}
  page = (run / "report.html").read_text()
  for part in ("Reasoning first", "query_writing_i1: some of the texts"):
    assert part in page


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


@pytest.fixture(scope="module")
def recommender(run):
  return Recommender.load(run / "model", dataset=run / "shop")


@pytest.fixture(scope="module")
def histories(run):
  """A shopper's first purchases, for each kind another shopper."""
  folder = DatasetFolder.open(run / "shop")
  return [
    [folder.items[item].title for item in folder.sequences.user(user)[:4]]
    for user in range(len(KINDS))
  ]


def _said(wording: str, kind: str, **more: str) -> str:
  found = kind_of([kind])
  assert found is not None
  article = found.number == "count"
  said = {"it": found.noun, "many": found.plural}
  said["a"] = with_article(found.noun) if article else found.noun
  return wording.format_map(said | more)


def test_no_wording_of_the_tests_was_trained_on(run):
  trained = DatasetFolder.open(run / "shop").path / "instructrec"
  texts = b"".join(path.read_bytes() for path in trained.rglob("*_train*"))
  texts = texts or b"".join(
    p.read_bytes() for p in trained.rglob("*.tfrecord*")
  )
  assert b"a kayak" in texts
  for wording in WORDINGS:
    for kind in KINDS:
      said = _said(wording, kind)
      for quoted in (said, said.lower()):
        assert f'"{quoted}"'.encode() not in texts, quoted


@pytest.mark.parametrize("has_history", [False, True])
def test_what_is_asked_for_comes_first_of_the_whole_shop(
  recommender, histories, has_history
):
  """For all 16 kinds and six wordings that training has not seen."""
  first = 0
  for wording in WORDINGS:
    for kind, history in zip(KINDS, histories, strict=True):
      found = recommender.recommend(
        _said(wording, kind), history=history if has_history else [], k=1
      )
      first += kind in found.ranking[0].title.split()
  assert first >= 90


@pytest.mark.parametrize("has_history", [False, True])
def test_not_orange_moves_orange_down(recommender, histories, has_history):
  down = []
  for wording in DENIALS:
    for kind, history in zip(KINDS, histories, strict=True):
      shares = []
      for words in ("{a}", wording):
        found = recommender.recommend(
          _said(words, kind, **{"not": "orange"}),
          history=history if has_history else [],
          k=len(recommender.titles),
        )
        own = [r for r in found.ranking if kind in r.title.split()]
        orange = sum(r.probability for r in own if "Orange" in r.title)
        shares.append(orange / sum(r.probability for r in own))
      down.append(shares[1] < shares[0] and "Orange" not in own[0].title)
  assert sum(down) >= 0.9 * len(down)


def test_what_people_type_is_answered_and_kept(run):
  wishes = json.loads((run / "wishes.json").read_text())
  assert [wish["query"] for wish in wishes[::2]] == [*PLAIN]
  assert all(len(wish["titles"]) == 3 for wish in wishes)
  assert all(not wish["history"] for wish in wishes[::2])
  assert all(wish["history"] for wish in wishes[1::2])


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
