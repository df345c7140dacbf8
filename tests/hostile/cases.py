"""The bad inputs of `battery.py`, and the commands that it runs twice or kills.

A table of command lines with a hole `{}` is crossed with a table of what goes
wrong in it. Lines run in a copy of the world: `shop` (a dataset folder, built),
`packed`, `model` (of `train`), `export`, `hf`, `t5x`, `results`, `csv/*.csv`,
`scores.parquet`, `tiny.gin`.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import random
import resource
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

Change = Callable[[pathlib.Path], Callable[[], None] | None]
HUGE = "1" + "0" * 30
NOBODY = 65534


@dataclasses.dataclass(frozen=True)
class Case:
  """A command line that must be refused.

  Attributes:
    kind: the row of totals that it counts in.
    argv: the command's words; `HOME` in them is the copy's home.
    names: words that the sentence must have one of, separated by |.
    prepare: what is done to the copy of the world before; it may return what
      the process does to itself before the command.
    about: what `prepare` does.
    may_leave: what is written may stay, since a later run goes on from there.
    told: it is no bad input, and taken, but these words must be said.
  """

  kind: str
  argv: tuple[str, ...]
  names: str = ""
  prepare: Change | None = None
  about: str = ""
  may_leave: bool = False
  told: str = ""

  def __str__(self) -> str:
    line = shlex.join(word[-90:] for word in self.argv)
    return f"{line}  [{self.about}]" if self.about else line


@dataclasses.dataclass(frozen=True)
class Task:
  """A writing command for pairs and kills.

  Attributes:
    argv: its line.
    before: a line whose output it goes on from.
    beside: the line of a second run at once that ends as well; the same line,
      of which one ends, if it is empty.
    then: a line whose output tells what the first has made, where that has
      names and times of its own.
    may_repeat: a second run after the first's end succeeds and changes nothing.
    refusal: what else a second run may say.
  """

  argv: str
  before: str = ""
  beside: str = ""
  then: str = ""
  may_repeat: bool = False
  refusal: str = "exists already"


_BUILD = "build --dataset shop --families p1_i0_t3,p1_i0_t0 --input-length 160"
_PACK = (
  "pack instructrec_all_v1 --dataset shop --input-length 160 "
  "--target-length 32 --examples 200"
)
_TRAIN = "train --gin_file tiny.gin --gin.PACKED='\"packed\"'"
_SHARD = (
  "score --requests shop/requests/sequential_test.parquet --model export "
  "--shard {} --out {}"
)
_GENERATE = "generate --requests asked.jsonl --model export"
_CHAT = (
  "annotate --dataset shop --teacher openai --model m "
  "--base-url http://127.0.0.1:9/v1 --prices 1 1 --max-usd 1"
)
WORLD = (
  "prepare --format synthetic --users 200 --out shop",
  "annotate --dataset shop",
  _BUILD + " --train-vocab 400",
  _PACK + " --out packed",
  _TRAIN + " --gin.MODEL_DIR='\"model\"'",
  "export --model model --dataset shop --out export",
  "convert model hf --to hf",
  "convert model t5x --to t5x",
  "score --requests shop/requests/sequential_test.parquet --model export "
  "--out scores.parquet --limit 20",
  "evaluate --dataset shop --out results --model export --scenarios "
  "sequential --rankers popularity,cooccurrence,model --limit 40",
  "annotate --dataset shop --export answers.parquet",
  "annotate --dataset shop --sheet sheet.csv --samples 5",
  "prepare --format synthetic --users 200 --seed 1 --out plain",
  _SHARD.format("1/2", "half.jsonl"),
)

TASKS = (
  Task("prepare --format synthetic --users 200 --out new/shop"),
  Task("annotate --dataset plain", may_repeat=True),
  Task("annotate --dataset shop --export new/a.parquet"),
  Task("annotate --dataset shop --sheet new/a.csv"),
  Task(
    "annotate --dataset plain --teacher openai --model m "
    "--jsonl-out new/a.jsonl"
  ),
  Task(
    _BUILD.replace("shop", "plain") + " --train-vocab 300",
    refusal="is built already",
  ),
  Task(_PACK + " --out new/packed"),
  Task(
    _TRAIN + " --gin.MODEL_DIR='\"new/model\"'",
    then="export --model new/model --out trained",
    may_repeat=True,
  ),
  Task("convert model new/hf --to hf"),
  Task("convert model new/t5x --to t5x"),
  Task("export --model model --dataset shop --out new/export"),
  Task(
    "score --requests shop/requests/sequential_test.parquet --model export "
    "--out new/scores.parquet"
  ),
  Task(
    "score --requests shop/requests/sequential_test.parquet --model export "
    "--out new/scores.jsonl"
  ),
  Task(
    _SHARD.format("1/2", "new/scores.parquet"),
    beside=_SHARD.format("2/2", "new/scores.parquet"),
  ),
  Task(
    _SHARD.format("1/2", "new/scores.jsonl"),
    then=_SHARD.format("2/2", "new/scores.jsonl"),
    may_repeat=True,
  ),
  Task(
    _SHARD.format("2/2", "new/scores.jsonl"),
    before=_SHARD.format("1/2", "new/scores.jsonl"),
  ),
  Task(_GENERATE + " --beams 2 --out new/answers.jsonl"),
  Task(
    "evaluate --dataset shop --out new/results --model export --scenarios "
    "sequential --rankers popularity,model --limit 20"
  ),
  Task(
    "reproduce --dataset shop --out new/report --recipe tiny.gin --steps 2 "
    "--ladder-steps 2 --limit 10 --rankers popularity",
    may_repeat=True,
  ),
  Task("quickstart --out new/quick --users 200 --steps 2 --test-users 20"),
)


def write_files(world: pathlib.Path) -> None:
  """Writes what no command makes."""
  (world / "tiny.gin").write_text(
    "include 'gin/model/mini.gin'\ninclude 'gin/run/train.gin'\n"
    "EMB_DIM = 32\nNUM_HEADS = 2\nHEAD_DIM = 8\nMLP_DIM = 32\nNUM_LAYERS = 1\n"
    "BATCH_SIZE = 4\nTRAIN_STEPS = 4\nCHECKPOINT_PERIOD = 2\nLOG_PERIOD = 1\n"
  )
  (world / "mine.yaml").write_text(
    "- name: mine\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: 'Bought: {history}. What next?'\n"
  )
  (world / "asked.jsonl").write_text(
    '{"instruction": "what next?", "candidates": ["a tent", "a rope"]}\n' * 4
  )
  reviews = [
    _review(reviewerID=f"u{n % 9}", asin=f"i{n % 7}") for n in range(99)
  ]
  (world / "reviews.jsonl").write_text("".join(map(_line, reviews)))
  items = [{"asin": f"i{n}", "title": f"Good Thing {n}"} for n in range(9)]
  (world / "meta.jsonl").write_text("".join(map(_line, items)))
  (world / "titles.txt").write_text("a tent\na rope\n")
  (world / "empty.txt").write_text("\n")
  (world / "noise.pem").write_bytes(_noise(900))
  (world / "turns.yaml").write_text(
    "composed: {asked: '{}', narrowed: '{}', shown: '', chosen: '', "
    "refused: '', like: 'like {}'}\nsaid: {wish: ['a {kind}']}\n"
  )
  for name in ("foreign", "empty"):
    (world / name).mkdir()
  (world / "foreign" / "mine.txt").write_text("years of work\n")
  (world / "foreign.parquet").write_text("years of work\n")
  (world / "foreign.jsonl").write_text('{"years of": "work"}\n')
  (world / "foreign.csv").write_text("years of,work\n")
  (world / "csv").mkdir()
  (world / "csv" / "i.csv").write_text(_interactions())
  (world / "csv" / "t.csv").write_text(_items())


def _line(row: object) -> str:
  return json.dumps(row) + "\n"


def _interactions(change: Callable[[int, list], list] | None = None) -> str:
  rows = []
  for n in range(60 * 8):
    row = [
      f"u{n // 8}",
      f"i{(n * 7 + n // 8) % 24}",
      str(10**9 + n * 3600),
      "5",
    ]
    rows.append(",".join(change(n, row) if change else row))
  return "user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n"


def _items(title: Callable[[int], str] = "Good Thing {}".format) -> str:
  rows = [f"i{n},{title(n)},Sports|Tents" for n in range(24)]
  return "item_id,title,categories\n" + "\n".join(rows) + "\n"


# ---------------------------------------------------------------- arguments

# Of an option: C a count, c one where any large number is fine, S a seed, Z one
# from 0 where a large number is fine, F finite and from 0, P positive, X finite
# and from -10 to 10, R positive and at most 1, U from 0 to 1.
_VALUES = {
  "C": ("0", "-1", "nan", "1.5", HUGE, ""),
  "c": ("0", "-3", "inf", "x", "0x10", "1_0", "\u0663"),
  "S": ("-1", "nan", "1.5", HUGE),
  "Z": ("-1", "nan", "2.5", ""),
  "F": ("nan", "inf", "-1", "1e400", "x", "1_0", "\uff11"),
  "P": ("nan", "inf", "-1", "0", "", "1e-400"),
  "X": ("nan", "-inf", "11", "-1e400", "", "x"),
  "R": ("nan", "0", "-1", "1.5", "", "x"),
  "U": ("nan", "-0.1", "1.5", "1e308", "", "x"),
}
_NUMBERS = {
  "quickstart --out new/a": "users:C steps:C test-users:c seed:S",
  "prepare --format synthetic --out new/a": (
    "users:C min-count:Z max-items:Z seed:S"
  ),
  "annotate --dataset plain": "training-targets:Z seed:S",
  _CHAT.replace("shop", "plain"): (
    "temperature:F max-tokens:C workers:C requests-per-minute:P "
    "tokens-per-minute:P max-usd:F max-requests:Z"
  ),
  "annotate --dataset shop --sheet new.csv": "samples:c seed:S",
  _BUILD.replace("shop", "plain") + " --train-vocab 300": (
    "train-vocab:C rows-per-target:C input-length:C target-length:C seed:S "
    "unlisted:U"
  ),
  "inspect instructrec_all_v1 --dataset shop": (
    "sample:c examples:Z input-length:C target-length:C seed:S"
  ),
  _PACK + " --out new/a": (
    "input-length:C target-length:C examples:C seed:S spell:U"
  ),
  "plan --size small": (
    "batch:C input-length:C target-length:C microbatches:C lora-rank:C"
  ),
  "convert model new/a --to hf": "step:C",
  "score --requests asked.jsonl --model export --out new/a.jsonl": (
    "limit:c batch-tokens:C"
  ),
  "score --requests asked.jsonl --model model --out new/a.jsonl": "step:C",
  _GENERATE + " --out new/a.jsonl": (
    "limit:c batch:C max-tokens:C beams:C answers:C seed:S top-k:Z "
    "temperature:F top-p:R length-penalty:X"
  ),
  "generate --requests asked.jsonl --model model --out new/a.jsonl": "step:C",
  "chat --model export": "top:C",
  "chat --model model --dataset shop": "step:C",
  "evaluate --dataset shop --rankers popularity --out new/a": (
    "limit:c permutations:c resamples:C seed:S"
  ),
  "evaluate --dataset shop --rankers chat --chat-model m --chat-base-url "
  "http://127.0.0.1:9/v1 --prices 1 1 --max-usd 1 --out new/a": (
    "chat-limit:c max-usd:F max-requests:Z requests-per-minute:P "
    "tokens-per-minute:P"
  ),
  "compare results --rankers popularity model": "resamples:C seed:S",
  "reproduce --dataset plain --out new/a": (
    "steps:C ladder-steps:C limit:Z seed:S max-usd:F chat-limit:C "
    "max-requests:Z requests-per-minute:P tokens-per-minute:P"
  ),
  "ask hello --model export --candidates a b": "top:c input-length:C",
  "export --model model --out new/a": "step:C",
  "export --model model --int8 --dataset shop --out new/a": "epsilon:U",
  "serve --model export --port 0": (
    "waiting:C timeout:C batch-tokens:C port:S head-timeout:C keep-alive:C"
  ),
}

# No mixtures, of several names.
_WEIGHED = tuple(
  "instructrec_all_v1" + rest
  for rest in (
    ",instructrec_p1_i0_t3_v1",
    "=3,",
    "=3,=1",
    "=",
    "=0",
    "=-1,instructrec_p1_i0_t3_v1=1",
    "=nan",
    "=inf,instructrec_p1_i0_t3_v1=1",
    "=1e400",
    "=x",
    "=1,instructrec_all_v1=2",
    "=1,nothing_v1=1",
    "=1;instructrec_p1_i0_t3_v1=1",
    "=1_0",
    "=\uff11",
    "==3",
  )
)

# line -> words that the sentence needs; | separates alternatives.
_LINES = {
  "": (
    ("nothing", "nothing"),
    ("prepar", "prepar"),
    ("--hepl", "hepl"),
    ("--print-completion fish", "fish"),
    ("'prepare '", "prepare"),
    ("''", ""),
  ),
  "prepare": (
    ("--out new/a", "--format"),
    ("--format synthetic", "--out"),
    ("--format yelp --out new/a", "--format"),
    ("--format csv --out new/a", "--interactions"),
    ("--format csv --interactions csv/i.csv --out new/a", "--items"),
    ("--format amazon2018 --out new/a", "--reviews"),
    ("--format parquet --out new/a", "--interactions"),
    ("--format synthetic --out new/a --reviews x.json", "--reviews|reviews"),
    ("--format synthetic --out new/a --user-column u", "user|csv"),
    ("--format synthetic --out new/a --image-column u", "image|csv"),
    ("--format synthetic --out new/a --users \uff19\uff19", "--users"),
    ("--format synthetic --out new/a --split random", "--split"),
    ("--format synthetic --out new/a --forcee", "--force"),
    ("--format synthetic --out new/a extra", "extra"),
    ("--format synthetic --out new/a --users", "--users"),
    ("--format synthetic --out new/a --min-count 1000", "min-count|interact"),
    ("--format synthetic --out new/a --max-items 1", "max-items|item"),
    *(
      (
        f"--format csv --interactions csv/i.csv --items csv/t.csv {o} --out a",
        n,
      )
      for o, n in (
        ("--user-column item_id", "item_id"),
        ("--time-column user_id", "user_id"),
        ("--rating-column timestamp --time-column timestamp", "timestamp"),
        ("--title-column item_id", "item_id"),
        ("--title-column categories", "categories"),
        ("--user-column ''", "--user-column|column"),
        ("--user-column nobody", "nobody"),
        ("--title-column nothing", "nothing"),
        ("--users 300", "--users|users"),
        ("--reviews csv/i.csv", "--interactions"),
        ("--item-column user_id", "user_id"),
        ("--item-column nothing", "nothing"),
        ("--categories-column item_id", "item_id"),
        ("--categories-column nothing", "nothing"),
        ("--image-column item_id", "item_id"),
        ("--image-column title", "title"),
        ("--image-column nothing", "nothing"),
        ("--image-column ''", "--image-column|column"),
        ("--delimiter ''", "delimiter"),
        ("--delimiter ab", "delimiter"),
        ("--delimiter '\"'", "delimiter"),
        ("--delimiter a", "delimiter"),
        ("--delimiter ';'", "--delimiter|i.csv"),
        ("--delimiter '\n'", "delimiter"),
        ("--category-separator ''", "category separator"),
        ("--official csv/i.csv", "--official"),
        ("--split official", "official"),
        ("--test-from 2021-01-01", "--test-from|global-time"),
        *(
          (f"--split global-time {dates}", "from|moments")
          for dates in (
            "--validation-from soon --test-from 2001-09-12",
            "--validation-from 2001-09-10",
            "--test-from 2001-09-12",
            "--validation-from 2001-09-12 --test-from 2001-09-10",
            "--validation-from 2001-09-12 --test-from 2001-09-12",
            "--validation-from 1850-01-01 --test-from 2001-09-10",
            "--validation-from 2001-09-20 --test-from 2099-01-01",
            "--validation-from 2001-02-30 --test-from 2001-09-10",
            "--validation-from nan --test-from inf",
            "--validation-from '' --test-from ''",
            "--validation-from 99999-01-01 --test-from 2001-09-10",
          )
        ),
        ("--expect toys", "--expect"),
      )
    ),
  ),
  "annotate": (
    ("", "--dataset"),
    ("--dataset shop --teacher nobody", "--teacher"),
    ("--dataset shop --teacher openai", "--model"),
    ("--dataset shop --teacher openai --model ''", "--model|model"),
    (f"{_CHAT[9:]} --prices nan nan", "--prices"),
    (f"{_CHAT[9:]} --prices -10 -10", "--prices"),
    (f"{_CHAT[9:]} --prices 1 inf", "--prices"),
    (f"{_CHAT[9:]} --prices 1", "--prices"),
    (f"{_CHAT[9:]} --prices 1 x", "--prices"),
    (f"{_CHAT[9:]} --base-url nonsense", "--base-url"),
    (f"{_CHAT[9:]} --base-url ftp://127.0.0.1/v1", "--base-url"),
    (f"{_CHAT[9:]} --base-url http://", "--base-url"),
    (f"{_CHAT[9:]} --base-url ''", "--base-url"),
    (f"{_CHAT[9:]} --batch --jsonl-out new.jsonl", "--jsonl-out|--batch"),
    (f"{_CHAT[9:]} --jsonl-in a.jsonl --jsonl-out new.jsonl", "--jsonl"),
    ("--dataset shop --teacher openai --model m --max-usd 1", "--prices"),
    ("--dataset shop --prices 1 1", "--prices"),
    ("--dataset shop --max-usd 1", "--max-usd"),
    ("--dataset shop --workers 3", "--workers"),
    ("--dataset shop --judge", "--model|--judge"),
    ("--dataset shop --jsonl-out new.jsonl", "--jsonl-out"),
    ("--dataset shop --export new.parquet --import answers.parquet", "--"),
    ("--dataset plain --export new.parquet", "plain"),
    ("--dataset plain --sheet new.csv", "plain"),
    ("--dataset shop --sheet new.csv --read-sheet sheet.csv", "--"),
    ("--dataset shop --import shop/items.parquet", "items.parquet"),
    ("--dataset shop --read-sheet csv/t.csv", "t.csv"),
    ("--dataset shop --gate", "--gate|--judge"),
    ("--dataset shop --show --sheet new.csv", "--show|--sheet"),
    ("--dataset shop --show --judge", "--show|--judge"),
    ("--dataset plain --show", "plain"),
    ("--dataset shop --dry-run --export new.parquet", "--dry-run|--export"),
    ("--dataset shop --dry-run --sheet new.csv", "--dry-run|--sheet"),
    (f"{_CHAT[9:]} --dry-run --prices nan 1", "--prices"),
  ),
  "statistics": (
    ("", "--dataset"),
    ("--dataset shop --dataset", "--dataset"),
    ("--dataset shop shop", "shop"),
    ("--dataset packed", "packed"),
    ("--dataset model", "model"),
    ("--dataset csv", "csv"),
  ),
  "templates": (
    ("--file nothing.yaml", "nothing.yaml"),
    ("--file tiny.gin", "tiny.gin"),
    ("--file mine.yaml mine.yaml", "mine"),
    ("--file shop", "shop"),
    ("--json --markdown", "--markdown"),
    ("--paraphrases", "--paraphrases"),
    ("--file", "--file"),
    ("--file ''", "--file"),
  ),
  "build": (
    ("--dataset shop --train-vocab 300", "shop"),
    ("--dataset plain", "--vocab"),
    ("--dataset plain --vocab shop/vocabulary.model --train-vocab 300", "--"),
    ("--dataset plain --train-vocab 3", "--train-vocab|3"),
    ("--dataset plain --train-vocab 2000000", "--train-vocab"),
    ("--dataset plain --train-vocab 300 --families p9_i9_t9", "p9_i9_t9"),
    ("--dataset plain --train-vocab 300 --families ''", "--families"),
    ("--dataset plain --train-vocab 300 --families p1_i0_t3,", "--families"),
    (
      "--dataset plain --train-vocab 300 --families p1_i0_t3,p1_i0_t3",
      "p1_i0_t3",
    ),
    ("--dataset plain --train-vocab 300 --matcher bert", "--matcher"),
    ("--dataset plain --train-vocab 300 --cold-items some", "--cold-items"),
    ("--dataset plain --train-vocab 300 --templates", "--templates"),
    ("--dataset plain --train-vocab 300 --templates ''", "--templates"),
    *(
      (f"--dataset plain --train-vocab 300 --templates {words}", names)
      for words, names in (
        ("Unlisted", "Unlisted"),
        ("unlisted,crowd", "unlisted,crowd"),
        ("unlisted unlisted", "unlisted"),
        ("unlisted mine.yaml", "mine"),
        ("unlisted --families p1_i0_t3", "p1_i0_t3"),
        ("pairwise --families p1_i0_t2", "p1_i0_t2"),
        ("package --paraphrases yes", "yes"),
      )
    ),
    ("--dataset plain --vocab export/model.safetensors", "model.safetensors"),
    ("--dataset plain --train-vocab 300 --families p1_i1_t3", "p1_i1_t3|anno"),
    ("--dataset plain --train-vocab 300 --pieces letters", "--pieces"),
    ("--dataset plain --train-vocab 300 --pieces ''", "--pieces"),
    ("--dataset plain --vocab shop/vocabulary.model --pieces titles", "pieces"),
    ("--dataset plain --vocab shop/vocabulary.model --fold-case", "fold"),
    ("--dataset plain --train-vocab 300 --fold-case yes", "yes"),
    ("--dataset plain --train-vocab 300 --sequences 3", "3"),
    ("--dataset plain --fold-case", "vocab"),
    ("--dataset plain --train-vocab 300 --beam_options a=1", "--beam_runner"),
    ("--dataset plain --train-vocab 300 --beam_runner ''", "--beam_runner"),
    (
      "--dataset plain --train-vocab 300 --beam_runner Direct --workers 2",
      "--workers",
    ),
    *(
      (f"--dataset plain --train-vocab 300 --beam_runner {words}", "beam")
      for words in (
        *("Nothing", ".", "os.system", "os.getcwd"),
        *(
          f"DirectRunner --beam_options {options}"
          for options in (
            *("''", "=", "nothing=1", "help", "runner=DataflowRunner"),
            *("direct_num_workers", "direct_num_workers=x"),
            *("direct_num_workers=-3", "direct_num_workers=2,"),
            "direct_running_mode=x",
          )
        ),
      )
    ),
    ("--dataset plain --train-vocab 300 --text-encoder bert", "--text-encoder"),
    (
      "--dataset plain --train-vocab 300 --matcher two_tower --text-encoder "
      "nowhere/at/all",
      "nowhere|text|encoder",
    ),
    (
      "--dataset plain --train-vocab 300 --matcher two_tower --text-encoder ''",
      "--text-encoder",
    ),
  ),
  "inspect": (
    *((f"{m} --dataset shop", "mixture") for m in _WEIGHED),
    ("--dataset shop", "MIXTURE|mixture"),
    ("nothing_v1 --dataset shop", "nothing_v1"),
    ("instructrec_all_v1 --dataset plain", "plain"),
    ("'' --dataset shop", ""),
    ("instructrec_all_v1 --dataset shop --split dev", "--split"),
    ("instructrec_all_v1 --dataset packed", "packed"),
    ("instructrec_all_v1 --dataset shop --input-length 1", "--input-length|1"),
    (
      "instructrec_all_v1 --dataset shop --target-length 1",
      "--target-length|1",
    ),
  ),
  "pack": (
    *((f"{m} --dataset shop --out new/a", "mixture") for m in _WEIGHED),
    ("instructrec_all_v1 --dataset shop", "--out"),
    ("nothing_v1 --dataset shop --out new/a", "nothing_v1"),
    ("'' --dataset shop --out new/a", ""),
    ("instructrec_all_v1 --dataset plain --out new/a", "plain"),
    ("instructrec_all_v1 --dataset shop --out packed", "packed"),
    ("instructrec_all_v1 --dataset shop --out shop", "shop"),
    ("instructrec_all_v1 --dataset shop --out shop/x --split dev", "--split"),
    ("a b --dataset shop --out new/a", "b"),
    (
      "instructrec_all_v1 --dataset shop --out new/a --input-length 1",
      "--input-length|1",
    ),
    (
      "instructrec_all_v1 --dataset shop --out new/a --target-length 1",
      "--target-length|1",
    ),
  ),
  "plan": (
    ("", "--size|--gin_file"),
    ("--size huge", "huge"),
    ("--size ''", "--size"),
    ("--size small --gin_file tiny.gin", "--"),
    ("--gin_file nothing.gin", "nothing.gin"),
    ("--gin_file mine.yaml", "mine.yaml"),
    *(
      (f"--size small --mesh {m}", "mesh")
      for m in (
        "00x1",
        "\uff11x1",
        "0x1",
        "axb",
        "1",
        "-1x-1",
        "1x1x1",
        "''",
        "nanx1",
        f"{HUGE}x1",
      )
    ),
    *(
      (f"--size small --memory {m}", "memory")
      for m in (
        "80",
        "\uff18GiB",
        "nanGiB",
        "infGiB",
        "-1GiB",
        "0GiB",
        "''",
        "1e400GiB",
      )
    ),
    ("--size small --optimizer sgd", "--optimizer"),
    ("--size small --dtype int8", "--dtype"),
    ("--size small --remat some", "--remat"),
    ("--size small --batch 3 --microbatches 2", "microbatches"),
    ("--size small --mesh 3x1 --batch 4", "--batch|batch"),
    ("--size small --zero 1", "1"),
    ("--size small --zero --mesh 1x0", "mesh"),
    ("--size small --lora-rank 100000", "--lora-rank|rank"),
    ("--size small --compile --mesh 4096x4096 --batch 16777216", "--compile"),
    ("--size xl --compile --mesh 1x7", "mesh"),
  ),
  _TRAIN: (
    ("", "MODEL_DIR"),
    ("--gin.MODEL_DIR=new", "MODEL_DIR|new"),
    ("--gin.MODEL_DIR=None", "MODEL_DIR|model_dir"),
    ("--gin.MODEL_DIR=3", "MODEL_DIR|model_dir"),
    ("--gin.MODEL_DIR='\"\"'", "MODEL_DIR"),
    ("extra", "extra"),
    ("--gin.=3", "gin"),
    ("--gin", "--gin"),
    ("--gin_search_paths nowhere --gin.MODEL_DIR='\"new\"'", "nowhere"),
    *(
      (f"--gin.MODEL_DIR='\"new\"' {words}", names)
      for words, names in (
        *(
          (f"--gin.TRAIN_STEPS={v}", "TRAIN_STEPS|steps")
          for v in (
            "0",
            "-1",
            "None",
            "1.5",
            "float('nan')",
            HUGE,
            "True",
            "'\"3\"'",
          )
        ),
        *(
          (f"--gin.BATCH_SIZE={v}", "BATCH_SIZE|batch_size")
          for v in (
            "0",
            "-4",
            "None",
            "2.5",
            HUGE,
            "[4]",
          )
        ),
        *(
          (f"--gin.LEARNING_RATE={v}", "LEARNING_RATE|peak|learning")
          for v in (
            "-1.0",
            "1e400",
            "-1e400",
            "None",
            "'\"high\"'",
            "0",
          )
        ),
        *(
          (f"--gin.MICROBATCHES={v}", "MICROBATCHES|microbatches")
          for v in (
            "0",
            "3",
            "-1",
            "None",
            "1.5",
          )
        ),
        *(
          (f"--gin.CHECKPOINT_PERIOD={v}", "CHECKPOINT_PERIOD|checkpoint_")
          for v in ("0", "-1", "None", "0.5")
        ),
        *(
          (f"--gin.LOG_PERIOD={v}", "LOG_PERIOD|log_period")
          for v in (
            "0",
            "-1",
            "None",
          )
        ),
        *(
          (f"--gin.SEED={v}", "SEED|seed")
          for v in (
            "-1",
            "None",
            "0.5",
            HUGE,
            "'\"x\"'",
          )
        ),
        *(
          (f"--gin.MESH={v}", "MESH|mesh|shape")
          for v in (
            "'\"0x1\"'",
            "'\"7x1\"'",
            "'\"x\"'",
            "3",
            "'\"\"'",
          )
        ),
        *(
          (f"--gin.WARMUP_STEPS={v}", "WARMUP_STEPS|warmup")
          for v in (
            "-1",
            "None",
            "1.5",
          )
        ),
        ("--gin.PACKED='\"nowhere\"'", "nowhere"),
        ("--gin.PACKED='\"shop\"'", "shop"),
        ("--gin.PACKED='\"export\"'", "export"),
        ("--gin.PACKED='\"packed/manifest.json\"'", "manifest.json"),
        ("--gin.PACKED=None", "PACKED"),
        ("--gin.PACKED=None --gin.MIXTURE='\"x\"'", "DATASET"),
        ("--gin.MIXTURE='\"x\"' --gin.DATASET='\"shop\"'", "MIXTURE|PACKED"),
        ("--gin.INITIAL_CHECKPOINT='\"nowhere\"'", "nowhere"),
        ("--gin.INITIAL_CHECKPOINT='\"shop\"'", "shop"),
        ("--gin.VALIDATION_REQUESTS='\"nowhere.parquet\"'", "nowhere"),
        ("--gin.VALIDATION_REQUESTS='\"shop/items.parquet\"'", "items"),
        ("--gin.VALIDATION_REQUESTS='\"asked.jsonl\"'", "asked.jsonl"),
        ("--gin.VALIDATION_LIMIT=-1", "VALIDATION_LIMIT|limit"),
        ("--gin.VALIDATION_NORMALISATION='\"z\"'", "normalisation"),
        ("--gin.VALIDATION_NORMALISATION=3", "normalisation"),
        *(
          (f"--gin.INITIAL_SVD={v}", names)
          for v, names in (
            *(("3", "INITIAL_SVD"), ("shop", "INITIAL_SVD")),
            *(("True", "INITIAL_SVD"), ("'\"\"'", "INITIAL_SVD")),
            *(("'\"nowhere\"'", "nowhere"), ("'\"packed\"'", "packed")),
            *(("'\"model\"'", "model"), ("'\"tiny.gin\"'", "tiny.gin")),
            ("'\"shop\"' --gin.INITIAL_CHECKPOINT='\"model\"'", "not both"),
            ("'\"shop\"'", "NUM_HEADS"),
            ("'\"shop\"' --gin.EMB_DIM=1", "EMB_DIM"),
            ("'\"shop\"' --gin.EMB_DIM=3", "EMB_DIM"),
            ("'\"shop\"' --gin.LORA_RANK=2", "LORA_RANK"),
          )
        ),
        *(
          (f"--gin.TITLE_DROPOUT={v}", "TITLE_DROPOUT|title_dropout")
          for v in ("-1", "1.5", "None", "'\"x\"'", "True", "nan")
        ),
        ("--gin.MESH='\"\uff11x1\"'", "mesh"),
        ("--gin.EMB_DIM=0", "EMB_DIM|emb_dim"),
        ("--gin.NUM_LAYERS=-1", "NUM_LAYERS|layers"),
        ("--gin.NUM_HEADS=0", "NUM_HEADS|num_heads"),
        ("--gin.HEAD_DIM=1.5", "HEAD_DIM|head_dim"),
        (f"--gin.MLP_DIM={HUGE}", "MLP_DIM|mlp_dim"),
        ("--gin.DROPOUT_RATE=2.0", "DROPOUT_RATE|dropout"),
        ("--gin.DROPOUT_RATE=-0.5", "DROPOUT_RATE|dropout"),
        ("--gin.ACTIVATION_DTYPE='\"int8\"'", "ACTIVATION_DTYPE|dtype"),
        ("--gin.ACTIVATION_DTYPE='\"x\"'", "ACTIVATION_DTYPE|dtype|'x'"),
        ("--gin.TRAIN_STPES=3", "TRAIN_STPES"),
        ("--gin.loop.train.nothing=3", "nothing"),
        ("--gin.OPTIMIZER=@nothing()", "nothing"),
        ("--gin.OPTIMIZER=3", "OPTIMIZER|optimizer"),
        ("--gin.SCHEDULE=None", "SCHEDULE|learning_rate|schedule"),
        ("--gin.TRAIN_STEPS=(", "TRAIN_STEPS"),
        ("'--gin.TRAIN_STEPS=4;import os'", "TRAIN_STEPS"),
        ("--gin.TRAIN_STEPS", "TRAIN_STEPS"),
        ("--gin_file nothing.gin", "nothing.gin"),
        ("--gin_file mine.yaml", "mine.yaml"),
        ("--gin_file shop", "shop"),
        ("--gin_file ''", "gin_file"),
      )
    ),
  ),
  "convert": (
    ("model --to hf", "DEST"),
    ("model new/a", "--to"),
    ("model new/a --to onnx", "--to"),
    ("nowhere new/a --to hf", "nowhere"),
    ("shop new/a --to hf", "shop"),
    ("model model --to hf", "model"),
    ("model . --to hf", "exists|."),
    ("model new/a --to hf --size xl", "size"),
    ("model new/a --to hf --size tremendous", "tremendous"),
    ("model new/a --to hf --step latest", "--step|latest"),
    ("model new/a --to hf --step best", "best"),
    ("model new/a --to hf --step 3", "3"),
    ("model new/a --to hf --step ''", "--step|step"),
    ("export new/a --to hf --step 7", "--step|step|7"),
    ("hf new/a --to ours --vocabulary nowhere.model", "nowhere.model"),
    ("t5x new/a --to ours", "--vocabulary"),
    ("hf new/a --to ours --vocabulary tiny.gin", "tiny.gin"),
    ("model new/a --to hf --dtype int8", "--dtype"),
    ("model new/a --to t5x --activations int8", "--activations"),
    ("model new/a --to peft", "adapters|LORA_RANK|peft"),
    ("export new/a --to peft", "adapters|LORA_RANK|peft"),
    ("model new/a --to hf --base nowhere", "nowhere"),
    ("model new/a --to hf --base hf", "--base"),
    ("hf new/a --to ours --base hf", "--base"),
  ),
  "score": (
    ("--requests asked.jsonl --model export", "--out"),
    ("--requests asked.jsonl --model export --out new/a.txt", "a.txt"),
    ("--requests asked.jsonl --model export --out new/a", "new/a"),
    ("--requests tiny.gin --model export --out new/a.jsonl", "tiny.gin"),
    ("--requests asked.jsonl --model export --out asked.jsonl", "asked.jsonl"),
    ("--requests asked.jsonl --model shop --out new/a.jsonl", "shop"),
    ("--requests asked.jsonl --model hf --out new/a.jsonl", "hf"),
    ("--requests asked.jsonl --model packed --out new/a.jsonl", "packed"),
    ("--requests asked.jsonl --model export --out a.jsonl --step 7", "step"),
    ("--requests asked.jsonl --model model --out a.jsonl --step best", "best"),
    ("--requests asked.jsonl --model model --out a.jsonl --step x", "step|x"),
    (
      "--requests asked.jsonl --model model --out a.jsonl --normalisation z",
      "--normalisation",
    ),
    ("--requests shop/items.parquet --model model --out a.jsonl", "items"),
    ("--requests asked.jsonl --model model --out scores.parquet", "scores"),
    (
      "--requests asked.jsonl --model export --out a.jsonl --vocabulary "
      "shop/vocabulary.model",
      "--vocabulary|vocabulary",
    ),
    (
      "--requests asked.jsonl --model t5x/checkpoint_4 --out a.jsonl "
      "--vocabulary tiny.gin",
      "tiny.gin",
    ),
    ("--requests asked.jsonl --model t5x/checkpoint_4 --out a.jsonl", "--voc"),
    *(
      (
        f"--requests asked.jsonl --model export --out new/a.jsonl --shard={k}",
        "shard",
      )
      for k in (
        *("0/2", "3/2", "1/0", "0/0", "-1/2", "1/-2", "1/10001", "1/2/3"),
        *("1", "''", "/", "1/", "x/y", "nan/2", "1.5/2", "1/inf", f"1/{HUGE}"),
        *("١/٢", "¹/2", "' 1/2'", "1/2%"),
      )
    ),
    ("--requests asked.jsonl --model export --out a.jsonl --shard", "--shard"),
    (f"{_SHARD[6:].format('1/2', 'scores.parquet')}", "scores.parquet"),
    (f"{_SHARD[6:].format('1/2', 'half.jsonl')} --limit", "--limit"),
    (
      f"{_SHARD[6:].format('1/2', 'half.jsonl')} --normalisation mean",
      "half.jsonl",
    ),
  ),
  "generate": (
    ("--requests asked.jsonl --model export", "--out"),
    ("--requests asked.jsonl --out new/a.jsonl", "--model"),
    ("--model export --out new/a.jsonl", "--requests"),
    (f"{_GENERATE[9:]} --out new/a.txt", "a.txt"),
    (f"{_GENERATE[9:]} --out new/a", "new/a"),
    (f"{_GENERATE[9:]} --out asked.jsonl", "asked.jsonl"),
    (f"{_GENERATE[9:]} --out scores.parquet", "scores"),
    (f"{_GENERATE[9:]} --out scores.parquet --force", "scores"),
    ("--requests tiny.gin --model export --out a.jsonl", "tiny.gin"),
    *(
      (f"--requests asked.jsonl --model {m} --out new/a.jsonl", m)
      for m in ("shop", "hf", "packed", "results", "csv")
    ),
    *(
      (f"{_GENERATE[9:]} --out new/a.jsonl {words}", names)
      for words, names in (
        ("--rules fair", "--rules"),
        ("--top-k 4", "top_k|--top-k"),
        ("--top-p 0.5", "top_p|--top-p"),
        ("--beams 4 --temperature 1", "beam"),
        ("--answers 3", "answers"),
        ("--beams 2 --answers 3", "answers"),
        ("--beams 65", "--beams"),
        ("--answers 65 --temperature 1", "--answers"),
        ("--max-tokens 1025", "--max-tokens"),
        ("--temperature 101", "--temperature"),
        ("--length-penalty 2", "length"),
        ("--rules t5x", "rules"),
        ("--beams", "--beams"),
        ("--step 7", "step|7"),
        ("--step latest", "--step"),
        ("--vocabulary nowhere.model", "nowhere.model"),
        ("--vocabulary shop/vocabulary.model", "vocabulary"),
        ("--catalogue csv", "csv"),
        ("--catalogue packed", "packed"),
        ("--catalogue model", "model"),
        ("--catalogue hf", "hf"),
        ("--catalogue shop --max-tokens 1", "--max-tokens|title|tokens"),
        ("--limit 2 --limit", "--limit"),
        ("extra", "extra"),
      )
    ),
    (
      "--requests asked.jsonl --model t5x/checkpoint_4 --out new/a.jsonl",
      "--vocabulary",
    ),
    (
      "--requests asked.jsonl --model t5x/checkpoint_4 --out new/a.jsonl "
      "--vocabulary tiny.gin",
      "tiny.gin",
    ),
  ),
  "chat": (
    ("", "--model"),
    ("--model shop", "shop"),
    ("--model hf", "hf"),
    ("--model packed", "packed"),
    ("--model t5x/checkpoint_4", "checkpoint_4"),
    ("--model model", "--dataset"),
    ("--model export --dataset csv", "csv"),
    ("--model export --dataset packed", "packed"),
    ("--model export --top 101", "--top"),
    ("--model export --history ''", "--history|title"),
    ("--model export --history '<br>'", "--history|title"),
    ("--model export --history", "--history"),
    ("--model export --preference", "--preference"),
    ("--model export --templates nothing.yaml", "nothing.yaml"),
    ("--model export --templates mine.yaml mine.yaml", "mine"),
    ("--model export --templates tiny.gin", "tiny.gin"),
    ("--model export --turns nothing.yaml", "nothing.yaml"),
    ("--model export --turns tiny.gin", "tiny.gin"),
    ("--model export --turns mine.yaml", "mine.yaml"),
    ("--model export --turns ''", "--turns"),
    ("--model export --step best", "best|step"),
    ("--model export --step 7", "step|7"),
    ("--model model --dataset shop --step 7", "7"),
    ("--model export hello", "hello"),
  ),
  "evaluate --dataset shop": (
    ("", "--out"),
    ("--out results", "results"),
    ("--out new/a --scenarios nothing", "nothing"),
    ("--out new/a --rankers nothing.run", "nothing.run"),
    ("--out new/a --rankers shop", "shop"),
    ("--out new/a --scenarios ''", "--scenarios"),
    ("--out new/a --scenarios sequential,sequential", "sequential"),
    ("--out new/a --scenarios product_search_i1", "product_search_i1"),
    ("--out new/a --rankers nothing", "nothing"),
    ("--out new/a --rankers ''", "--rankers"),
    ("--out new/a --rankers popularity,popularity", "popularity"),
    ("--out new/a --rankers model", "--model"),
    ("--out new/a --rankers chat", "--chat-model"),
    ("--out new/a --rankers popularity --chat-model m", "chat"),
    ("--out new/a --rankers popularity --max-usd 1", "--max-usd|chat"),
    ("--out new/a --rankers popularity --dry-run", "--dry-run|chat"),
    ("--dry-run", "--dry-run"),
    ("--rankers popularity", "--out"),
    ("--dry-run --rankers chat --chat-model m --prices nan 1", "--prices"),
    ("--dry-run --rankers chat --chat-model m --scenarios none", "none"),
    ("--dataset plain --dry-run --rankers chat --chat-model m", "plain"),
    *(
      (f"--out new/a --scenarios sequential --limit 9 --rankers {name}", names)
      for name, names in (
        ("scores.parquet", "scores.parquet"),  # of some requests alone
        ("'scores-*.parquet'", "scores-*"),
        ("'**.parquet'", "parquet"),
        ("'nowhere/*.parquet'", "nowhere"),
        ("shop/items.parquet", "request_id"),
        ("results/scores/sequential.parquet", "sequential.parquet"),
        ("scores.parquet,./scores.parquet", "scores.parquet"),
        (f"{'x' * 300}.parquet", "xxx"),
      )
    ),
    ("--out new/a --rankers popularity --select-template", "--model"),
    ("--out new/a --rankers popularity --normalisation pmi", "--model"),
    ("--out new/a --rankers popularity --permutations 3", "--model"),
    ("--out new/a --model shop", "shop"),
    ("--out new/a --model export --split train", "--split"),
    ("--out new/a --rankers dssm --text-encoder nowhere/at/all", "dssm"),
    ("--out new/a --rankers dssm --text-encoder ''", "--text-encoder"),
    ("--out new/a --rankers popularity --text-encoder x", "--text-encoder"),
    ("--out new/a --dataset csv", "csv"),
    ("--out new/a --rankers popularity --steer", "--steer|--model"),
    ("--out new/a --rankers popularity --reason", "--reason|--model"),
    ("--out new/a --rankers popularity --probe", "--probe|--model"),
    ("--out new/a --model export --cutoff 2001-09-12", "--probe|--cutoff"),
    *(
      (f"--out new/a --model export --probe --cutoff {date}", "--cutoff")
      for date in ("soon", "2001-02-30", "12/09/2001", "''", "nan", HUGE)
    ),
    ("--out new/a --zero-shot shop", "shop"),
    ("--out new/a --model export --zero-shot nowhere", "nowhere"),
    ("--out new/a --rankers popularity --multi_process", "process"),
    ("--out new/a --trec yes", "yes"),
    ("--out new/a/report.html/x --limit", "--limit"),
    ("--out results/report.html", "report.html"),
    ("--out results/report.html --force", "report.html"),
  ),
  "compare": (
    ("", "A"),
    ("results", "--rankers"),
    ("results nowhere", "nowhere"),
    ("results shop", "shop"),
    ("results results", "results"),
    ("results --rankers popularity", "--rankers"),
    ("results --rankers popularity popularity", "popularity"),
    ("results --rankers popularity nothing", "nothing"),
    ("results --rankers '' ''", "--rankers"),
    ("results --rankers popularity model --scenarios nothing", "nothing"),
    ("results --rankers popularity model --scenarios ''", "--scenarios"),
    ("results/results.json --rankers popularity model", "results.json"),
  ),
  "reproduce --dataset plain": (
    ("", "--out"),
    ("--out plain", "plain"),
    ("--out new/a --recipe nothing.gin", "nothing.gin"),
    ("--out new/a --recipe mine.yaml", "mine.yaml"),
    ("--out new/a --recipe gin/model/mini.gin", "gin/run/train.gin"),
    ("--out new/a --recipe gin/experiment/nothing.gin", "nothing.gin"),
    ("--out new/a --recipe gin/experiment", "experiment"),
    ("--out new/a --rankers nothing", "nothing"),
    ("--out new/a --rankers ''", "--rankers"),
    ("--out new/a --unseen nowhere", "nowhere"),
    ("--out new/a --unseen plain", "plain"),
    ("--out new/a --unseen csv", "csv"),
    ("--out new/a --vocab tiny.gin", "tiny.gin"),
    ("--out new/a --zero-shot shop", "shop"),
    ("--out new/a --rankers chat", "--chat-model"),
    ("--out new/a --max-usd 1", "--max-usd|chat"),
    ("--out new/a --dataset csv", "csv"),
    ("--out foreign", "foreign"),
    ("--out new/a --rankers chat --chat-model ''", "--chat-model"),
    (
      "--out new/a --rankers chat --chat-model m --chat-base-url nonsense",
      "--chat-base-url",
    ),
    (
      "--out new/a --rankers chat --chat-model m --prices nan 1 --max-usd 1",
      "--prices",
    ),
    (
      "--out new/a --rankers chat --chat-model m --prices 1 -1 --max-usd 1",
      "--prices",
    ),
    ("--out new/a --rankers chat --chat-model m --max-usd 1", "--prices"),
    ("--out new/a --built-templates 3", "3"),
  ),
  "ask": (
    ("''", "WORDS|words"),
    ("hello --model nowhere --candidates a b", "nowhere"),
    ("hello --model export --candidates ''", "--candidates|title"),
    ("hello --model export --candidates a ' '", "--candidates|title"),
    ("hello --model export --candidates a '<br>'", "--candidates|<br>"),
    ("hello --model export --candidates a '\u200b'", "--candidates|title"),
    ("hello --model export --candidates a --dataset shop", "--"),
    ("hello --model export --candidates-file nowhere.txt", "nowhere.txt"),
    ("hello --model export --candidates-file shop/templates", "templates"),
    (
      "hello --model export --candidates-file answers.parquet",
      "answers.parquet",
    ),
    ("hello --model export --dataset plain --template Z99", "Z99"),
    ("hello --kind odd", "--kind"),
    ("hello --template Z99", "Z99"),
    ("hello --template ''", "--template"),
    ("hello --templates nothing.yaml", "nothing.yaml"),
    ("hello --history ''", "--history|title"),
    ("hello world", "world"),
    ("hello --reason", "--model"),
    ("hello --reason --model shop --candidates a b", "shop"),
    ("hello --context", "--context"),
    ("hello --preference", "--preference"),
    ("hello --template A1 --context \udcff", "context|text"),
  ),
  "export": (
    ("--out new/a", "--model"),
    ("--model model", "--out"),
    ("--model export --out new/a", "export"),
    ("--model model --out export", "export"),
    ("--model shop --out new/a", "shop"),
    ("--model model --dataset packed --out new/a", "packed"),
    ("--model model --step best --out new/a", "best"),
    ("--model model --step ten --out new/a", "--step|ten"),
    ("--model model --templates nothing.yaml --out new/a", "nothing.yaml"),
    ("--model model --out new/a --epsilon 0.5", "--int8"),
    ("--model model --out new/a --requests asked.jsonl", "--int8"),
    ("--model model --out new/a --int8", "--requests"),
    ("--model model --out new/a --int8 --dataset plain", "plain"),
    *(
      (f"--model model --out new/a --int8 --requests {name}", name)
      for name in (
        *("asked.jsonl", "shop/items.parquet", "scores.parquet", "shop"),
        *("nowhere.parquet", "empty.txt"),
      )
    ),
    ("--model model --templates mine.yaml mine.yaml --out new/a", "mine"),
  ),
  "serve": (
    ("", "--model"),
    ("--model shop", "shop"),
    ("--model export --port 65536", "65536|--port"),
    ("--model export --port 0 --host 999.1.1.1", "999.1.1.1"),
    ("--model export --port 0 --host no.such.host.invalid", "no.such.host"),
    ("--model export --port 0 --host ''", "--host"),
    ("--model export --port 0 --step best", "best"),
    ("--model export --port 0 --dataset csv", "csv"),
    ("--model export --port 0 --templates nothing.yaml", "nothing.yaml"),
    ("--model export --port 0 --api-key nowhere.txt", "nowhere.txt"),
    ("--model export --port 0 --api-key export", "export"),
    ("--model export --port 0 --api-key empty.txt", "empty.txt"),
    ("--model export --port 0 --api-key noise.pem", "noise.pem"),
    ("--model export --port 0 --cors-origins shop", "--cors-origins"),
    ("--model export --port 0 --cors-origins ''", "--cors-origins"),
    (
      "--model export --port 0 --cors-origins https://a.example/x",
      "--cors-origins",
    ),
    (
      "--model export --port 0 --cors-origins https://a.example "
      "https://a.example",
      "--cors-origins",
    ),
    *(
      (f"--model export --port 0 --allowed-hosts {words}", "--allowed-hosts")
      for words in ("", "''", "https://a", "'a b'", "a:80", "a/b", "a.b a.b")
    ),
    ("--model export --port 0 --root-path recs", "--root-path"),
    ("--model export --port 0 --root-path /recs/", "--root-path"),
    ("--model export --port 0 --root-path '/a b'", "--root-path"),
    ("--model export --port 0 --ssl-certfile nowhere.pem", "nowhere.pem"),
    ("--model export --port 0 --ssl-certfile tiny.gin", "tiny.gin"),
    ("--model export --port 0 --ssl-certfile noise.pem", "noise.pem"),
    ("--model export --port 0 --ssl-keyfile tiny.gin", "--ssl-"),
    ("--model export --port 0 --request-log yes", "yes"),
    ("--model export --port 0 --truncate yes", "yes"),
    ("--model export --port 0 --images yes", "yes"),
  ),
  "mcp": (
    ("", "--model"),
    ("--model shop", "shop"),
    ("--model hf", "hf"),
    ("--model model --dataset csv", "csv"),
    ("--model export --templates nothing.yaml", "nothing.yaml"),
    ("--model export --step best", "best|step"),
    ("--model export hello", "hello"),
  ),
}


# What a path has in it shows as one line.
_LINES["statistics"] += (("--dataset 'a\nb'", "a\\nb"),)
_LINES["templates"] += (("--file 'a\x1b[31mb'", "a\\x1b[31mb"),)
_LINES["compare"] += (("'a\nb' --rankers popularity model", "a\\nb"),)

# What is taken though odd -> what must be said of it.
_TOLD = {
  "annotate --dataset shop --read-sheet sheet.csv": "no answer is filled in",
  "ask hello --model export --candidates caf\u00e9 cafe\u0301": (
    "each title is ranked once"
  ),
}


def _arguments() -> Iterator[Case]:
  for line, options in _NUMBERS.items():
    for option in options.split():
      name, _, kind = option.partition(":")
      for value in _VALUES[kind]:
        words = (*shlex.split(line), f"--{name}={value}")
        yield Case("numbers", words, f"--{name}|{name.replace('-', '_')}")
  for line, group in _LINES.items():
    for words, names in group:
      yield Case("arguments", tuple(shlex.split(f"{line} {words}")), names)
  for line, told in _TOLD.items():
    yield Case("arguments", tuple(shlex.split(line)), told=told)
  yield Case(
    "servers",
    ("serve", "--model", "export", "--port", str(_used_port())),
    str(_used_port()),
  )


_held: list[socket.socket] = []


def _used_port() -> int:
  if not _held:
    _held.append(socket.create_server(("127.0.0.1", 0)))
  return _held[0].getsockname()[1]


# -------------------------------------------------------------------- paths

_INPUTS = {  # line with a hole -> whether a folder belongs there
  "statistics --dataset {}": True,
  "annotate --dataset {}": True,
  "annotate --dataset shop --import {}": False,
  "annotate --dataset shop --read-sheet {}": False,
  "annotate --dataset shop --teacher openai --model m --jsonl-in {}": False,
  "prepare --format amazon2018 --metadata meta.jsonl --reviews {} --out n/a": (
    False
  ),
  "prepare --format csv --items csv/t.csv --interactions {} --out new/a": False,
  "prepare --format csv --interactions csv/i.csv --items {} --out new/a": False,
  "prepare --format parquet --items csv/t.csv --interactions {} --out n/a": (
    False
  ),
  "templates --file {}": False,
  "build --dataset {} --train-vocab 300": True,
  "build --dataset plain --vocab {}": False,
  "build --dataset plain --train-vocab 300 --templates {}": False,
  "inspect instructrec_all_v1 --dataset {}": True,
  "pack instructrec_all_v1 --dataset {} --out new/a": True,
  "plan --gin_file {}": False,
  "train --gin_file tiny.gin --gin_file {}": False,
  "train --gin_file tiny.gin --gin.MODEL_DIR='\"n\"' --gin.PACKED='\"{}\"'": (
    True
  ),
  _TRAIN + " --gin.MODEL_DIR='\"n\"' --gin.INITIAL_CHECKPOINT='\"{}\"'": True,
  _TRAIN + " --gin.MODEL_DIR='\"n\"' --gin.VALIDATION_REQUESTS='\"{}\"'": (
    False
  ),
  "convert {} new/a --to hf": True,
  "convert t5x new/a --to ours --vocabulary {}": False,
  "score --requests {} --model export --out new/a.jsonl": False,
  "score --requests asked.jsonl --model {} --out new/a.jsonl": True,
  "generate --requests {} --model export --out new/a.jsonl": False,
  "generate --requests asked.jsonl --model {} --out new/a.jsonl": True,
  _GENERATE + " --catalogue {} --out new/a.jsonl": True,
  "generate --requests asked.jsonl --model t5x/checkpoint_4 --vocabulary {} "
  "--out new/a.jsonl": False,
  "chat --model {}": True,
  "chat --model export --dataset {}": True,
  "chat --model export --templates {}": False,
  "chat --model export --turns {}": False,
  "serve --model export --port 0 --api-key {}": False,
  "serve --model export --port 0 --ssl-certfile {}": False,
  "prepare --format amazon2023 --metadata meta.jsonl --split official "
  "--official {} --out n/a": False,
  "evaluate --dataset shop --model export --zero-shot {} --out new/a": True,
  "convert model new/a --to hf --base {}": True,
  "evaluate --dataset {} --rankers popularity --out new/a": True,
  "evaluate --dataset shop --model {} --out new/a": True,
  "compare {} --rankers popularity model": True,
  "compare results {}": True,
  "reproduce --dataset {} --out new/a": True,
  "reproduce --dataset plain --out new/a --recipe {}": False,
  "reproduce --dataset plain --out new/a --zero-shot {}": True,
  "mcp --model {}": True,
  "mcp --model export --dataset {}": True,
  "ask hello --model {} --candidates a b": True,
  "ask hello --model export --candidates-file {}": False,
  "ask hello --model export --dataset {}": True,
  "ask hello --templates {}": False,
  "export --model {} --out new/a": True,
  "export --model model --dataset {} --out new/a": True,
  "export --model model --templates {} --out new/a": False,
  "serve --model {} --port 0": True,
  "export --model model --out new/a --int8 --requests {}": False,
  _TRAIN + " --gin.MODEL_DIR='\"n\"' --gin.INITIAL_SVD='\"{}\"'": True,
  "serve --model export --dataset {} --port 0": True,
}


def _place(make: Callable[[pathlib.Path], object]) -> Change:
  def change(work: pathlib.Path) -> None:
    make(work / "bad")

  return change


def _as_nobody() -> None:
  if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _unreadable(is_folder: bool) -> Change:
  def change(work: pathlib.Path) -> Callable[[], None]:
    bad = work / "bad"
    bad.mkdir() if is_folder else bad.write_text("x")
    _open_to_all(work)
    bad.chmod(0)
    return _as_nobody

  return change


def _open_to_all(work: pathlib.Path) -> None:
  """Lets nobody write in the copy, so that only the bad path stops them."""
  subprocess.run(["chmod", "-R", "a+rwX", work.parents[1]], check=True)


def _paths() -> Iterator[Case]:
  socket_of = _place(lambda bad: os.mkfifo(bad))
  for line, is_folder in _INPUTS.items():
    if is_folder:
      wrong = ("a file", _place(lambda bad: bad.write_text("x\n")))
      empty = ("an empty folder", _place(lambda bad: bad.mkdir()))
    else:
      wrong = ("a folder", _place(lambda bad: bad.mkdir()))
      empty = ("an empty file", _place(lambda bad: bad.write_bytes(b"")))
    kinds: list[tuple[str, Change | None]] = [
      ("missing", None),
      wrong,
      empty,
      ("a link to itself", _place(lambda bad: bad.symlink_to("bad"))),
      ("a link to nothing", _place(lambda bad: bad.symlink_to("nowhere"))),
      ("a FIFO", socket_of),
      ("unreadable", _unreadable(is_folder)),
      ("noise", _place(lambda bad: bad.write_bytes(_noise(3000)))),
    ]
    for about, change in kinds:
      words = tuple(shlex.split(line.format("bad")))
      is_beside = line.startswith("plan") or "--base" in line
      names = "bad|model" if is_beside else "bad"
      if about == "an empty file" and line.endswith("tiny.gin --gin_file {}"):
        names = "MODEL_DIR"  # an empty gin file binds nothing
      yield Case("input paths", words, names, change, f"bad is {about}")
    for value in ("", "x" * 300, "/dev/null", "tiny.gin/x", "\udcff"):
      words = tuple(shlex.split(line.format(value)))
      if not value:
        words = tuple(
          w if w != "''" else ""
          for w in shlex.split(
            line.replace("'\"{}\"'", "'\"\"'").replace("{}", "''")
          )
        )
      names = "tiny.gin" if "/x" in value else value[:20]
      if value == "tiny.gin/x" and "templates" in line:
        names = "tiny.gin"
      yield Case("input paths", words, "" if value == "\udcff" else names)


def _noise(size: int) -> bytes:
  return random.Random(size).randbytes(size)


_OUTPUTS = {  # line with a hole -> the suffix that belongs there
  "prepare --format synthetic --users 200 --out {}": "",
  "quickstart --users 200 --steps 2 --test-users 20 --out {}": "",
  "annotate --dataset shop --export {}": ".parquet",
  "annotate --dataset shop --sheet {}": ".csv",
  "annotate --dataset plain --teacher openai --model m --jsonl-out {}": (
    ".jsonl"
  ),
  _PACK + " --out {}": "",
  _TRAIN + " --gin.MODEL_DIR='\"{}\"'": "",
  "convert model {} --to hf": "",
  "convert model {} --to t5x": "",
  "convert hf {} --to ours": "",
  "score --requests asked.jsonl --model export --out {}": ".jsonl",
  "score --requests shop/requests/sequential_test.parquet --model export "
  "--limit 8 --out {}": ".parquet",
  "score --requests asked.jsonl --model export --shard 1/1 --out {}": ".jsonl",
  _GENERATE + " --max-tokens 4 --out {}": ".jsonl",
  "generate --requests shop/requests/sequential_test.parquet --model export "
  "--limit 8 --max-tokens 4 --out {}": ".parquet",
  "evaluate --dataset shop --rankers popularity --limit 9 --out {}": "",
  "reproduce --dataset plain --steps 2 --recipe tiny.gin --out {}": "",
  "export --model model --out {}": "",
}


def _read_only(work: pathlib.Path) -> Callable[[], None]:
  bad = work / "bad"
  bad.mkdir()
  _open_to_all(work)
  bad.chmod(0o555)
  return _as_nobody


def _full(work: pathlib.Path) -> Callable[[], None] | None:
  """A disk of 32 KiB where one may mount, else files that end at 8 KiB."""
  disk = work / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", disk]
  if subprocess.run(mount, capture_output=True).returncode:
    return _short_files(work)
  (disk / "ballast").write_bytes(b"x" * (24 << 10))
  return None


def _short_files(work: pathlib.Path) -> Callable[[], None]:
  def inside() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, 1 << 10))

  return inside


def _outputs() -> Iterator[Case]:
  for line, suffix in _OUTPUTS.items():

    def words(out: str, line: str = line) -> tuple[str, ...]:
      return tuple(
        shlex.split(
          line.format(out)
          if out
          else line.replace("'\"{}\"'", "'\"\"'").replace("{}", "''")
        )
      )

    bad = f"bad{suffix}"
    is_file = bool(suffix)

    def put(make: Callable[[pathlib.Path], object], bad: str = bad) -> Change:
      return lambda work: make(work / bad) and None

    if "MODEL_DIR" not in line:
      here = put(lambda p: p.write_text("mine\n"))
      yield Case("output paths", words(bad), bad, here, f"{bad} is a file")
      if not is_file and "t5x" not in line:
        yield Case("output paths", words("foreign"), "foreign")
    else:
      here = put(lambda p: p.write_text("mine\n"))
      yield Case("output paths", words(bad), bad, here, f"{bad} is a file")
      yield Case("output paths", words("shop"), "shop")
    if is_file:
      here = put(lambda p: p.mkdir())
      yield Case("output paths", words(bad), bad, here, f"{bad} is a folder")
    elif "t5x" not in line:
      yield Case("output paths", words("."), "")
      yield Case("output paths", words(".."), "")
    for value, names in (
      ("", ""),
      (f"tiny.gin/new{suffix}", "tiny.gin"),
      (f"{'x' * 300}{suffix}", "xxx"),
      (f"/proc/nowhere/new{suffix}", "/proc"),
      (f"/dev/null/new{suffix}", "/dev/null"),
      (f"nowhere/../new{suffix}", "nowhere"),
    ):
      if not (value.startswith("nowhere") and "MODEL_DIR" in line):
        yield Case("output paths", words(value), names)
    loop = put(lambda p: p.symlink_to(p.name))
    yield Case("output paths", words(bad), bad, loop, f"{bad} links to itself")
    link = put(lambda p: p.symlink_to("nowhere" + p.suffix))
    yield Case("output paths", words(bad), bad, link, f"{bad} links to nothing")
    fifo = put(os.mkfifo)
    yield Case("output paths", words(bad), bad, fifo, f"{bad} is a FIFO")
    ro = f"bad/new{suffix}"
    yield Case("disks", words(ro), "bad", _read_only, "bad is read-only")
    goes_on = line.startswith(
      ("train", "reproduce", "annotate", "score", "generate")
    )
    full, ends = f"disk/new{suffix}", f"new{suffix}"
    # Nor can SQLite's own files be written then.
    stored = "|annotations.sqlite" if line.startswith("annotate") else ""
    for out, make, names, about in (
      (full, _full, "disk|space|full", "disk is full"),
      (ends, _short_files, f"new|large|space{stored}", "no space"),
    ):
      # Scores of four requests would fit.
      few = line.startswith(("score", "generate"))
      if not (make is _short_files and few):
        yield Case("disks", words(out), names, make, about, goes_on)
  for line in (
    "annotate --dataset plain",
    _BUILD.replace("shop", "plain") + " --train-vocab 300",
  ):
    case = tuple(shlex.split(line))
    yield Case("disks", case, "plain", _short_files, "no space", True)
    yield Case("disks", case, "plain", _locked_dataset, "plain is read-only")


def _locked_dataset(work: pathlib.Path) -> Callable[[], None]:
  _open_to_all(work)
  subprocess.run(["chmod", "-R", "a-w", work / "plain"], check=True)
  return _as_nobody


# ------------------------------------------------------------- hidden names


def _mine(name: str) -> Change:
  def change(work: pathlib.Path) -> None:
    (work / name).mkdir(parents=True)
    (work / name / "mine.txt").write_text("years of work\n")

  return change


def _leads_to(target: str, name: str) -> Change:
  return lambda work: (work / name).symlink_to(work / target) and None


def _hidden() -> Iterator[Case]:
  """What somebody has under a name that a command uses beside its output."""
  score = "score --requests asked.jsonl --model export --out bad.jsonl"
  shard = score + " --shard 1/1"
  folder = "prepare --format synthetic --users 200 --out bad"
  export = "export --model model --out bad"
  grows = "annotate --dataset plain"
  train = _TRAIN + " --gin.MODEL_DIR='\"empty\"'"
  for line, name, is_lock in (
    (score, ".bad.jsonl.lock", True),
    (folder, ".bad.lock", True),
    (grows, "plain/.lock", True),
    (train, "empty/.lock", True),
    (score, ".bad.jsonl.parts", False),
    (score, ".bad.jsonl.done", False),
    (shard, ".bad.jsonl.1-of-1.parts", False),
    (_GENERATE + " --out bad.jsonl", ".bad.jsonl.parts", False),
    (folder, ".bad.partial", False),
    (folder, ".bad.old", False),
    (export, ".bad.partial", False),
    (export, ".bad.old", False),
  ):
    kinds = {"a folder of somebody's": _mine(name)}
    kinds["a link to a folder"] = _leads_to("foreign", name)
    if is_lock:
      kinds["a link to a file"] = _leads_to("../thesis.txt", name)
      kinds["a link to nothing"] = _leads_to("nowhere", name)
      kinds["a FIFO"] = lambda work, name=name: os.mkfifo(work / name)
    kinds["somebody's file"] = _text(name, "years of work\n")
    for about, change in kinds.items():
      words = tuple(shlex.split(line))
      stem = pathlib.PurePath(name).name
      yield Case("hidden names", words, stem, change, f"{name}: {about}")


# Read at once: a line with a hole, where a file of 300 MB of nothing is.
_AT_ONCE = (
  "templates --file {}",
  "ask hello --model export --candidates-file {}",
  "chat --model export --turns {}",
  "plan --gin_file {}",
)


def _huge() -> Iterator[Case]:
  def make(path: pathlib.Path) -> None:
    with path.open("wb") as file:
      file.truncate(300_000_000)

  for line in _AT_ONCE:
    words = tuple(shlex.split(line.format("bad")))
    yield Case("huge files", words, "bad", _place(make), "bad is huge")
  words = ("statistics", "--dataset", "shop")
  change = _no_file("shop/manifest.json", make)
  yield Case("huge files", words, "manifest.json", change, "it is huge")


# ------------------------------------------------------------------ --force

_FORCED = (
  "prepare --format synthetic --users 200 --out {}",
  "quickstart --users 200 --steps 2 --test-users 20 --out {}",
  _PACK + " --out {}",
  "convert model {} --to hf",
  "convert hf {} --to ours",
  "evaluate --dataset shop --model export --rankers popularity --limit 9 "
  "--scenarios sequential --out {}",
  "reproduce --dataset plain --steps 2 --recipe tiny.gin --out {}",
  "export --model model --dataset shop --out {}",
)
_FORCED_FILES = {
  "annotate --dataset shop --export {}": (
    "foreign.parquet",
    "shop/items.parquet",
    "shop/annotations.sqlite",
  ),
  "annotate --dataset shop --sheet {}": ("foreign.csv", "csv/i.csv"),
  "annotate --dataset plain --teacher openai --model m --jsonl-out {}": (
    "foreign.jsonl",
    "asked.jsonl",
  ),
  "score --requests asked.jsonl --model export --out {}": (
    "asked.jsonl",
    "foreign.jsonl",
    "foreign.parquet",
    "shop/items.parquet",
    "export/items.jsonl",
  ),
  "score --requests asked.jsonl --model export --shard 1/1 --out {}": (
    "asked.jsonl",
    "foreign.jsonl",
    "shop/items.parquet",
  ),
  _GENERATE + " --out {}": (
    "asked.jsonl",
    "foreign.jsonl",
    "foreign.parquet",
    "scores.parquet",
    "shop/items.parquet",
    "export/items.jsonl",
  ),
}
_TARGETS = (
  "foreign",
  "shop",
  "plain",
  "model",
  "export",
  "csv",
  "shop/requests",
  "empty/../shop",
  ".",
  "..",
  "HOME",
)


def _link_to(target: str) -> Change:
  def change(work: pathlib.Path) -> None:
    name = target.replace("HOME", str(work.parents[1] / "home"))
    (work / "bad").symlink_to(work / name)

  return change


def _forced() -> Iterator[Case]:
  for line in _FORCED:
    for target in _TARGETS:
      if line[:7] + target in ("export export", "prepareplain"):
        continue  # its own
      words = (*shlex.split(line.format(target)), "--force")
      yield Case("--force", words)
    for target in ("foreign", "shop", "..", "HOME"):
      words = (*shlex.split(line.format("bad")), "--force")
      about = f"bad links to {target}"
      yield Case("--force", words, "bad", _link_to(target), about)
  for line, targets in _FORCED_FILES.items():
    for target in targets:
      words = (*shlex.split(line.format(target)), "--force")
      yield Case("--force", words, pathlib.Path(target).name)
      link = (
        *shlex.split(line.format(f"bad{target[target.rfind('.') :]}")),
        "--force",
      )
      yield Case(
        "--force", link, "bad", _file_link(target), f"bad links to {target}"
      )


def _file_link(target: str) -> Change:
  def change(work: pathlib.Path) -> None:
    (work / f"bad{target[target.rfind('.') :]}").symlink_to(work / target)

  return change


# --------------------------------------------------------- files of our own

_READ_DATASET = (
  "statistics --dataset shop",
  "annotate --dataset shop --training-targets 2",
  _BUILD + " --train-vocab 300 --force",
  "inspect instructrec_all_v1 --dataset shop",
  _PACK + " --out new/a",
  "evaluate --dataset shop --rankers popularity --limit 9 --out new/a",
  "export --model model --dataset shop --out new/a",
  "ask hello --model export --dataset shop",
  "serve --model export --dataset shop --port 0",
  "reproduce --dataset shop --steps 2 --recipe tiny.gin --out new/a",
)
_SCORE = "score --requests asked.jsonl --model {} --out new/a.jsonl"
_WRITE = "generate --requests asked.jsonl --model {} --out new/a.jsonl"
_EVALUATE = (
  "evaluate --dataset shop --rankers {} --scenarios sequential --limit 9 "
  "--out new/a"
)
_JOIN = _SHARD.format("2/2", "half.jsonl")
_RESUME = _TRAIN + " --gin.MODEL_DIR='\"model\"' --gin.TRAIN_STEPS=6"
_START = _TRAIN + " --gin.MODEL_DIR='\"new/a\"'"
_SVD = _START + " --gin.NUM_HEADS=4 --gin.INITIAL_SVD='\"shop\"'"
_OWN = {  # file, a glob: the lines that read it
  "shop/manifest.json": _READ_DATASET,
  "shop/items.parquet": (
    *_READ_DATASET[1:3],
    *_READ_DATASET[5:8],
    _GENERATE + " --catalogue shop --out new/a.jsonl",
    "chat --model export --dataset shop",
    _SVD,
  ),
  "shop/interactions.parquet": (
    _SVD,
    _READ_DATASET[2],
    _EVALUATE.format("popularity"),
  ),
  "shop/statistics.json": ("statistics --dataset shop",),
  "shop/annotations.sqlite": (
    _READ_DATASET[1],
    _READ_DATASET[2],
    "annotate --dataset shop --export new.parquet",
    "annotate --dataset shop --sheet new.csv",
  ),
  "shop/vocabulary.model": (
    "inspect instructrec_all_v1 --dataset shop",
    _PACK + " --out new/a",
    "build --dataset plain --vocab shop/vocabulary.model",
  ),
  "shop/templates.yaml": (
    "build --dataset plain --train-vocab 300 --templates shop/templates.yaml",
    "templates --file shop/templates.yaml",
    _SVD,
  ),
  "shop/candidates/test_9.parquet": (_READ_DATASET[2],),
  "shop/requests/sequential_test.parquet": (
    _EVALUATE.format("popularity"),
    "score --requests shop/requests/sequential_test.parquet --model export "
    "--out new/a.parquet",
  ),
  "shop/instructrec/main/1.0.0/features.json": (
    "inspect instructrec_all_v1 --dataset shop",
    _PACK + " --out new/a",
  ),
  "shop/instructrec/main/1.0.0/dataset_info.json": (
    "inspect instructrec_all_v1 --dataset shop",
    _PACK + " --out new/a",
  ),
  "shop/instructrec/main/1.0.0/*_p1_i0_t3_train.tfrecord*": (
    _PACK + " --out new/a",
  ),
  "packed/manifest.json": (_START,),
  "packed/encoder_tokens.npy": (_START,),
  "packed/decoder_targets.npy": (_START,),
  "packed/encoder_segments.npy": (_START,),
  "packed/vocabulary.model": (_START,),
  "model/model.json": (
    _SCORE.format("model"),
    _RESUME,
    "convert model n --to hf",
  ),
  "model/run.json": (_RESUME,),
  "model/vocabulary.model": (
    _SCORE.format("model"),
    _WRITE.format("model"),
    "export --model model --out new/a",
  ),
  "model/checkpoints/4/params/d/*": (_SCORE.format("model"), _RESUME),
  "model/checkpoints/4/params/ocdbt.process_0/d/*": (
    _SCORE.format("model"),
    _WRITE.format("model"),
    _RESUME,
    "export --model model --out new/a",
    "convert model n --to hf",
  ),
  "model/checkpoints/4/params/_METADATA": (_SCORE.format("model"), _RESUME),
  "model/checkpoints/4/optimizer/ocdbt.process_0/d/*": (_RESUME,),
  "model/checkpoints/4/optimizer/_METADATA": (_RESUME,),
  "model/checkpoints/4/_CHECKPOINT_METADATA": (_RESUME,),
  "export/export.json": (
    _SCORE.format("export"),
    "chat --model export",
    _WRITE.format("export"),
    "ask hello --model export --dataset shop",
    "serve --model export --port 0",
  ),
  "export/model.json": (
    _SCORE.format("export"),
    "convert export n --to hf",
    "serve --model export --port 0",
  ),
  "export/model.safetensors": (
    _SCORE.format("export"),
    _WRITE.format("export"),
    "chat --model export",
    "convert export n --to hf",
    "ask hello --model export --candidates a b",
    "serve --model export --port 0",
    _EVALUATE.format("model") + " --model export",
  ),
  "export/vocabulary.model": (
    _SCORE.format("export"),
    _WRITE.format("export"),
    "chat --model export",
    "ask hello --model export --candidates a b",
  ),
  "export/items.jsonl": (
    "serve --model export --port 0",
    "chat --model export",
    _GENERATE + " --catalogue export --out new/a.jsonl",
  ),
  "export/templates.yaml": (
    "serve --model export --port 0",
    "ask hello --model export --candidates a b",
  ),
  "hf/config.json": ("convert hf n --to ours",),
  "hf/model.safetensors": ("convert hf n --to ours",),
  "hf/spiece.model": ("convert hf n --to ours",),
  "t5x/checkpoint_4/checkpoint": (
    "convert t5x n --to ours --vocabulary shop/vocabulary.model",
  ),
  "t5x/checkpoint_4/target.decoder.logits_dense.kernel/.zarray": (
    "convert t5x n --to ours --vocabulary shop/vocabulary.model",
  ),
  "t5x/checkpoint_4/target.decoder.logits_dense.kernel/0.0": (
    "convert t5x n --to ours --vocabulary shop/vocabulary.model",
  ),
  "results/results.json": ("compare results --rankers popularity model",),
  "results/scores/sequential.parquet": (
    "compare results --rankers popularity model",
  ),
  # What another shard has scored is kept.
  ".half.jsonl.1-of-2.parts/run.json": (_JOIN,),
  ".half.jsonl.1-of-2.parts/whole.json": (_JOIN,),
  ".half.jsonl.1-of-2.parts/000000.jsonl": (_JOIN,),
  "answers.parquet": ("annotate --dataset plain --import answers.parquet",),
  "sheet.csv": ("annotate --dataset shop --read-sheet sheet.csv",),
  "turns.yaml": ("chat --model export --turns turns.yaml",),
  "tiny.gin": (_START, "plan --gin_file tiny.gin"),
}
# Files that carry no checksum, as others write them too, and one that is made
# again.
_FLIPS = ("a flipped byte", "a flipped byte early")
_UNSEEN = {
  "shop/vocabulary.model": _FLIPS,
  "shop/items.parquet": _FLIPS,
  "shop/interactions.parquet": _FLIPS,
  "shop/requests/sequential_test.parquet": _FLIPS,
  "shop/annotations.sqlite": (*_FLIPS, "missing"),
  "hf/model.safetensors": _FLIPS,
  "hf/spiece.model": _FLIPS,
  "results/scores/sequential.parquet": _FLIPS,
  # What it lacks is scored again, or waited for.
  ".half.jsonl.1-of-2.parts/run.json": ("missing",),
  ".half.jsonl.1-of-2.parts/whole.json": ("missing",),
  "answers.parquet": _FLIPS,
}
_DEEP = b"[" * 100_000
# What is done to the file's bytes, by whether it is text.
_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  "empty": lambda data: b"",
  "cut": lambda data: data[: len(data) * 3 // 5],
  "noise": lambda data: _noise(max(len(data), 64)),
}
_BINARY_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  "a flipped byte": lambda data: _flip(data, len(data) // 2),
  "a flipped byte early": lambda data: _flip(data, min(12, len(data) - 1)),
  "another's": lambda data: b"\x89PNG\r\n\x1a\n" + data[8:],
}
_JSON_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  "[]": lambda data: b"[]",
  "{}": lambda data: b"{}",
  "null": lambda data: b"null",
  "deep": lambda data: _DEEP,
  "not UTF-8": lambda data: b"\xff\xfe" + data,
  "other values": lambda data: json.dumps(_spoil(json.loads(data))).encode(),
}
_YAML_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  "[]": lambda data: b"[]",
  "null": lambda data: b"null",
  "deep": lambda data: _DEEP,
  "a call": lambda data: b"!!python/object/apply:os.system ['touch owned']\n",
  "laughs": lambda data: (
    b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(
      b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
      for n in range(1, 12)
    )
  ),
  "tabs": lambda data: b"- name:\tx\n\t- y",
}
_TEXT_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  "not UTF-8": lambda data: b"\xff\xfe" + data,
  "NUL": lambda data: b"\0" * 200,
}


def _flip(data: bytes, at: int) -> bytes:
  return data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]


def _spoil(value: object) -> object:
  """Makes every value one of another type, and keeps the keys."""
  if isinstance(value, dict):
    return {key: _spoil(each) for key, each in value.items()}
  if isinstance(value, list):
    return {"0": value}
  return [value] if isinstance(value, str) else str(value)


def _damages(name: str) -> dict[str, Callable[[bytes], bytes]]:
  is_json = name.endswith((".json", ".zarray", "METADATA", ".jsonl"))
  more = (
    _JSON_DAMAGES
    if is_json
    else _YAML_DAMAGES
    if name.endswith(".yaml")
    else _TEXT_DAMAGES
    if name.endswith((".csv", ".gin"))
    else _BINARY_DAMAGES
  )
  found = _DAMAGES | more
  if name.endswith(".parquet"):
    del found["another's"]  # readers begin at the end
  if name.endswith(".jsonl"):
    del found["other values"]
  return found


def _damage(pattern: str, how: Callable[[bytes], bytes]) -> Change:
  def change(work: pathlib.Path) -> None:
    path = max(work.glob(pattern), key=lambda each: each.stat().st_size)
    data = how(path.read_bytes())
    path.unlink()
    path.write_bytes(data)

  return change


def _missing(pattern: str) -> Change:
  def change(work: pathlib.Path) -> None:
    max(work.glob(pattern), key=lambda each: each.stat().st_size).unlink()

  return change


def _no_file(pattern: str, make: Callable[[pathlib.Path], object]) -> Change:
  def change(work: pathlib.Path) -> None:
    path = max(work.glob(pattern), key=lambda each: each.stat().st_size)
    path.unlink()
    make(path)

  return change


def _own_files() -> Iterator[Case]:
  for pattern, lines in _OWN.items():
    path = pathlib.PurePath(pattern)
    stem = path.name if "*" not in path.name else path.parts[0]
    names = (
      f"{stem}|{'/'.join(path.parts[:-1])}" if len(path.parts) > 1 else stem
    )
    if pattern == "tiny.gin":
      names += "|bind no|no model"  # one that is empty is no bad file
    if "checkpoint" in pattern or "t5x" in pattern:
      names = "checkpoint|t5x"
    kinds = {
      about: _damage(pattern, how) for about, how in _damages(path.name).items()
    }
    kinds["missing"] = _missing(pattern)
    kinds["a folder"] = _no_file(pattern, lambda p: p.mkdir())
    kinds["a link to itself"] = _no_file(
      pattern, lambda p: p.symlink_to(p.name)
    )
    kinds["a FIFO"] = _no_file(pattern, os.mkfifo)
    for n, line in enumerate(lines):
      for m, (about, change) in enumerate(kinds.items()):
        # All of them for the first command, every third for the others.
        if n and (m + n) % 3:
          continue
        if about in _UNSEEN.get(pattern, ()):
          continue
        yield Case(
          "own files",
          tuple(shlex.split(line)),
          names,
          change,
          f"{pattern}: {about}",
          may_leave=line == _JOIN,
        )


# ---------------------------------------------------------------- raw inputs

_CSV = (
  "prepare --format csv --interactions {} --items {} --min-count 0 --out n/a"
)


def _every(field: int, value: str) -> str:
  return _interactions(lambda n, row: [*row[:field], value, *row[field + 1 :]])


def _once(field: int, value: str) -> str:
  return _interactions(
    lambda n, row: [*row[:field], value, *row[field + 1 :]] if n == 77 else row
  )


_HEAD = "user_id,item_id,timestamp,rating\n"
_RAW_INTERACTIONS: dict[str, str | bytes] = {
  "header alone": _HEAD,
  "no header": _interactions().partition("\n")[2],
  "a column twice": _interactions().replace("rating", "user_id", 1),
  "no times": _interactions().replace("timestamp", "when", 1),
  "an open quote": _once(1, '"i3'),
  "an open quote last": _interactions()[:-1].rpartition("\n")[0] + '\nu1,"i2',
  "UTF-16": _interactions().encode("utf-16"),
  "UTF-16 without its mark": _interactions().encode("utf-16-le"),
  "Latin-1": _once(0, "M\xfcller").encode("latin-1"),
  "NUL bytes": _once(1, "i\x003"),
  "ragged": _once(2, "1000000000,5,5"),
  "a short row": _interactions().replace(",5\nu9", "\nu9"),
  "a long field": _once(1, "x" * 200_000),
  "times nan": _every(2, "nan"),
  "times inf": _every(2, "inf"),
  "times -inf": _every(2, "-inf"),
  "times negative": _every(2, "-5"),
  "times of words": _every(2, "yesterday"),
  "times too large": _every(2, "1e300"),
  "times of 40 digits": _every(2, "9" * 40),
  "times blank": _every(2, ""),
  "times true": _every(2, "true"),
  "times of year 0": _every(2, "0000-00-00"),
  "times in hex": _every(2, "0x3b9aca00"),
  "times of other digits": _every(2, "\uff11" * 10),
  "times of underscores": _every(2, "1_000_000_000"),
  **{
    f"one time {time!r}": _once(2, time)
    for time in (
      *("2001-02-30", "2001-13-01", "2001-2-3", "01/02/2001", "2001-W05"),
      *("2001-02-03T25:00", "2001-02-03T10:00+99:00", "2001-02-03 noon"),
      *("2001-02-03T10:00 CET", "0000-01-01", "1850-01-01", "99999-01-01"),
      *("\uff12001-02-03", "2001\u201302\u201303"),
    )
  },
  "times of every day alike": _every(2, "2001-02-30"),
  "one time nan": _once(2, "nan"),
  "one time inf": _once(2, "inf"),
  "one time negative": _once(2, "-1"),
  "one time 1e19": _once(2, "1e19"),
  "one time of words": _once(2, "soon"),
  "one user blank": _once(0, ""),
  "one item blank": _once(1, " "),
  "ratings of words": _every(3, "good"),
  "one rating inf": _once(3, "inf"),
  "users blank": _every(0, ""),
  "items unknown": _every(1, "nothing"),
  "one item": _every(1, "i1"),
  "deep JSON": "[" * 100_000,
  "cut gzip": gzip.compress(_interactions().encode())[:-40],
  "flipped gzip": _flip(gzip.compress(_interactions().encode()), 300),
  "gzip and noise": gzip.compress(_interactions().encode()) + b"noise",
  "Parquet": b"PAR1" + _noise(900) + b"PAR1",
}
_RAW_ITEMS: dict[str, str | bytes] = {
  "header alone": "item_id,title,categories\n",
  "a column twice": _items().replace("categories", "title", 1),
  "no title": _items().replace("title", "name", 1),
  "titles blank": _items(lambda n: " "),
  "titles of tags": _items(lambda n: "<b></b>"),
  "titles of open tags": _items(lambda n: f"<span class={n}"),
  "titles of zero width": _items(lambda n: "\u200b\u200d\ufeff"),
  "titles of controls": _items(lambda n: "\x01\x02"),
  "other items": _items().replace("\ni", "\nj"),
  "an open quote": _items(lambda n: '"Good' if n == 9 else f"Good Thing {n}"),
  "Latin-1": _items(lambda n: f"M\xfcsli {n}").encode("latin-1"),
  "cut gzip": gzip.compress(_items().encode())[:-20],
}
_AMAZON = (
  "prepare --format {} --reviews bad --metadata {} --strict --min-count 0 "
  "--out n/a"
)


def _review(**changes: object) -> dict[str, object]:
  return {
    "reviewerID": "u1",
    "asin": "i1",
    "unixReviewTime": 1_000_000_000,
    "overall": 5.0,
    "summary": "fine",
    "reviewText": "very fine",
  } | changes


_RAW_REVIEWS: dict[str, str | bytes] = {
  "no JSON": "user,item\nu1,i1\n",
  "lists": "[1, 2]\n" * 9,
  "numbers": "1\n" * 9,
  "deep": '{"asin": ' + "[" * 100_000 + "\n",
  "half a line": json.dumps(_review())[:40],
  "a NaN": json.dumps(_review(unixReviewTime=float("nan"))) + "\n",
  "an infinity": json.dumps(_review(unixReviewTime=float("inf"))) + "\n",
  "a negative time": json.dumps(_review(unixReviewTime=-1)) + "\n",
  "time 1e30": json.dumps(_review(unixReviewTime=1e30)) + "\n",
  "time of 30 digits": json.dumps(_review(unixReviewTime=10**30)) + "\n",
  "time true": json.dumps(_review(unixReviewTime=True)) + "\n",
  "time a list": json.dumps(_review(unixReviewTime=[1])) + "\n",
  "no time": json.dumps({"reviewerID": "u", "asin": "i"}) + "\n",
  "item a number": json.dumps(_review(asin=3)) + "\n",
  "user null": json.dumps(_review(reviewerID=None)) + "\n",
  "user blank": json.dumps(_review(reviewerID=" ")) + "\n",
  "half a surrogate": json.dumps(_review(reviewerID="\ud800")) + "\n",
  "not UTF-8": b'{"asin": "\xff\xfe"}\n',
  "cut gzip": gzip.compress(json.dumps(_review()).encode() * 99)[:-12],
  "a literal that calls": "__import__('os').system('touch owned')\n",
}
_RAW_REQUESTS: dict[str, str | bytes] = {
  "no JSON": "hello\n",
  "a list": "[]\n",
  "no candidates": '{"instruction": "x"}\n',
  "no instruction": '{"candidates": ["a", "b"]}\n',
  "candidates a text": '{"instruction": "x", "candidates": "ab"}\n',
  "none": '{"instruction": "x", "candidates": []}\n',
  "a blank one": '{"instruction": "x", "candidates": ["a", " "]}\n',
  "a number": '{"instruction": "x", "candidates": ["a", 3]}\n',
  "a null": '{"instruction": "x", "candidates": ["a", null]}\n',
  "twins": '{"instruction": "x", "candidates": ["a", "a"]}\n',
  "NFD twins": '{"instruction": "x", "candidates": ["\u00e9", "e\u0301"]}\n',
  "zero width": '{"instruction": "x", "candidates": ["a", "\u200b"]}\n',
  "instruction blank": '{"instruction": " ", "candidates": ["a", "b"]}\n',
  "instruction a number": '{"instruction": 3, "candidates": ["a", "b"]}\n',
  "deep": '{"instruction": ' + "[" * 100_000 + "\n",
  "a bad last line": (
    '{"instruction": "x", "candidates": ["a", "b"]}\n{"instruction"'
  ),
  "not UTF-8": b'{"instruction": "\xff", "candidates": ["a", "b"]}\n',
  "half a surrogate": '{"instruction": "\\ud800", "candidates": ["a", "b"]}\n',
  "blank lines": "\n\n\n",
}
# What `generate` doesn't read.
_OF_CANDIDATES = (
  *("no candidates", "candidates a text", "none", "a blank one", "a number"),
  *("a null", "twins", "NFD twins", "zero width"),
)
_RAW_TEMPLATES: dict[str, str | bytes] = {
  "a number": "3\n",
  "no name": "- text: 'x {history}'\n",
  "no text": "- name: Z07\n",
  "unknown slot": "{mine}\n".replace("{mine}", "").join(
    [
      "- name: Z07\n  preferences: [P1]\n  task_form: T2\n  response: item\n",
      "  text: '{nothing}'\n",
    ]
  ),
  "an open brace": (
    "- name: Z07\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: '{history'\n"
  ),
  "an attribute": (
    "- name: Z07\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: '{history.__class__}'\n"
  ),
  "an unknown key": (
    "- name: Z07\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: '{history}'\n  colour: red\n"
  ),
  "an unknown aspect": (
    "- name: Z07\n  preferences: [P9]\n  task_form: T2\n  response: item\n"
    "  text: '{history}'\n"
  ),
  "a key twice": (
    "- name: Z07\n  name: Z08\n  preferences: [P1]\n  task_form: T2\n"
    "  response: item\n  text: '{history}'\n"
  ),
  "not UTF-8": b"- name: \xff\n",
  "a name of dots": (
    "- name: ../../x\n  preferences: [P1]\n  task_form: T2\n  response: item\n"
    "  text: '{history}'\n"
  ),
}
_TINY = "include 'tiny.gin'\n"
_RAW_RECIPES = {
  "no steps": "include 'gin/model/mini.gin'\n",
  "a batch of 0": _TINY + "BATCH_SIZE = 0\n",
  "steps of a text": _TINY + "TRAIN_STEPS = 'x'\n",
  "packed rows": _TINY + "PACKED = 'packed'\n",
  "no such checkpoint": _TINY + "INITIAL_CHECKPOINT = 'nowhere'\n",
  "no such purchases": _TINY + "INITIAL_SVD = 'nowhere'\n",
  "no requests": _TINY + "VALIDATION_LIMIT = 0\n",
}
_RAW_GIN: dict[str, str] = {
  "an include of itself": "include 'bad'\n",
  "an include of nothing": "include 'nowhere.gin'\n",
  "no syntax": "TRAIN_STEPS = = 3\n",
  "a call": "TRAIN_STEPS = __import__('os').system('touch owned')\n",
  "an import": "import nothing.at.all\n",
  "an unknown name": "nothing.at.all = 3\n",
  "a macro of itself": "TRAIN_STEPS = %TRAIN_STEPS\n",
  "deep": "TRAIN_STEPS = " + "[" * 5000 + "\n",
}


_COMPOSED = (
  "composed: {asked: '{}', narrowed: '{}', shown: '', chosen: '', refused: '', "
  "like: '{}'}\n"
)
_RAW_TURNS: dict[str, str | bytes] = {
  "a number": "3\n",
  "a list": "- composed\n",
  "no said": _COMPOSED,
  "said a list": _COMPOSED + "said: [a, b]\n",
  "said a text": _COMPOSED + "said: a\n",
  "said numbers": _COMPOSED + "said: {wish: 3}\n",
  "said null": _COMPOSED + "said:\n",
  "composed a list": "composed: [a]\nsaid: {wish: [a]}\n",
  "no asked": "composed: {narrowed: '{}'}\nsaid: {wish: [a]}\n",
  "asked without a place": (
    _COMPOSED.replace("{asked: '{}'", "{asked: 'x'") + "said: {wish: [a]}\n"
  ),
  "asked is empty": (
    _COMPOSED.replace("{asked: '{}'", "{asked: ''") + "said: {wish: [a]}\n"
  ),
  "two places": (
    _COMPOSED.replace("like: '{}'", "like: '{} {}'") + "said: {wish: [a]}\n"
  ),
  "an attribute": (
    _COMPOSED.replace("like: '{}'", "like: '{0.__class__}'")
    + "said: {wish: [a]}\n"
  ),
  "an open brace": (
    _COMPOSED.replace("like: '{}'", "like: '{} {'") + "said: {wish: [a]}\n"
  ),
  "a wide field": (
    _COMPOSED.replace("like: '{}'", "like: '{:>999999999999}'")
    + "said: {wish: [a]}\n"
  ),
  "deep": "[" * 100_000,
  "not UTF-8": b"composed: \xff\n",
  "a call": "!!python/object/apply:os.system ['touch owned']\n",
}
# What is said to `chat`.
_SAID: dict[str, bytes] = {
  "not UTF-8": b"a tent\n\xff\xfe\n",
  "too long": b"a tent " * 20_000 + b"\n",
  "101 turns": b"a tent\n" * 101,
}


def _said(said: bytes) -> Change:
  def change(work: pathlib.Path) -> Callable[[], None]:
    path = work / "said.txt"
    path.write_bytes(said)
    return lambda: os.dup2(os.open(path, os.O_RDONLY), 0) and None

  return change


def _text(name: str, text: str | bytes) -> Change:
  data = text if isinstance(text, bytes) else text.encode()
  return lambda work: (work / name).write_bytes(data) and None


def _raw() -> Iterator[Case]:
  def case(line: str, name: str, about: str, text: str | bytes, n: str) -> Case:
    words = tuple(shlex.split(line))
    return Case("raw inputs", words, n, _text(name, text), f"{name}: {about}")

  for about, text in _RAW_INTERACTIONS.items():
    name = "bad.csv.gz" if "gzip" in about else "bad.csv"
    line = _CSV.format(name, "csv/t.csv") + " --strict"
    names = f"{name}|--user|--item|--min-count|two files"
    yield case(line, name, about, text, names)
  for about, text in _RAW_ITEMS.items():
    name = "bad.csv.gz" if "gzip" in about else "bad.csv"
    line = _CSV.format("csv/i.csv", name) + " --strict"
    yield case(line, name, about, text, f"{name}|item")
  for about, text in _RAW_REVIEWS.items():
    for format in ("amazon2018", "amazon2014"):
      yield case(
        _AMAZON.format(format, "meta.jsonl"), "bad", about, text, "bad"
      )
    line = _AMAZON.format("amazon2014", "bad").replace(
      "--reviews bad", "--reviews reviews.jsonl"
    )
    yield case(line, "bad", about + " as items", text, "bad|reviews")
  for about, text in _RAW_REQUESTS.items():
    line = "score --requests bad.jsonl --model export --out new/a.jsonl"
    each = case(line, "bad.jsonl", about, text, "bad.jsonl")
    if about in ("twins", "NFD twins"):
      # Two texts that the model reads as one: both are scored.
      each = dataclasses.replace(each, told="share a rank", may_leave=True)
    yield each
    if about not in _OF_CANDIDATES:
      line = _WRITE.format("export").replace("asked", "bad")
      yield case(line, "bad.jsonl", about, text, "bad.jsonl")
  for about, text in _RAW_TURNS.items():
    line = "chat --model export --turns bad.yaml"
    yield case(line, "bad.yaml", about, text, "bad.yaml")
  for about, said in _SAID.items():
    words = ("chat", "--model", "export", "--json")
    yield Case(
      "raw inputs",
      words,
      "the input|the conversation|an instruction",
      _said(said),
      f"the input: {about}",
    )
  for about, text in _RAW_TEMPLATES.items():
    yield case("templates --file bad.yaml", "bad.yaml", about, text, "bad.yaml")
    line = "export --model model --out new/a --templates bad.yaml"
    yield case(line, "bad.yaml", about, text, "bad.yaml")
  for about, text in _RAW_GIN.items():
    line = _START + " --gin_file bad"
    yield case(line, "bad", about, text, "bad|nowhere|nothing|TRAIN_STEPS")
    line = "plan --gin_file bad"
    if "TRAIN" not in text:
      yield case(line, "bad", about, text, "bad|nowhere|nothing")
  for about, text in _RAW_RECIPES.items():
    line = "reproduce --dataset plain --out new/a --recipe bad.gin"
    names = "bad|gin/run|BATCH_SIZE|TRAIN_STEPS|PACKED|nowhere|LIMIT"
    yield case(line, "bad.gin", about, text, names)
  for about, change in _SCORES.items():
    line = _EVALUATE.format("'bad*.parquet'")
    yield Case("raw inputs", tuple(shlex.split(line)), "bad", change, about)
  for about, columns in _IMAGES.items():
    line = "export --model model --dataset shop --out new/a"
    yield Case(
      "raw inputs",
      tuple(shlex.split(line)),
      "images.parquet",
      _images(columns),
      f"images.parquet: {about}",
    )
  for about, (name, values) in _ANSWERS.items():
    line = "annotate --dataset shop --import bad.parquet"
    yield Case(
      "raw inputs",
      tuple(shlex.split(line)),
      "bad.parquet",
      _answers(name, values),
      f"bad.parquet: {about}",
    )
  for about, make in _TABLES.items():
    line = (
      "prepare --format parquet --interactions bad.parquet --items "
      "t.parquet --min-count 0 --strict --out new/a"
    )
    yield Case(
      "raw inputs",
      tuple(shlex.split(line)),
      "bad.parquet|--min-count",
      _parquet(make),
      f"bad.parquet: {about}",
    )


def _rows() -> dict[str, list]:
  rows = [r.split(",") for r in _interactions().splitlines()[1:]]
  user, item, when, rating = (list(c) for c in zip(*rows, strict=True))
  return {
    "user_id": user,
    "item_id": item,
    "timestamp": [int(each) for each in when],
    "rating": [float(each) for each in rating],
  }


_TABLES: dict[str, Callable[[dict[str, list]], dict[str, list]]] = {
  "no rows": lambda rows: {key: value[:0] for key, value in rows.items()},
  "no times": lambda rows: {k: v for k, v in rows.items() if k != "timestamp"},
  "times of lists": lambda rows: (
    rows | {"timestamp": [[t] for t in rows["timestamp"]]}
  ),
  "times nan": lambda rows: rows | {"timestamp": [float("nan")] * 480},
  "times inf": lambda rows: rows | {"timestamp": [float("inf")] * 480},
  "times 1e300": lambda rows: rows | {"timestamp": [1e300] * 480},
  "times negative": lambda rows: rows | {"timestamp": [-1] * 480},
  "times null": lambda rows: rows | {"timestamp": [None] * 480},
  "times true": lambda rows: rows | {"timestamp": [True] * 480},
  "times of words": lambda rows: rows | {"timestamp": ["soon"] * 480},
  "users of structs": lambda rows: rows | {"user_id": [{"a": 1}] * 480},
  "users null": lambda rows: rows | {"user_id": [None] * 480},
  "items of bytes": lambda rows: rows | {"item_id": [b"\xff"] * 480},
  "ratings of words": lambda rows: rows | {"rating": ["good"] * 480},
  "cut": lambda rows: rows,
  "flipped": lambda rows: rows,
}


_PICTURE = "https://a.example/1.png"
_IMAGES: dict[str, dict[str, list]] = {
  "other columns": {"a": [1]},
  "items of texts": {"item": ["a"], "image": [_PICTURE]},
  "a null": {"item": [0, 1], "image": [_PICTURE, None]},
  "an item that is not there": {"item": [10**6], "image": [_PICTURE]},
  "an item before the first": {"item": [-1], "image": [_PICTURE]},
  "a script": {"item": [0], "image": ["javascript:alert(1)"]},
}
# Column of answers.parquet, and what stands in it.
_ANSWERS: dict[str, tuple[str, object]] = {
  "a kind that is none": ("kind", "wish"),
  "a status that is none": ("status", "fine"),
  "tokens below 0": ("prompt_tokens", -1),
  "answers of nothing": ("answer", None),
  "times that are none": ("answered_at", "soon"),
  "users that are not here": ("user_id", "nobody"),
  "users of nothing": ("user_id", None),
  "positions too far": ("position", 10**6),
}


def _images(columns: dict[str, list]) -> Change:
  def change(work: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), work / "shop" / "images.parquet")

  return change


def _answers(name: str, value: object) -> Change:
  def change(work: pathlib.Path) -> None:
    # Not with polars, whose threads a forked process does not have.
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(work / "answers.parquet")
    place = table.schema.names.index(name)
    new = pa.array([value] * len(table), table.schema.types[place])
    table = table.set_column(place, name, new)
    pq.write_table(table, work / "bad.parquet")

  return change


def _scores(*tables: Callable) -> Change:
  """Writes scores.parquet anew, changed, as one shard for each change."""

  def change(work: pathlib.Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(work / "scores.parquet")
    for number, make in enumerate(tables):
      pq.write_table(make(table), work / f"bad{number}.parquet")

  return change


def _with(name: str, make: Callable[[list], list]) -> Callable:
  def change(table):
    import pyarrow as pa

    place = table.column_names.index(name)
    values = pa.array(make(table[name].to_pylist()))
    return table.set_column(place, name, values)

  return change


_SCORES: dict[str, Change] = {
  "scores are NaN": _scores(
    _with("scores", lambda rows: [[float("nan")] * len(r) for r in rows])
  ),
  "scores are few": _scores(
    _with("scores", lambda rows: [r[1:] for r in rows])
  ),
  "scores are flat": _scores(_with("scores", lambda rows: [1.0 for _ in rows])),
  "scores are texts": _scores(_with("scores", lambda rows: ["x"] * len(rows))),
  "scores are nested": _scores(
    _with("scores", lambda rows: [[r] for r in rows])
  ),
  "scores are null": _scores(_with("scores", lambda rows: [None] * len(rows))),
  "ids are numbers": _scores(_with("request_id", lambda r: [*range(len(r))])),
  "ids are null": _scores(_with("request_id", lambda rows: [None] * len(rows))),
  "no ids": _scores(lambda table: table.drop(["request_id"])),
  "no rows": _scores(lambda table: table.slice(0, 0)),
  "no hash": _scores(lambda table: table.replace_schema_metadata(None)),
  "of some": _scores(lambda table: table),
  "twice": _scores(lambda table: table, lambda table: table),
  "of two widths": _scores(
    lambda table: table.slice(0, 9),
    lambda table: _with("scores", lambda rows: rows)(table.slice(9)),
  ),
  "one without scores": _scores(
    lambda table: table, lambda table: table.drop(["scores"])
  ),
  "one of others": _scores(
    lambda table: table, lambda table: table.replace_schema_metadata(None)
  ),
}


def _parquet(make: Callable[[dict[str, list]], dict[str, list]]) -> Change:
  def change(work: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = {
      "item_id": [f"i{n}" for n in range(24)],
      "title": [f"Good Thing {n}" for n in range(24)],
      "categories": [["Sports"]] * 24,
    }
    pq.write_table(pa.table(items), work / "t.parquet")
    path = work / "bad.parquet"
    pq.write_table(pa.table(make(_rows())), path)
    if make is _TABLES["cut"]:
      path.write_bytes(path.read_bytes()[:-30])
    if make is _TABLES["flipped"]:
      path.write_bytes(_flip(path.read_bytes(), 200))

  return change


# -------------------------------------------------------------------- Python

_LOAD = "from instructrec_jax.serving.recommender import Recommender as R; "
_RANK = _LOAD + "R.load('export', dataset=None).rank('a tent', "
_PREPARE = (
  "from instructrec_jax.data.prepare import prepare; prepare(out='new/a', "
)
_PYTHON = (
  (_LOAD + "R.load('nowhere')", "nowhere"),
  (_LOAD + "R.load('shop')", "shop"),
  (_LOAD + "R.load('')", ""),
  (_RANK + "candidates=[])", "candidates"),
  (_RANK + "candidates='a tent')", "candidates"),
  (_RANK + "candidates=['a', ''])", "candidates|title"),
  (_RANK + "candidates=['a', 3])", "candidates|3"),
  (_RANK + "candidates=['a', None])", "candidates|None"),
  (_RANK + "candidates=['a'], history='b')", "history"),
  (_RANK + "candidates=['a'], history=[3])", "history"),
  (_RANK + "candidates=['a'], kind='x')", "kind"),
  (_PREPARE + "format='x')", "format"),
  (_PREPARE + "format='synthetic', users=-1)", "users"),
  (_PREPARE + "format='synthetic', users=2.5)", "users"),
  (_PREPARE + "format='synthetic', users=300, seed=-1)", "seed"),
  (_PREPARE + "format='synthetic', users=300, min_count=-1)", "min_count"),
  (_PREPARE + "format='synthetic', users=300, split='x')", "split"),
)


def _python() -> Iterator[Case]:
  for code, names in _PYTHON:
    yield Case("Python", ("python", code), names)


def all_cases() -> list[Case]:
  """Returns every case."""
  found = [
    *_arguments(),
    *_paths(),
    *_outputs(),
    *_hidden(),
    *_huge(),
    *_forced(),
    *_own_files(),
    *_raw(),
    *_python(),
  ]
  return found
