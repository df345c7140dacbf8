"""Tests for instructrec_jax/cli/main.py: what every subcommand shares."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import instructrec_jax
from instructrec_jax.cli.main import SUBCOMMANDS, main
from instructrec_jax.instructions import templates

WORDS = [sys.executable, "-m", "instructrec_jax.cli.main"]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_shows_an_example(name, capsys):
  with pytest.raises(SystemExit) as stop:
    main([name, "--help"])
  assert stop.value.code == 0
  assert f"example:\n  instructrec {name}" in capsys.readouterr().out


def test_the_overview_lists_every_subcommand(capsys):
  assert main(["--help"]) == 0
  shown = capsys.readouterr().out
  assert all(name in shown for name in SUBCOMMANDS)


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["build", "--dataset", "{nowhere}", "--vocab", "v"], "not a dataset"),
    (["inspect", "instructrec_all_v1", "--dataset", "{nowhere}"], "not a data"),
    (
      ["pack", "instructrec_all_v1", "--dataset", "{nowhere}", "--out", "x"],
      "not a dataset",
    ),
    (
      [
        "score",
        "--requests",
        "{jsonl}",
        "--model",
        "{nowhere}",
        "--out",
        "{out}",
      ],
      "not a model folder",
    ),
    (["evaluate", "--dataset", "{nowhere}", "--out", "{out}"], "not a dataset"),
    (["templates", "--file", "{nowhere}"], "no such file"),
    (["train", "--gin_file", "{nowhere}"], "gin"),
    (["prepare", "--format", "synthetic", "--out", "x", "--seed", "-1"], "-1"),
    (["prepare", "--format", "synthetic", "--out", "{jsonl}/x"], "Not a direc"),
  ],
)
def test_bad_input_is_one_sentence_and_2(arguments, says, tmp_path, capsys):
  (tmp_path / "good.jsonl").write_text(
    json.dumps({"instruction": "pick", "candidates": ["a"]}) + "\n"
  )
  before = sorted(tmp_path.iterdir())
  places = {
    "nowhere": tmp_path / "nowhere",
    "jsonl": tmp_path / "good.jsonl",
    "out": tmp_path / "out.parquet",
    "here": tmp_path,
  }
  assert main([argument.format(**places) for argument in arguments]) == 2
  shown = capsys.readouterr().err.strip().splitlines()
  assert len(shown) == 1, shown
  assert says in shown[0]
  assert sorted(tmp_path.iterdir()) == before


def test_devices_that_are_not_here_are_one_sentence(capsys, monkeypatch):
  from instructrec_jax.cli import templates

  def run(options):
    raise RuntimeError("Unable to initialize backend 'cuda': no such thing.")

  monkeypatch.setattr(templates, "run", run)
  assert main(["templates"]) == 2
  assert "jax cannot use 'cuda', which JAX_PLATFORMS" in capsys.readouterr().err


def test_too_little_memory_is_one_sentence(tmp_path, capsys, monkeypatch):
  path = tmp_path / "t.yaml"
  path.touch()

  def fails(path):
    raise MemoryError("Unable to allocate 9 TiB")

  monkeypatch.setattr(templates, "_load", fails)
  assert main(["templates", "--file", str(path)]) == 2
  assert capsys.readouterr().err == (
    "instructrec templates: there is not enough memory: Unable to allocate 9 "
    "TiB.\n"
  )


def test_a_file_that_is_read_at_once_has_a_most(tmp_path, capsys):
  path = tmp_path / "t.yaml"
  with path.open("wb") as file:
    file.truncate(1 << 40)
  for words in ("templates --file", "plan --gin_file"):
    assert main([*words.split(), str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}: it has 1,099,511,627,776 bytes, where" in said
    assert said.count("\n") == 1


def test_a_terminal_without_unicode_shows_escapes(tmp_path):
  path = tmp_path / "t.yaml"
  path.write_text(
    "- name: Z07\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: 'Caf\u00e9: {history}.'\n",
    encoding="utf-8",
  )
  ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
  for more, shown in (((), "Caf\\xe9"), (("--json",), "Caf\\u00e9")):
    run = subprocess.run(
      [*WORDS, "templates", "--file", path, *more],
      env=ascii_only,
      capture_output=True,
      text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert shown in run.stdout
  assert "Caf\u00e9" in str(json.loads(run.stdout))


def test_a_full_standard_output_is_one_sentence():
  with open("/dev/full", "w") as full:
    run = subprocess.run(
      [*WORDS, "plan", "--size", "small"],
      stdout=full,
      stderr=subprocess.PIPE,
      text=True,
    )
  assert (run.returncode, run.stderr) == (
    2,
    "instructrec plan: the standard output cannot be written (No space left on "
    "device).\n",
  )


def test_a_working_folder_that_is_gone_is_one_sentence(tmp_path):
  gone = tmp_path / "gone"
  gone.mkdir()
  words = "prepare --format synthetic --out new".split()
  code = (
    f"import os; os.rmdir({str(gone)!r})\n"
    "from instructrec_jax.cli.main import main\n"
    f"raise SystemExit(main({words}))"
  )
  root = pathlib.Path(instructrec_jax.__file__).parents[1]
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=gone,
    env=os.environ | {"PYTHONPATH": str(root)},
    stderr=subprocess.PIPE,
    text=True,
  )
  assert (run.returncode, run.stderr) == (
    2,
    "instructrec prepare: the working folder is gone: change to one that is "
    "there.\n",
  )
