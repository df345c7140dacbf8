"""Tests for instructrec_jax/cli/options.py, and for every command's options."""

import argparse
import dataclasses
import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from instructrec_jax.cli import options as opt
from instructrec_jax.cli.main import SUBCOMMANDS, main
from instructrec_jax.data import prepare as prepare_lib
from instructrec_jax.data import statistics, tables
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.selection import SELECT
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.seq2seq.config import REMAT_POLICIES

# Users' scripts and recipes have these: a command may add, never lose one.
_CHAT = (
  "--chat-model --chat-base-url --chat-limit --requests-per-minute "
  "--tokens-per-minute --prices --max-usd --max-requests"
)
PROMISED = {
  "quickstart": "--out --users --steps --test-users --seed --force",
  "prepare": "--format --out --reviews --metadata --interactions --items "
  "--user-column --item-column --time-column --rating-column --title-column "
  "--categories-column --users --min-count --max-items --split --expect "
  "--seed --strict --force --json",
  "annotate": "--dataset --teacher --training-targets --model --base-url "
  "--batch --jsonl-out --jsonl-in --temperature --max-tokens --workers "
  "--requests-per-minute --tokens-per-minute --dry-run --prices --max-usd "
  "--max-requests --export --import --judge --sheet --read-sheet --samples "
  "--force --seed --json",
  "statistics": "--dataset --json",
  "templates": "--file --json --markdown",
  "build": "--dataset --vocab --train-vocab --templates --families "
  "--cold-items --matcher --rows-per-target --input-length --seed --force "
  "--json",
  "inspect": "mixture --dataset --split --sample --examples --input-length "
  "--target-length --seed --json",
  "pack": "mixture --dataset --out --split --input-length --target-length "
  "--examples --seed --force --json",
  "plan": "--size --gin_file --mesh --batch --input-length --target-length "
  "--microbatches --zero --zero-optimizer --optimizer --dtype --memory --remat "
  "--compile --json",
  "train": "--gin_file --gin. --gin_search_paths --multi_process --json",
  "convert": "source dest --to --dtype --activations --vocabulary --size "
  "--step --force --json",
  "score": "--requests --model --out --step --limit --batch-tokens "
  "--normalisation --force --json",
  "generate": "--requests --model --out --catalogue --max-tokens --beams "
  "--length-penalty --rules --temperature --top-k --top-p --answers --seed "
  "--step --limit --batch --vocabulary --force --json",
  "evaluate": "--dataset --out --model --zero-shot --text-encoder --scenarios "
  "--rankers --split --limit --permutations --select-template "
  "--normalisation --resamples --seed --trec --probe --cutoff --steer "
  "--force "
  f"--multi_process --json --dry-run {_CHAT}",
  "compare": "a b --rankers --scenarios --resamples --seed --json",
  "reproduce": "--dataset --out --unseen --recipe --steps --ladder-steps "
  f"--limit --rankers --vocab --zero-shot --seed --force --json {_CHAT}",
  "ask": "words --model --history --candidates --candidates-file --dataset "
  "--preference --context --kind --template --templates --input-length --top "
  "--json",
  "chat": "--model --dataset --history --preference --templates --turns --step "
  "--top --json",
  "export": "--model --dataset --out --templates --step --force --json",
  "serve": "--model --dataset --templates --step --host --port --waiting "
  "--timeout --batch-tokens",
  "mcp": "--model --dataset --templates --step",
}


def _actions(name: str) -> dict[str, argparse.Action]:
  """Returns a command's options by their spelling."""
  parser = opt.Parser(add_help=False)
  command = importlib.import_module(f"instructrec_jax.cli.{name}")
  opt.declare(parser, command.Options)
  return {(*a.option_strings, a.dest)[0]: a for a in parser._actions}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_options_are_as_promised_and_each_has_help(name):
  actions = _actions(name)
  assert actions.keys() >= set(PROMISED[name].split())
  assert [flag for flag, action in actions.items() if not action.help] == []


def test_choices_and_defaults_are_those_of_the_library():
  prepare, plan = _actions("prepare"), _actions("plan")
  assert prepare["--format"].choices == prepare_lib.FORMATS
  assert prepare["--split"].choices == prepare_lib.SPLIT_BY
  assert prepare["--expect"].choices == tuple(statistics.PUBLISHED)
  normalisations = tuple(Normalisation)
  assert _actions("score")["--normalisation"].choices == normalisations
  choices = _actions("evaluate")["--normalisation"].choices
  assert choices == (*normalisations, SELECT)
  assert plan["--remat"].choices == tuple(REMAT_POLICIES)
  for field in dataclasses.fields(tables.Columns):
    flag = f"--{field.name.replace('_', '-')}"
    column = prepare.get(f"{flag}-column") or prepare[flag]
    assert column.default == field.default


def test_help_needs_no_heavy_import():
  code = f"""
import sys
from instructrec_jax.cli.main import main
for name in {list(SUBCOMMANDS)}:
  try:
    main([name, "--help"])
  except SystemExit:
    pass
main(["--help"])
heavy = {{"jax", "tensorflow", "polars", "pyarrow", "numpy", "pydantic"}}
sys.exit(", ".join(heavy & sys.modules.keys()) or 0)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@dataclass(frozen=True, kw_only=True)
class Group:
  """A group.

  And more of it.
  """

  price: Annotated[
    tuple[float, float] | None, opt.Arg(metavar=("IN", "OUT"), least=0)
  ] = None
  """of two, 100% of it"""


@dataclass(frozen=True, kw_only=True)
class Options:
  what: Annotated[str, opt.Arg("the subject", is_positional=True)] = "none"
  path: opt.File
  """where it is"""
  some_names: opt.Names = ("all",)
  """names"""
  titles: tuple[str, ...] = ()
  """titles that
  people gave"""
  kind: Literal["a", "b"] = "a"
  """a kind"""
  gin_file: opt.GinFiles = ()
  """files"""
  bound: Annotated[opt.GinFiles, opt.Arg(flag="--gin.")] = ()
  """bindings"""
  group: Group
  count: Annotated[opt.Count | None, opt.Arg(either="size")] = None
  """how many"""
  all: Annotated[bool, opt.Arg(either="size")] = False
  """all of them"""


def _parse(*words: str) -> Options:
  return opt.parse(opt.Parser(prog="test"), Options, words)


def test_defaults_are_the_fields():
  expected = Options(path=Path("p"), group=Group())
  assert _parse("--path", "p") == expected


def test_types_say_how_values_are_read():
  found = _parse(
    *("--path", "p", "--some-names", "x,y", "--titles", "A b", "C"),
    *("--gin_file", "1.gin", "--gin.A.b=c=d", "--gin_file=2.gin", "--gin.B=1"),
    *("--price", "1", "2.5", "--count=3", "--kind", "b", "--", "--kind=c"),
  )
  assert found == Options(
    what="--kind=c",
    path=Path("p"),
    some_names=("x", "y"),
    titles=("A b", "C"),
    kind="b",
    gin_file=("1.gin", "2.gin"),
    bound=("A.b=c=d", "B=1"),
    group=Group(price=(1.0, 2.5)),
    count=3,
  )


def test_help_is_the_docstrings():
  parser = opt.Parser(prog="test")
  opt.declare(parser, Options)
  shown = " ".join(parser.format_help().split())
  for part in (
    "the subject (default: none)",
    "titles that people gave --kind {a,b} a kind (default: a)",
    "A group: And more of it. --price IN OUT of two, 100% of it",
    "--gin.FILE",
    "[--count N | --all]",
  ):
    assert part in shown


@pytest.mark.parametrize(
  ("words", "says"),
  [
    ((), "the following arguments are required: --path"),
    (("--paht", "p"), "unknown option '--paht' (did you mean --path?)"),
    (("--path", "p", "--zzzzzz=1"), "unknown option '--zzzzzz=1';"),
    (("--path", "p", "--kind", "c"), "invalid choice: 'c'"),
    (("--path", "p", "--count", "x"), "a whole number is needed, not 'x'"),
    (("--path", "p", "--count", "0"), "--count is 0: at least 1 is needed"),
    (("--path", "p", "--price", "1", "nan"), "--price is nan: a finite number"),
    (("--path", "p", "--price", "1"), "expected 2 arguments"),
    (("--path", "p", "--count", "1", "--all"), "not allowed with"),
    (("--path", "p", "a", "b"), "unrecognized arguments: b"),
    (("--path", "p", "--some"), "unknown option '--some'"),
  ],
)
def test_errors_are_one_sentence(words, says):
  with pytest.raises(InputError) as error:
    _parse(*words)
  assert says in str(error.value) and "\n" not in str(error.value)


def test_options_are_spelled_as_they_are_read():
  group = Group(price=(1.0, 2.5))
  assert opt.words(group) == ("--price", "1.0", "2.5")
  assert opt.words(group, "price") == opt.words(Group()) == ()


@pytest.mark.parametrize(
  ("words", "says"),
  [
    (["evalute"], "there is no subcommand 'evalute' (did you mean evaluate?)"),
    (["--verison"], "there is no option '--verison' (did you mean --version?)"),
    (["pack", "m", "--datset", "d"], "'--datset' (did you mean --dataset?)"),
    (["--print-completion", "fish"], "one of bash, zsh is known"),
    (["recommend"], "no subcommand 'recommend'"),
    (["compare", "a"], "A is a: not a folder of results"),
    (["plan"], "name a model: --size, or --gin_file"),
  ],
)
def test_mistyped_words_get_a_hint_and_2(words, says, capsys):
  assert main(words) == 2
  printed = capsys.readouterr()
  (line,) = printed.err.splitlines()
  assert says in line and not printed.out


def test_the_version_is_printed(capsys):
  assert main(["--version"]) == 0
  assert capsys.readouterr().out.startswith("instructrec ")


def test_bash_completes_options(tmp_path, capsys):
  assert main(["--print-completion", "bash"]) == 0
  script = tmp_path / "completion.sh"
  script.write_text(capsys.readouterr().out)
  done = subprocess.run(
    [
      *("bash", "-ec"),
      f"source {script}; COMP_WORDS=(instructrec pack --target); COMP_CWORD=2;"
      "$(complete -p instructrec | sed 's/.*-F \\([^ ]*\\).*/\\1/');"
      'echo "${COMPREPLY[@]}"',
    ],
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == ["--target-length"], done.stderr


def test_zsh_gets_a_script(capsys):
  assert main(["--print-completion=zsh"]) == 0
  script = capsys.readouterr().out
  assert script.startswith("#compdef instructrec") and "--families" in script
