"""Tests for instructrec_jax/evaluation/reasoned_ranker.py."""

import dataclasses
import functools
import json
import shutil
import types
from typing import Any

import jax
import numpy as np
import pytest

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.evaluate import evaluate
from instructrec_jax.evaluation.reasoned_ranker import (
  ReasonedRanker,
  Unlisted,
)
from instructrec_jax.evaluation.writer import ModelWriter
from instructrec_jax.generation.generator import Generator
from instructrec_jax.instructions.reasoning import answered
from instructrec_jax.instructions.templates import load_templates
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.reranker import T5Ranker


@pytest.fixture(scope="module")
def requests(built):
  return list(read_requests(built / "requests/sequential_test.parquet"))[:40]


@pytest.fixture(scope="module")
def ranker(built, tiny_model):
  return ReasonedRanker.load(tiny_model, folder=DatasetFolder.open(built))


def test_scores_are_of_titles_behind_the_models_own_words(
  built, tiny_model, ranker, requests
):
  scores = ranker.score(requests)
  folder = DatasetFolder.open(built)
  (template,) = [t for t in load_templates() if t.name == "A03"]
  asked = [
    template.text.format(
      history="; ".join(folder.items[i].title for i in r.history_items)
    )
    for r in requests
  ]
  answers = Generator.load(tiny_model).generate(asked)
  said = [
    answered(request, answer.text).said
    for request, (answer,) in zip(requests, answers, strict=True)
  ]
  for words, (answer,) in zip(said, answers, strict=True):
    taste = answer.text.split("What suits it")[0].rstrip(" ,;:")
    assert words.startswith(f"The history shows this taste: {taste}")
    assert words.endswith("What suits it:")
  by_hand = [
    RankingRequest(r.request_id, instruction, r.candidates, said=words)
    for r, instruction, words in zip(requests, asked, said, strict=True)
  ]
  for one, other in zip(
    scores, T5Ranker.load(tiny_model).score(by_hand), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_what_is_loaded_shares_one_models_parameters(built, tiny_model):
  load = functools.cache(T5Ranker.load)
  folder = DatasetFolder.open(built)
  one = ReasonedRanker.load(tiny_model, folder=folder, load=load)
  two = Unlisted.load(tiny_model, folder=folder, load=load)
  writer = ModelWriter(load(tiny_model))
  held = [load(tiny_model), one._ranker, one._generator, two._ranker]
  first, *others = (
    [x.unsafe_buffer_pointer() for x in jax.tree.leaves(each._params)]
    for each in (*held, writer._generator)
  )
  assert all(other == first for other in others)


def test_without_words_it_is_asked_without_a_list(built, tiny_model, requests):
  folder = DatasetFolder.open(built)
  unlisted = Unlisted.load(tiny_model, folder=folder)
  (template,) = [t for t in load_templates() if t.name == "A01"]
  by_hand = [
    dataclasses.replace(
      r,
      instruction=template.text.format(
        history="; ".join(folder.items[i].title for i in r.history_items)
      ),
    )
    for r in requests
  ]
  for one, other in zip(
    unlisted.score(requests),
    T5Ranker.load(tiny_model).score(by_hand),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_neighbours_change_nothing(ranker, requests):
  together = ranker.score(requests)
  (alone,) = ranker.score(requests[7:8])
  np.testing.assert_allclose(alone, together[7], rtol=1e-5)
  turned = dataclasses.replace(
    requests[7], candidates=requests[7].candidates[::-1]
  )
  (turned_scores,) = ranker.score([turned])
  np.testing.assert_allclose(turned_scores[::-1], alone, rtol=1e-5)


def test_the_table_says_what_reasoning_gains(built, tiny_model, tmp_path):
  arguments = {"dataset": built, "model": tiny_model, "limit": 30}
  results = evaluate(
    **arguments,
    out=tmp_path / "out",
    scenarios=["sequential", "personalised_i2"],
    rankers=["popularity", "model"],
    reason=True,
  )
  figures = {
    (row["scenario"], row["ranker"], row["metric"]): row["value"]
    for row in results["rows"]
  }
  rankers = {(scenario, ranker) for scenario, ranker, _ in figures}
  # With a query there is no such template.
  assert ("sequential", "reasoned") in rankers
  assert ("personalised_i2", "reasoned") not in rankers
  for other in ("model", "unlisted"):
    compared = [c for c in results["comparisons"] if c["against"] == other]
    assert [c["metric"] for c in compared] == [
      *("hr@1", "hr@3", "hr@5", "ndcg@3", "ndcg@5")
    ]
    for each in compared:
      with_it, without = (
        figures["sequential", name, each["metric"]]
        for name in ("reasoned", other)
      )
      assert each["value"] == pytest.approx(with_it - without)
  text = (tmp_path / "out" / "results.md").read_text()
  assert "| model, reasoning |" in text
  assert "- model, reasoning - model: HR@1 " in text
  assert "- model, reasoning - model, no list: HR@1 " in text


@pytest.mark.parametrize(
  ("taught", "tokens"), [(None, 128), (64, 128), (300, 300), (4096, 768)]
)
def test_it_may_write_as_much_as_it_was_taught(
  built, tiny_model, tmp_path, monkeypatch, requests, taught, tokens
):
  shutil.copy(built / "templates.yaml", tmp_path)
  manifest = json.loads((built / "instructions.json").read_text())
  del manifest["options"]["target_length"]
  if taught:
    manifest["options"]["target_length"] = taught
  (tmp_path / "instructions.json").write_text(json.dumps(manifest))
  folder: Any = types.SimpleNamespace(
    path=tmp_path, items=DatasetFolder.open(built).items
  )
  ranker = ReasonedRanker.load(tiny_model, folder=folder)
  allowed = []

  def generate(self, instructions, decoding):
    allowed.append(decoding.max_tokens)
    return [[types.SimpleNamespace(text="")] for _ in instructions]

  monkeypatch.setattr(Generator, "generate", generate)
  ranker.score(requests[:2])
  assert allowed == [tokens]


def test_what_was_not_taught_is_refused(built, tiny_model, tmp_path):
  templates = tmp_path / "templates.yaml"
  text = (built / "templates.yaml").read_text()
  start, end = text.index("- name: A03"), text.index("- name: A04")
  templates.write_text(text[:start] + text[end:])
  folder: Any = types.SimpleNamespace(path=tmp_path, items=())
  with pytest.raises(InputError, match="reasoned_item shows a history"):
    ReasonedRanker.load(tiny_model, folder=folder)
  with pytest.raises(InputError, match="--reason .* add --model"):
    evaluate(dataset=built, out=None, reason=True)
  for name in ("personalised_i2", "query_writing_i1"):
    arguments: Any = {"dataset": built, "model": tiny_model, "out": None}
    with pytest.raises(InputError, match="--reason is of scenarios"):
      evaluate(**arguments, scenarios=[name], reason=True)


def test_where_no_list_is_shown_there_is_no_row_without_one(built, tiny_model):
  results = evaluate(
    dataset=built,
    model=tiny_model,
    out=None,
    scenarios=["sequences"],
    rankers=["popularity"],
    limit=4,
    reason=True,
  )
  assert {*results["labels"]} == {"popularity", "reasoned"}
