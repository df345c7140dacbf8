"""Tests for instructrec_jax/evaluation/{selection,requests}.py."""

import dataclasses
import shutil

import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.requests import TemplateForms, find_requests
from instructrec_jax.instructions.scenarios import SCENARIOS, find_scenarios
from instructrec_jax.requests import read_requests, write_requests
from instructrec_jax.seqio_bridge.build import Options, build

from .conftest import FakeModel, pick, value


@pytest.fixture(scope="module")
def forms(built):
  return TemplateForms(DatasetFolder.open(built))


def read(forms, scenario, form, *, split="test", limit=None):
  source = forms.requests(scenario, form=form, split=split, limit=limit)
  requests = list(source.read())
  assert len(requests) == source.count
  return requests


# Sequences have no templates, and are not built unless asked for.
WORDED = [s for s in SCENARIOS if not s.name.startswith("sequences")]


@pytest.mark.parametrize("scenario", WORDED, ids=lambda s: s.name)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_first_form_is_what_was_built(built, forms, scenario, split):
  source = find_requests(
    scenario,
    folder=DatasetFolder.open(built),
    split=split,
    need_text=True,
    limit=25,
  )
  first, *others = forms.of_scenario(scenario)
  worded = read(forms, scenario, first, split=split, limit=25)
  assert worded == list(source.read())
  assert source.template == first.name
  for form in others:
    again = read(forms, scenario, form, split=split, limit=25)
    assert [r.instruction for r in again] != [r.instruction for r in worded]
    # A preference that is the query is another's kind.
    blank = {"instruction": ""} | ({"query": ""} if form.query == "P2" else {})
    assert [dataclasses.replace(r, **blank) for r in again] == [
      dataclasses.replace(r, **blank) for r in worded
    ]


LISTED = [s for s in WORDED if s.lists_candidates]


@pytest.mark.parametrize("scenario", LISTED, ids=lambda s: s.name)
def test_forms_without_a_list_ask_the_same(forms, scenario):
  listed = forms.of_scenario(scenario)
  both = forms.of_scenario(scenario, unlisted=True)
  assert both[: len(listed)] == listed
  first = read(forms, scenario, listed[0], limit=9)
  for form in both[len(listed) :]:
    assert form.template.response == "item"
    for asked, request in zip(
      read(forms, scenario, form, limit=9), first, strict=True
    ):
      blank = {"instruction": ""}
      blank |= {"query": ""} if form.query == "P2" else {}
      assert dataclasses.replace(asked, **blank) == dataclasses.replace(
        request, **blank
      )
      assert sum(c in asked.instruction for c in asked.candidates) < 10


def test_the_folders_own_options_word_the_requests(built, tmp_path):
  shop = shutil.copytree(built, tmp_path / "shop")
  build(
    shop,
    options=Options(input_length=60, families=("p1_i0_t3",)),
    force=True,
  )
  folder = DatasetFolder.open(shop)
  (scenario,) = find_scenarios(["sequential"])
  source = find_requests(scenario, folder=folder, split="test", need_text=True)
  forms = TemplateForms(folder)
  first = forms.of_scenario(scenario)[0]
  assert read(forms, scenario, first) == list(source.read())


def texts_of(forms, form):
  """The instructions of both splits in a form's words."""
  (scenario,) = find_scenarios(["sequential"])
  return {
    request.instruction
    for split in ("validation", "test")
    for request in read(forms, scenario, form, split=split)
  }


@pytest.mark.parametrize("number", [2, -1], ids=["listed", "unlisted"])
def test_the_best_template_on_validation_is_the_tables(
  number, built, forms, use_model, tmp_path
):
  """The model knows one form, and half as many answers in the test."""
  (scenario,) = find_scenarios(["sequential"])
  of_scenario = forms.of_scenario(scenario, unlisted=True)
  best = of_scenario[number].name
  texts = texts_of(forms, of_scenario[number])
  lengths = DatasetFolder.open(built).sequences.lengths

  def knows(request, _):
    if len(request.history_items) == lengths[request.user] - 1:
      return request.instruction not in texts or request.user % 2
    return request.instruction in texts or request.user % 3 == 0

  arguments = {
    "dataset": built,
    "model": use_model(FakeModel(knows)),
    "scenarios": ["sequential"],
    "rankers": ["popularity", "model"],
  }
  plain = evaluate(out=tmp_path / "plain", **arguments)
  results = evaluate(out=tmp_path / "chosen", select_template=True, **arguments)
  (choice,) = results["templates"]
  names = [form.name for form in of_scenario]
  assert choice["chosen"] == best
  assert [form["form"] for form in choice["forms"]] == names
  (before,), (after,) = plain["scenarios"], results["scenarios"]
  assert after["template"] == best != before["template"] == names[0]
  answers = "T3" if number == 2 else "T2"
  assert after["aspects"] == f"<P1,I0,{answers}>"
  assert after["candidates_sha256"] == before["candidates_sha256"]
  assert pick(results, "rows", ranker="popularity") == pick(
    plain, "rows", ranker="popularity"
  )

  first = forms.of_scenario(scenario)[0]
  users = np.array([r.user for r in read(forms, scenario, first)])
  on_test = {name: 1.0 for name in names} | {best: np.mean(users % 2)}
  on_validation = {name: np.mean(users % 3 == 0) for name in names}
  on_validation[best] = 1.0
  for form in choice["forms"]:
    assert form["test"] == pytest.approx(on_test[form["form"]])
    assert form["validation"] == pytest.approx(on_validation[form["form"]])
  assert value(results, "model", "hr@1") == pytest.approx(on_test[best])
  assert value(plain, "model", "hr@1") == 1
  assert choice["test"]["mean"] == pytest.approx(np.mean([*on_test.values()]))
  assert choice["test"]["sd"] == pytest.approx(
    np.std([*on_test.values()], ddof=1)
  )
  text = (tmp_path / "chosen" / "results.md").read_text()
  told = f"{best}, no list" if number < 0 else best
  assert f"| {told} (chosen) |" in text and "| mean ± sd " in text


def test_the_limit_bounds_both_samples(built, use_model, tmp_path):
  model = FakeModel()
  results = evaluate(
    dataset=built,
    model=use_model(model),
    scenarios=["sequential", "pointwise", "sequential_full"],
    select_template=True,
    limit=12,
    out=tmp_path / "out",
  )
  assert [c["metric"] for c in results["templates"]] == ["hr@1", "auc", "hr@1"]
  for choice in results["templates"]:
    assert choice["validation_requests"] == 12
    # Equally good: the first.
    assert choice["chosen"] == choice["forms"][0]["form"]
  assert {row["n"] for row in results["rows"]} == {12}


def test_requests_of_other_annotations_are_refused(tmp_path, built):
  shop = shutil.copytree(built, tmp_path / "shop")
  path = shop / "requests" / "personalised_i1_test.parquet"
  write_requests(path, list(read_requests(path))[1:])
  (scenario,) = find_scenarios(["personalised_i1"])
  forms = TemplateForms(DatasetFolder.open(shop))
  with pytest.raises(InputError, match="annotations have changed"):
    forms.requests(
      scenario, form=forms.of_scenario(scenario)[1], split="test", limit=5
    )
  (shop / "annotations.sqlite").unlink()
  forms = TemplateForms(DatasetFolder.open(shop))
  with pytest.raises(InputError, match="has no intentions.*annotate"):
    forms.requests(
      scenario, form=forms.of_scenario(scenario)[1], split="test", limit=5
    )


def test_a_folder_that_was_never_built_is_refused(built, tmp_path):
  shop = shutil.copytree(built, tmp_path / "shop")
  (shop / "instructions.json").unlink()
  with pytest.raises(InputError, match="instructrec build"):
    TemplateForms(DatasetFolder.open(shop))


@pytest.mark.parametrize("permutations", [1, 2])
def test_a_normalisation_has_a_row_of_its_own(
  built, use_model, tmp_path, permutations
):
  model = FakeModel(lambda r, name: r.user % 2 or name == "mean")
  results = evaluate(
    dataset=built,
    model=use_model(model),
    scenarios=["sequential", "personalised_i1_tournament", "pointwise"],
    rankers=["popularity", "model"],
    permutations=permutations,
    normalisation="mean",
    limit=40,
    out=tmp_path / "out",
  )
  assert list(results["labels"].values()) == [
    "popularity",
    "model",
    "model (mean)",
  ]
  assert 0.2 < value(results, "model", "hr@1") < 0.8
  assert value(results, "model_mean", "hr@1") == 1
  # Of Yes and No the sum alone is a chance.
  assert not pick(results, "rows", scenario="pointwise", ranker="model_mean")
  assert model.loads == 1
  # No prompt is scored twice, though both rows ask for it.
  of_lists = [r for r in model.seen if r.request_id.startswith("sequential-")]
  assert len(of_lists) == len(set(of_lists)) == 40 * permutations


def test_the_normalisation_is_chosen_on_validation(built, use_model, tmp_path):
  lengths = DatasetFolder.open(built).sequences.lengths

  def knows(request, name):
    if len(request.history_items) == lengths[request.user] - 1:
      return name != "byte" or request.user % 2
    return name == "byte"

  model = FakeModel(knows)
  results = evaluate(
    dataset=built,
    model=use_model(model),
    scenarios=["sequential"],
    normalisation="select",
    out=tmp_path / "out",
  )
  (choice,) = results["normalisations"]
  assert choice["chosen"] == "byte" and choice["validation"]["byte"] == 1
  assert set(choice["validation"]) == {
    *("sum", "mean", "byte", "pmi", "ghost_free")
  }
  assert value(results, "model", "hr@1") == 1
  assert 0.3 < value(results, "model_select", "hr@1") < 0.7
  assert model.loads == 1
  text = (tmp_path / "out" / "results.md").read_text()
  assert "chosen normalisation: byte, by HR@1 on" in text


def test_template_and_normalisation_are_chosen_together(
  built, forms, use_model, tmp_path
):
  (scenario,) = find_scenarios(["sequential"])
  texts = texts_of(forms, forms.of_scenario(scenario)[2])

  def knows(request, name):
    return request.instruction in texts and (name == "pmi" or request.user % 3)

  results = evaluate(
    dataset=built,
    model=use_model(FakeModel(knows)),
    scenarios=["sequential"],
    rankers=["model"],
    select_template=True,
    normalisation="select",
    out=tmp_path / "out",
  )
  (templates,) = results["templates"]
  assert templates["chosen"] == templates["forms"][2]["form"]
  assert results["normalisations"][0]["chosen"] == "pmi"
  assert value(results, "model_select", "hr@1") == 1
