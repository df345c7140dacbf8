"""Scores the candidates of ranking requests with a trained model.

A request is an instruction and candidates, a row of Parquet or a line of JSON.
Written are log-likelihoods and ranks (1 the best, ties share their average).
A killed run goes on where it was. Normalisations, to be chosen on validation:
sum (the paper's), mean (per token), byte, pmi (less the log-likelihood under
the empty instruction), ghost_free (mean of tokens with P < 0.99).
"""

import argparse
import json
import pathlib

from instructrec_jax.scoring.normalisation import Normalisation

EXAMPLE = (
  "instructrec score --requests requests.jsonl --model runs/games --out "
  "scores.jsonl"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  for name, what in (
    ("--requests", ".parquet or .jsonl file of instruction and candidates"),
    ("--model", "folder of `train`"),
    ("--out", ".parquet or .jsonl file to write"),
  ):
    parser.add_argument(name, type=pathlib.Path, required=True, help=what)
  parser.add_argument(
    "--step", help="a checkpoint's number, or best (default: the latest)"
  )
  parser.add_argument("--limit", type=int, help="only the first so many")
  parser.add_argument(
    "--batch-tokens",
    type=int,
    help="tokens in a batch, about (default: what suits the device)",
  )
  parser.add_argument(
    "--normalisation",
    choices=tuple(map(str, Normalisation)),
    default="sum",
    help="of the scores (default: %(default)s)",
  )
  parser.add_argument("--force", action="store_true", help="replace --out")
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Scores a file."""
  from instructrec_jax.errors import InputError
  from instructrec_jax.scoring.stream import score_file

  step = args.step
  if step not in (None, "best"):
    try:
      step = int(step)
    except ValueError:
      raise InputError(
        f"--step is {step!r}: a number or best is needed."
      ) from None
  count = score_file(
    requests=args.requests,
    model=args.model,
    out=args.out,
    step=step,
    limit=args.limit,
    batch_tokens=args.batch_tokens,
    normalisation=args.normalisation,
    force=args.force,
  )
  if args.json:
    print(json.dumps({"requests": count, "out": str(args.out)}))
  else:
    print(f"{args.out}: scores of {count:,} requests")
