"""Runs the paper's experiments on a dataset folder and reports on them.

Tables 2, 3 and 5 to 11 and Figure 3, as far as the data allows; what it lacks
is named. A folder that is not annotated or built yet is, with the offline
teacher (for a chat model, run `annotate` before). A run that was stopped or
killed goes on where it was; a step whose inputs are the same is not repeated.
"""

import argparse
import json
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence

from instructrec_jax.cli.chat import add_chat_arguments, chat_options

# Of `add_chat_arguments`: what is asked, and what it may cost.
_CHAT = ("chat_model", "chat_base_url", "chat_limit")
_CAPS = (
  "requests_per_minute",
  "tokens_per_minute",
  "prices",
  "max_usd",
  "max_requests",
)

EXAMPLE = (
  "instructrec reproduce --dataset data/instruments --out results/instruments"
)
ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "gin" / "experiment" / "mini.gin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--unseen",
    type=pathlib.Path,
    metavar="DIR",
    help="a dataset folder of another domain, for Table 11",
  )
  parser.add_argument(
    "--recipe",
    type=pathlib.Path,
    default=RECIPE,
    metavar="GIN",
    help="the model and how it is trained (default: gin/experiment/mini.gin)",
  )
  parser.add_argument(
    "--steps", type=int, help="of the model's training (default: the recipe's)"
  )
  parser.add_argument(
    "--ladder-steps",
    type=int,
    default=200,
    metavar="N",
    help="of each of Figure 3's models (default: %(default)s)",
  )
  parser.add_argument(
    "--limit",
    type=int,
    default=300,
    help="requests of each scenario, drawn at random; 0 for all, but for 200 "
    "of the whole catalogue (default: %(default)s)",
  )
  parser.add_argument(
    "--rankers",
    default="",
    help="comma-separated names (default: all that are available)",
  )
  parser.add_argument(
    "--vocab",
    type=pathlib.Path,
    metavar="FILE",
    help="SentencePiece model to build with, such as Flan-T5's; a folder that "
    "is built must have it (default: the folder's own, or one that is trained)",
  )
  parser.add_argument(
    "--zero-shot",
    type=pathlib.Path,
    metavar="MODEL",
    help="a model folder, not tuned, for a row of its own",
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--force", action="store_true", help="begin anew in --out"
  )
  parser.add_argument(
    "--json", action="store_true", help="print manifest.json at the end"
  )
  add_chat_arguments(parser)


def run(args: argparse.Namespace) -> None:
  """Runs the steps and prints where the report is."""
  from instructrec_jax.reproduction.reproduce import reproduce
  from instructrec_jax.reproduction.settings import Settings

  # The step that asks would refuse them after hours of training.
  if chat_options(args):
    from instructrec_jax.teacher import online

    online.find_key(args.chat_base_url)
  # Ended from outside, it ends its step too, as after Ctrl-C.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  manifest = reproduce(
    Settings(
      dataset=args.dataset,
      out=args.out,
      recipe=args.recipe,
      steps=args.steps,
      ladder_steps=args.ladder_steps,
      limit=args.limit or None,
      rankers=tuple(filter(None, args.rankers.split(","))),
      unseen=args.unseen,
      zero_shot=args.zero_shot,
      chat=_options(args, _CHAT) if args.chat_model else (),
      chat_caps=_options(args, _CAPS),
      vocabulary=args.vocab,
      seed=args.seed,
    ),
    force=args.force,
    command=shlex.join(["instructrec", *sys.argv[1:]]),
  )
  if args.json:
    print(json.dumps(manifest))
    return
  for table, reasons in manifest["lacking"].items():
    for reason in reasons:
      print(f"{table} lacks {reason}")
  print(
    f"written: {args.out}/report.html, report.md, tables.csv, manifest.json"
  )


def _options(args: argparse.Namespace, names: Sequence[str]) -> tuple[str, ...]:
  """Returns those that were given, as `evaluate` takes them."""
  words: list[str] = []
  for name in names:
    value = getattr(args, name)
    if value is not None:
      values = value if isinstance(value, list) else [value]
      words += [f"--{name.replace('_', '-')}", *map(str, values)]
  return tuple(words)
