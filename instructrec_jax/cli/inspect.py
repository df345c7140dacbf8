"""Shows what is in a SeqIO mixture, read through SeqIO as T5X reads it.

Rates and rows of its tasks, token lengths, how full packed rows get, and
examples as text and as model features.
"""

import argparse
import json
import pathlib

EXAMPLE = "instructrec inspect instructrec_all_v1 --dataset data/games"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("mixture", help="a SeqIO mixture or task")
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument(
    "--split", default="train", choices=("train", "validation", "test")
  )
  parser.add_argument(
    "--sample",
    type=int,
    default=2000,
    help="examples to measure (default: %(default)s)",
  )
  parser.add_argument(
    "--examples", type=int, default=2, help="to show (default: %(default)s)"
  )
  parser.add_argument(
    "--input-length", type=int, default=512, help="default: %(default)s"
  )
  parser.add_argument(
    "--target-length", type=int, default=64, help="default: %(default)s"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Prints the findings."""
  from instructrec_jax.seqio_bridge import inspection

  found = inspection.inspect_mixture(
    mixture=args.mixture,
    dataset=args.dataset,
    split=args.split,
    sample=args.sample,
    examples=args.examples,
    input_length=args.input_length,
    target_length=args.target_length,
    seed=args.seed,
  )
  print(json.dumps(found) if args.json else inspection.format_inspection(found))
