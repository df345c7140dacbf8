"""Every command refuses absurd values at the door.

That is with one sentence that names the option, before an import that takes
time, and with nothing written.
"""

import json
import subprocess
import sys

import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli import options as opt
from instructrec_jax.cli.main import SUBCOMMANDS
from instructrec_jax.data import folder
from instructrec_jax.evaluation.rankers import RANKERS
from instructrec_jax.evaluation.scores import FOLDER

# What a command needs beside the option in question.
D, M = ("--dataset", "shop"), ("--model", "model")
GIVEN = {
  "quickstart": ("--out", "q"),
  "prepare": ("--format", "synthetic", "--out", "q"),
  "annotate": D,
  "statistics": D,
  "templates": (),
  "build": D,
  "inspect": ("m", *D),
  "pack": ("m", *D, "--out", "q"),
  "plan": ("--size", "mini"),
  "train": ("--gin_file", "gin/model/mini.gin"),
  "convert": ("model", "q", "--to", "hf"),
  "score": ("--requests", "r.jsonl", *M, "--out", "q.jsonl"),
  "generate": ("--requests", "r.jsonl", *M, "--out", "q.jsonl"),
  "evaluate": (*D, "--out", "q"),
  "compare": ("results", "--rankers", "random", "model"),
  "reproduce": (*D, "--out", "q"),
  "ask": ("words",),
  "chat": M,
  "export": (*M, "--out", "q"),
  "serve": M,
  "mcp": M,
}
COUNTS = ("0", "-1", "1.5", "nan", "inf", "1e400", "1" + "0" * 30, "x", "")
OVER_0 = COUNTS[1:]
NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "x", "")
SEEDS = ("-1", "nan", str(2**32), str(2**63), "1" + "0" * 30)
LENGTHS = ("0", "-1", "1", "65537", *COUNTS[2:])
FOLDERS = ("nowhere", "file", "empty", "")
FILES = ("nowhere", "empty", "")
NAMES = ("", " ")
CHAT = {
  "--requests-per-minute": ("0", *NUMBERS),
  "--tokens-per-minute": ("0", *NUMBERS),
  "--max-usd": NUMBERS,
  "--max-requests": OVER_0,
  "--prices": tuple((each, "1") for each in NUMBERS),
}
RANKER = {"--chat-limit": COUNTS, "--chat-model": NAMES, **CHAT}
RANKER["--chat-base-url"] = ("x", "ftp://a", "http://[::1", "http://a:99999")
REFUSED = {
  "quickstart": {
    **{"--users": COUNTS, "--steps": COUNTS, "--test-users": COUNTS},
    **{"--seed": SEEDS, "--out": ("file", "file/x", "")},
  },
  "prepare": {
    **{"--users": COUNTS, "--min-count": OVER_0, "--max-items": OVER_0},
    **{"--seed": SEEDS, "--out": ("file", "file/x", "")},
    **{"--reviews": FILES, "--metadata": FILES, "--items": FILES},
    **{"--interactions": FILES, "--user-column": NAMES, "--format": ("x",)},
  },
  "annotate": {
    **{"--dataset": FOLDERS, "--training-targets": OVER_0, "--seed": SEEDS},
    **{"--max-tokens": COUNTS, "--workers": (*COUNTS, "1001")},
    **{"--temperature": (*NUMBERS, "2.1"), "--samples": COUNTS, **CHAT},
    **{"--base-url": RANKER["--chat-base-url"], "--model": NAMES},
    **{"--import": FILES, "--jsonl-in": FILES, "--read-sheet": FILES},
    **{"--export": ("empty", "file/x"), "--sheet": ("empty", "file/x")},
    **{"--jsonl-out": ("empty", "file/x", "")},
  },
  "statistics": {"--dataset": FOLDERS},
  "templates": {"--file": (*FILES, ("t.yaml", "t.yaml"))},
  "build": {
    **{"--dataset": FOLDERS, "--vocab": FILES, "--train-vocab": COUNTS},
    **{"--templates": FILES, "--families": ("", "a,a", "a,"), "--seed": SEEDS},
    **{"--rows-per-target": COUNTS, "--input-length": LENGTHS},
  },
  "inspect": {
    **{"--dataset": FOLDERS, "--sample": COUNTS, "--examples": OVER_0},
    **{"--input-length": LENGTHS, "--target-length": LENGTHS, "--seed": SEEDS},
  },
  "pack": {
    **{"--dataset": FOLDERS, "--examples": COUNTS, "--seed": SEEDS},
    **{"--input-length": LENGTHS, "--target-length": LENGTHS},
    **{"--out": ("file", "file/x", "")},
  },
  "plan": {
    **{"--size": ("huge", ""), "--batch": COUNTS, "--microbatches": COUNTS},
    **{"--input-length": LENGTHS, "--target-length": LENGTHS},
    **{"--mesh": ("0x1", "x", "", "2", "999999x1"), "--gin_file": FILES},
    **{"--memory": ("nan", "0GiB", "infGiB", "9" * 400 + "GiB", "80")},
  },
  "train": {"--gin_file": FILES, "--gin_search_paths": ("nowhere", "file")},
  "convert": {
    **{"--step": ("x", "-1", ""), "--size": ("huge", "")},
    **{"--vocabulary": FILES, "--dtype": ("float8",)},
  },
  "score": {
    **{"--requests": (*FILES, "file"), "--model": FOLDERS, "--limit": COUNTS},
    **{"--out": ("q.csv", "q", "empty", "file/x.jsonl", "")},
    **{"--batch-tokens": COUNTS, "--step": ("x", "-1", "1.5", "")},
  },
  "generate": {
    **{"--requests": (*FILES, "file"), "--model": FOLDERS, "--limit": COUNTS},
    **{"--out": ("q.csv", "q", "empty", "file/x.jsonl", "")},
    **{"--catalogue": FOLDERS, "--step": ("x", "-1", "1.5", "")},
    **{"--max-tokens": (*COUNTS, "1025"), "--beams": (*COUNTS, "65")},
    **{"--answers": COUNTS, "--batch": COUNTS, "--seed": SEEDS},
    **{"--top-k": OVER_0, "--top-p": ("0", "2", *NUMBERS)},
    **{"--temperature": NUMBERS, "--length-penalty": ("11", "nan", "x", "")},
    **{"--rules": ("mine", ""), "--vocabulary": FILES},
  },
  "chat": {
    **{"--model": FOLDERS, "--dataset": FOLDERS, "--turns": FILES},
    **{"--top": (*COUNTS, "101"), "--step": ("x", "-1", "1.5", "")},
  },
  "evaluate": {
    **{"--dataset": FOLDERS, "--model": FOLDERS, "--zero-shot": FOLDERS},
    **{"--out": ("file", "file/x", ""), "--limit": COUNTS, "--seed": SEEDS},
    **{"--permutations": COUNTS, "--text-encoder": NAMES, **RANKER},
    "--rankers": ("", "nope", "random,random", "random,", "nope.run"),
    "--scenarios": ("", "nope", "sequential,sequential"),
    "--resamples": COUNTS,
  },
  "compare": {
    **{"--resamples": COUNTS, "--seed": SEEDS, "--scenarios": ("", "a,a")},
    "--rankers": (("", "a"),),
  },
  "reproduce": {
    **{"--dataset": FOLDERS, "--unseen": FOLDERS, "--zero-shot": FOLDERS},
    **{"--out": ("file", "file/x", ""), "--limit": OVER_0, "--steps": COUNTS},
    **{"--ladder-steps": COUNTS, "--recipe": FILES, "--vocab": FILES},
    **{"--seed": SEEDS, "--rankers": ("", "nope", "random,random"), **RANKER},
  },
  "ask": {
    **{"--model": FOLDERS, "--dataset": FOLDERS, "--input-length": LENGTHS},
    **{"--candidates-file": FILES, "--templates": FILES, "--top": COUNTS},
    **{"--template": NAMES, "--preference": ("a\0b", "a\udc80")},
  },
  "export": {
    **{"--model": FOLDERS, "--dataset": FOLDERS, "--templates": FILES},
    **{"--out": ("file", "file/x", ""), "--step": ("x", "-1", "")},
  },
  "serve": {
    **{"--model": FOLDERS, "--dataset": FOLDERS, "--templates": FILES},
    **{"--port": ("-1", "65536", *COUNTS[2:]), "--host": NAMES},
    **{"--waiting": COUNTS, "--timeout": COUNTS, "--batch-tokens": COUNTS},
    "--step": ("x", ""),
  },
  "mcp": {
    **{"--model": FOLDERS, "--dataset": FOLDERS, "--templates": FILES},
    "--step": ("x", ""),
  },
}
CODE = """
import contextlib, io, json, os, sys
from instructrec_jax.cli.main import main
HEAVY = {"jax", "tensorflow", "polars"}
found = []
for words in json.load(sys.stdin):
  before, said = sorted(os.listdir(".")), io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      status = main(words)
  except BaseException as error:
    status = repr(error)
  found.append({
    "words": words, "status": status, "said": said.getvalue(),
    "imported": sorted(HEAVY & sys.modules.keys()),
    "written": sorted(os.listdir(".")) != before,
  })
json.dump(found, sys.stdout)
"""


@pytest.fixture
def here(tmp_path):
  for name in ("shop", "model", f"results/{FOLDER}", "empty"):
    (tmp_path / name).mkdir(parents=True)
  # What the door knows them by, under the library's names.
  (tmp_path / "shop" / folder.MANIFEST_FILE).write_text("{}")
  (tmp_path / "model" / model_folder.CONFIG_FILE).write_text("{}")
  for name in ("file", "r.jsonl", "t.yaml"):
    (tmp_path / name).write_text("")
  return tmp_path


def test_absurd_values_are_refused_at_the_door(here):
  assert REFUSED.keys() == GIVEN.keys() == SUBCOMMANDS.keys()
  commands = [
    [name, *GIVEN[name], flag, *([value] if isinstance(value, str) else value)]
    for name, flags in REFUSED.items()
    for flag, values in flags.items()
    for value in values
  ]
  assert len(commands) > 600
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    input=json.dumps(commands),
    capture_output=True,
    text=True,
    cwd=here,
  )
  assert done.returncode == 0, done.stderr
  for each in json.loads(done.stdout):
    flag = next(w for w in reversed(each["words"]) if w.startswith("--"))
    assert each["status"] == 2, each
    assert each["said"].count("\n") == 1, each
    # A scenario's name is checked by what knows them all.
    assert flag in each["said"] or "no scenario" in each["said"], each
    assert not each["imported"] and not each["written"], each


@pytest.mark.parametrize(
  ("words", "says"),
  [
    (("annotate", *D, "--workers", "3"), "--workers is of a chat model"),
    (("annotate", *D, "--teacher", "openai"), "needs --model"),
    (("evaluate", *GIVEN["evaluate"], "--max-usd", "3"), "needs --prices"),
    (
      ("evaluate", *GIVEN["evaluate"], "--max-requests", "3"),
      "--max-requests is of a chat model: add --chat-model",
    ),
    (("compare", "nowhere", "results"), "A is nowhere: not a folder of res"),
    (("convert", "file", "q", "--to", "hf"), "SOURCE is file: not a folder"),
    (("convert", "model", "file", "--to", "hf"), "DEST is file: it is a file"),
    (("convert", "", "q", "--to", "hf"), "SOURCE: a path is needed"),
  ],
)
def test_what_does_not_go_together_is_refused(here, words, says):
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    input=json.dumps([words]),
    capture_output=True,
    text=True,
    cwd=here,
  )
  (found,) = json.loads(done.stdout)
  assert found["status"] == 2 and says in found["said"]
  assert not found["imported"] and not found["written"]


def test_the_door_knows_all_rankers():
  assert opt.RANKERS == ("all", *RANKERS)
