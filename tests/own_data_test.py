"""The commands of docs/own-data.md, as they stand there, on its template."""

import re
import shlex
import shutil

import pytest

from instructrec_jax.cli.main import main
from instructrec_jax.scoring.reranker import T5Ranker

# What makes them short: few customers, and a tiny model of two steps.
CUSTOMERS = 40
SHORT = {
  "train": [
    "--gin.TRAIN_STEPS=2",
    "--gin.WARMUP_STEPS=1",
    "--gin.EMB_DIM=16",
    "--gin.NUM_HEADS=1",
    "--gin.HEAD_DIM=16",
    "--gin.NUM_LAYERS=1",
    "--gin.MLP_DIM=16",
    "--gin.VALIDATION_LIMIT=4",
  ],
  "pack": ["--examples=300"],
  "evaluate": ["--limit=10", "--resamples=20"],
}


@pytest.fixture(scope="module")
def commands(root):
  """The arguments of each command, in order."""
  text = (root / "docs" / "own-data.md").read_text(encoding="utf-8")
  blocks = re.findall(r"^```\n(instructrec .*?)\n(?:\n|```)", text, re.M | re.S)
  return [shlex.split(block.replace("\\\n", " "))[1:] for block in blocks]


def test_six_commands_lead_from_the_template_to_a_ranking(
  commands, root, tmp_path, monkeypatch, capsys
):
  for file in (root / "docs" / "own-data").iterdir():
    shutil.copy(file, tmp_path)
  purchases = tmp_path / "purchases.csv"
  lines = purchases.read_text().splitlines(keepends=True)
  few = [line for line in lines[1:] if line < f"c{CUSTOMERS + 1:03d}"]
  purchases.write_text("".join([lines[0], *few]))
  monkeypatch.chdir(tmp_path)
  names = [command[0] for command in commands]
  assert names[:6] == ["prepare", "annotate", "build", "pack", "train", "ask"]
  for command in commands:
    command = [*command, *SHORT.get(command[0], [])]
    assert main(command) == 0, command
    printed = capsys.readouterr().out
    if command[0] == "prepare":
      assert re.search(rf"\| shop +\| {CUSTOMERS} +\| 25 ", printed)
    if command[0] == "ask":
      assert '"green tea, not jasmine"' in printed
      assert len(re.findall(r"^ +[123] +-\d", printed, re.M)) == 3
  assert T5Ranker.load(tmp_path / "model").score([]) == []
  assert (tmp_path / "results" / "results.md").exists()


def test_the_columns_are_those_of_the_template(commands, root):
  (prepare,) = [command for command in commands if command[0] == "prepare"]
  heads = {
    name: (root / "docs" / "own-data" / name).read_text().split("\n")[0]
    for name in ("purchases.csv", "items.csv")
  }
  told = dict(zip(prepare[1::2], prepare[2::2], strict=False))
  columns = [v for k, v in told.items() if k.endswith("-column")]
  assert set(columns) == {
    *heads["items.csv"].split(","),
    *heads["purchases.csv"].split(","),
  } - {"text"}
  assert told["--interactions"] in heads and told["--items"] in heads
