"""`instructrec templates`, `build`, `inspect` and `pack`, as one would type."""

import json

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.prepare import prepare

FAMILY = "p1_i0_t0"
MIXTURE = f"instructrec_{FAMILY}_v1"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shop") / "data"
  prepare(out=folder, format="synthetic", users=30, min_count=0)
  command = ["build", "--dataset", str(folder), "--families", FAMILY]
  assert main([*command, "--train-vocab", "400"]) == 0
  return folder


def _json(capsys):
  """What a program reads: standard output must be JSON and nothing else."""
  return json.loads(capsys.readouterr().out)


def test_build_prints_rows_and_cuts(built, capsys):
  again = ["build", "--dataset", str(built), "--families", FAMILY, "--force"]
  assert main(again) == 0
  printed = capsys.readouterr()
  assert "lost their oldest history" in printed.out
  assert "instructions, about" in printed.err
  assert main([*again, "--json"]) == 0
  assert sum(_json(capsys)["rows"].values()) > 0


def test_build_is_refused_a_second_time(built, capsys):
  assert main(["build", "--dataset", str(built)]) == 2
  assert "--force" in capsys.readouterr().err


def test_inspect_prints_for_people_and_programs(built, capsys):
  command = ["inspect", MIXTURE, "--dataset", str(built), "--sample", "20"]
  assert main(command) == 0
  assert "instructrec_a12_p1_i0_t0_v1" in capsys.readouterr().out
  assert main([*command, "--json"]) == 0
  assert _json(capsys)["mixture"] == MIXTURE


def test_pack_prints_how_full_rows_are(built, tmp_path, capsys):
  out = tmp_path / "packed"
  command = ["pack", MIXTURE, "--dataset", str(built), "--out", str(out)]
  assert main(command) == 0
  assert "rows of 512/64 tokens" in capsys.readouterr().out
  assert main(command) == 2
  assert "--force" in capsys.readouterr().err
  assert main([*command, "--force", "--json"]) == 0
  assert _json(capsys)["mixture"] == MIXTURE
