"""Tests for instructrec_jax/cli/compare.py."""

import json
import pathlib
import types

import pytest

from instructrec_jax import evaluation
from instructrec_jax.cli.main import main

ROW = {"scenario": "sequential", "metric": "hr@1", "difference": 0.125}


@pytest.fixture
def called(monkeypatch, tmp_path):
  """What `evaluation.compare.compare` is called with."""
  seen = {}
  monkeypatch.chdir(tmp_path)
  for name in ("one", "two"):
    (tmp_path / name / "scores").mkdir(parents=True)

  def compare(a, b, **options):
    seen.update(a=a, b=b, **options)
    return [ROW]

  stub = types.SimpleNamespace(
    compare=compare, to_markdown=lambda rows: f"| {rows[0]['metric']} |"
  )
  monkeypatch.setattr(evaluation, "compare", stub, raising=False)
  return seen


def test_two_folders_are_compared(called, capsys):
  command = ["compare", "one", "two", "--scenarios", "sequential,search"]
  assert main([*command, "--resamples", "9", "--seed", "3"]) == 0
  assert capsys.readouterr().out == "| hr@1 |\n"
  assert called == dict(
    a=pathlib.Path("one"),
    b=pathlib.Path("two"),
    rankers=None,
    scenarios=("sequential", "search"),
    resamples=9,
    seed=3,
  )


def test_rankers_of_one_folder_are_compared(called, capsys):
  assert main(["compare", "one", "--rankers", "bm25", "model", "--json"]) == 0
  assert json.loads(capsys.readouterr().out) == [ROW]
  assert called["a"] == called["b"] == pathlib.Path("one")
  assert called["rankers"] == ("bm25", "model")
