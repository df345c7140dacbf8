"""Tests for instructrec_jax/cli/evaluate.py."""

import json

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  path = tmp_path_factory.mktemp("cli") / "shop"
  prepare(format="synthetic", users=200, out=path)
  return path


def run(*arguments):
  return main(["evaluate", *map(str, arguments)])


def test_prints_the_table_that_it_writes(shop, tmp_path, capsys):
  out = tmp_path / "out"
  assert run("--dataset", shop, "--out", out, "--scenarios", "sequential") == 0
  printed = capsys.readouterr().out
  assert (out / "results.md").read_text() in printed
  assert "| popularity" in printed


def test_json_is_one_object_and_existing_output_is_refused(
  shop, tmp_path, capsys
):
  arguments = (
    *("--dataset", shop, "--out", tmp_path / "out"),
    *("--rankers", "random,popularity", "--limit", "20", "--json"),
  )
  assert run(*arguments) == 0
  results = json.loads(capsys.readouterr().out)
  assert list(results["labels"]) == ["random", "popularity"]
  assert run(*arguments) == 2
  assert "--force" in capsys.readouterr().err
  assert run(*arguments, "--force") == 0


@pytest.mark.parametrize(
  "option", [["--select-template"], ["--normalisation", "select"]]
)
def test_what_only_a_model_can_choose_needs_one(shop, tmp_path, capsys, option):
  out = tmp_path / "out"
  assert run("--dataset", shop, "--out", out, *option) == 2
  assert "--model" in capsys.readouterr().err
  assert not out.exists()


def test_bad_input_exits_2_with_one_sentence(tmp_path, capsys):
  assert run("--dataset", tmp_path, "--out", tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "instructrec prepare" in error
  assert not (tmp_path / "out").exists()
