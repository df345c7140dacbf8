"""Draws a mixture at its rates into packed rows that `train` reads.

The rows are tokenised and memory-mapped: training needs no TensorFlow, and
draws no example twice before all have come once.
"""

import argparse
import json
import pathlib

EXAMPLE = (
  "instructrec pack instructrec_all_v1 --dataset data/games --out packed/games"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("mixture", help="a SeqIO mixture or task")
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--split", default="train", choices=("train", "validation", "test")
  )
  parser.add_argument(
    "--input-length", type=int, default=512, help="default: %(default)s"
  )
  parser.add_argument(
    "--target-length", type=int, default=64, help="default: %(default)s"
  )
  parser.add_argument(
    "--examples", type=int, help="how many to draw (default: one pass)"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--force", action="store_true", help="replace --out")
  parser.add_argument("--json", action="store_true", help="print the manifest")


def run(args: argparse.Namespace) -> None:
  """Packs and prints how full the rows are."""
  from instructrec_jax.seqio_bridge.pack import pack_mixture

  packed = pack_mixture(
    mixture=args.mixture,
    dataset=args.dataset,
    out=args.out,
    split=args.split,
    input_length=args.input_length,
    target_length=args.target_length,
    examples=args.examples,
    seed=args.seed,
    force=args.force,
  )
  manifest = packed.manifest
  if args.json:
    print(json.dumps(manifest))
    return
  print(
    f"{args.out}: {manifest['examples']:,} examples in {manifest['rows']:,} "
    f"rows of {args.input_length}/{args.target_length} tokens, "
    f"{manifest['row_fill_inputs']:.1%} and "
    f"{manifest['row_fill_targets']:.1%} full; "
    f"{manifest['inputs_dropped']:,} inputs too long for a row were dropped, "
    f"{manifest['targets_cut']:,} targets cut"
  )
