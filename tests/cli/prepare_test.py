"""Tests for instructrec_jax/cli/prepare.py."""

import json
from pathlib import Path

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.records import Item


def test_global_time_and_what_was_expected(tmp_path, capsys):
  out = tmp_path / "shop"
  arguments = ["prepare", "--format", "synthetic", "--users", "300"]
  arguments += ["--split", "global-time", "--expect", "cds"]
  assert main([*arguments, "--out", str(out)]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "it is not the cds of the paper's Table 5: it has " in error
  folder = DatasetFolder.open(out)
  assert folder.manifest["options"]["split"] == "global-time"


def test_prints_table_5(tmp_path, capsys):
  out = tmp_path / "shop"
  arguments = ["prepare", "--format", "synthetic", "--users", "300"]
  assert main([*arguments, "--out", str(out)]) == 0
  printed = capsys.readouterr().out
  assert "| Dataset | #Users | #Items | #Inters |" in printed
  assert "before a user's last items" in printed
  assert (out / "manifest.json").exists()


def test_a_broken_line_is_told_and_counted(tmp_path, capsys):
  interactions = tmp_path / "interactions.csv"
  rows = [f"{u},{i},{i}" for u in range(6) for i in range(6)]
  interactions.write_text(
    "\n".join(["who,what,when", *rows, "x,y", ""]), encoding="utf-8"
  )
  items = tmp_path / "items.csv"
  items.write_text("what,title\n" + "".join(f"{i},T{i}\n" for i in range(6)))
  arguments = ["prepare", "--format", "csv", "--json"]
  arguments += ["--interactions", str(interactions), "--items", str(items)]
  arguments += ["--user-column", "who", "--item-column", "what"]
  arguments += ["--time-column", "when", "--out"]
  assert main([*arguments, str(tmp_path / "out")]) == 0
  printed = capsys.readouterr()
  assert json.loads(printed.out)["users"] == 6
  assert f"{interactions}: 1 broken lines skipped" in printed.err
  assert f"{interactions}:38: 2 fields under 3 columns" in printed.err
  assert "no candidates/test_9.parquet" in printed.err
  assert main([*arguments, str(tmp_path / "strict"), "--strict"]) == 2
  assert "interactions.csv:38: " in capsys.readouterr().err
  assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
  ("files", "why"),
  [
    (["--reviews", "none.json", "--metadata", "m.json"], "no such file"),
    (["--reviews", "m.json", "--metadata", "none.json"], "no such file"),
    (["--reviews", "n.json", "--metadata", "m.json"], "not one amazon2018"),
    (["--reviews", "m.json", "--metadata", "m.json"], "but they are two files"),
    (["--reviews", "cut.gz", "--metadata", "m.json"], "cut short"),
    ([], "needs --reviews and --metadata"),
  ],
)
def test_bad_input_is_one_sentence_and_status_2(
  tmp_path, monkeypatch, capsys, files, why
):
  monkeypatch.chdir(tmp_path)
  for name in ("m.json", "n.json"):
    (tmp_path / name).write_text('{"asin": "B1", "title": "T"}\n')
  (tmp_path / "cut.gz").write_bytes(b"\x1f\x8b\x08\x00\x00")
  arguments = ["prepare", "--format", "amazon2018", "--out", "out", *files]
  assert main(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith("instructrec prepare: ")
  assert why in error
  assert error.count("\n") == 1
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "cut.gz",
    "m.json",
    "n.json",
  ]


@pytest.mark.parametrize("delimiter", [" ", "\t", "tab", "^"])
def test_csv_with_recboles_header_and_any_separators(
  tmp_path, monkeypatch, capsys, delimiter
):
  monkeypatch.chdir(tmp_path)
  mark = "\t" if delimiter == "tab" else delimiter
  separator = "_" if mark == " " else " "
  users = [["user_id:token", "item_id:token", "timestamp:float"]]
  users += [[f"u{n % 3}", f"i{n}", str(n)] for n in range(9)]
  items = [["item_id:token", "movie_title:token_seq", "class:token_seq"]]
  items += [[f"i{n}", f"T{n}", f"A{separator}B"] for n in range(9)]
  for name, rows in (("a.inter", users), ("a.item", items)):
    Path(name).write_text("\n".join(map(mark.join, rows)))
  arguments = (
    "prepare --format csv --interactions a.inter --items a.item --out o"
  )
  arguments += " --title-column movie_title --categories-column class"
  arguments = [*arguments.split(), "--min-count", "0", "--delimiter", delimiter]
  assert main([*arguments, "--category-separator", separator]) == 0
  assert DatasetFolder.open(Path("o")).items[0] == Item("i0", "T0", ("A", "B"))
  capsys.readouterr()
  assert main([*arguments[:-1], "::", "--force"]) == 2
  assert "the delimiter is '::': one character" in capsys.readouterr().err
