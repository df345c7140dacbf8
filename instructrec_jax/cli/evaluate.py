"""Ranks the same stored candidates with every ranker and prints the table.

Popularity and co-occurrence are fitted on the training interactions. Writes
results.json (for programs) and results.md into --out.
"""

import argparse
import dataclasses
import json
import pathlib

from instructrec_jax.cli.chat import add_chat_arguments, chat_options

EXAMPLE = (
  "instructrec evaluate --dataset data/games --model runs/games "
  "--scenarios sequential --out results/games"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of `instructrec evaluate`."""
  parser.add_argument(
    "--dataset", type=pathlib.Path, required=True, help="a dataset folder"
  )
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="the folder to write"
  )
  parser.add_argument(
    "--model",
    type=pathlib.Path,
    help="a model folder; without it, only the baselines are ranked",
  )
  parser.add_argument(
    "--zero-shot",
    type=pathlib.Path,
    metavar="MODEL",
    help="another model folder, not tuned, for a row beside --model",
  )
  parser.add_argument(
    "--text-encoder",
    metavar="MODEL",
    help="a sentence-transformers model, a folder or a name, that dssm, tem "
    "and two_tower read texts with (default: word vectors of their own)",
  )
  parser.add_argument(
    "--scenarios",
    type=_names,
    default=("all",),
    help="comma-separated names, or all (the default)",
  )
  parser.add_argument(
    "--rankers",
    type=_names,
    default=("all",),
    help="comma-separated names, or all that are available (the default)",
  )
  parser.add_argument("--split", choices=("validation", "test"), default="test")
  parser.add_argument(
    "--limit", type=int, help="only a random sample of so many requests"
  )
  parser.add_argument(
    "--permutations",
    type=int,
    default=1,
    metavar="K",
    help="average the model's scores over K orders of the candidates in its "
    "prompt (default: %(default)s)",
  )
  parser.add_argument(
    "--select-template",
    action="store_true",
    help="word each scenario as is best for the model on validation, and "
    "report all its templates",
  )
  parser.add_argument(
    "--normalisation",
    choices=("sum", "mean", "byte", "pmi", "ghost_free", "select"),
    default="sum",
    help="add a row with the model's scores normalised; select takes each "
    "scenario's best on validation (default: the row of sums alone)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, help="of the sample and the bootstrap"
  )
  parser.add_argument(
    "--force", action="store_true", help="replace --out if it exists"
  )
  parser.add_argument(
    "--multi_process",
    action="store_true",
    help="join the other processes of this run: the model's requests are "
    "split over all their devices (docs/partitioning.md)",
  )
  parser.add_argument(
    "--json", action="store_true", help="print results.json, not the table"
  )
  parser.add_argument(
    "--dry-run", action="store_true", help="only estimate what chat may cost"
  )
  add_chat_arguments(parser)


def run(args: argparse.Namespace) -> None:
  """Runs `evaluation.evaluate.evaluate` and prints what it found."""
  from instructrec_jax.errors import InputError
  from instructrec_jax.evaluation import report
  from instructrec_jax.evaluation.evaluate import evaluate

  if args.dry_run:
    _print_estimate(args)
    return
  if args.multi_process and args.chat_model:
    raise InputError("each process would pay for --chat-model: use one alone.")
  writes = True
  if args.multi_process:
    # Only here is jax needed before a model is.
    from instructrec_jax import processes

    processes.join()
    writes = processes.is_first()
  results = evaluate(
    dataset=args.dataset,
    out=args.out if writes else None,
    model=args.model,
    zero_shot=args.zero_shot,
    chat=chat_options(args),
    text_encoder=args.text_encoder,
    scenarios=args.scenarios,
    rankers=args.rankers,
    split=args.split,
    limit=args.limit,
    permutations=args.permutations,
    select_template=args.select_template,
    normalisation=args.normalisation,
    seed=args.seed,
    force=args.force,
  )
  if not writes:
    return
  if args.json:
    print(json.dumps(results))
  else:
    print(report.markdown(results))
    print(f"written: {args.out}/results.json, {args.out}/results.md")


def _print_estimate(args: argparse.Namespace) -> None:
  from instructrec_jax.errors import InputError
  from instructrec_jax.evaluation.evaluate import estimate_chat

  chat = chat_options(args)
  if chat is None:
    raise InputError("--dry-run is of a chat model's price: add --chat-model.")
  found = estimate_chat(
    chat,
    dataset=args.dataset,
    scenarios=args.scenarios,
    split=args.split,
    limit=args.limit,
    seed=args.seed,
  )
  print(json.dumps(dataclasses.asdict(found)) if args.json else found.sentence)


def _names(text: str) -> tuple[str, ...]:
  return tuple(text.split(","))
