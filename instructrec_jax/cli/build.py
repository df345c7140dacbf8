"""Writes a dataset folder's instructions and ranking requests.

One template is drawn for each target and family of templates. Instructions
become a TFDS dataset that SeqIO and T5X read; requests become Parquet.
"""

import argparse
import json
import pathlib
from typing import Any

EXAMPLE = "instructrec build --dataset data/games --vocab spiece.model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  vocabulary = parser.add_mutually_exclusive_group()
  vocabulary.add_argument(
    "--vocab", type=pathlib.Path, help="SentencePiece model, such as Flan-T5's"
  )
  vocabulary.add_argument(
    "--train-vocab",
    type=int,
    metavar="SIZE",
    help="train a vocabulary of SIZE pieces on these instructions instead",
  )
  parser.add_argument(
    "--templates", type=pathlib.Path, help="YAML (default: the package's)"
  )
  parser.add_argument(
    "--rows-per-target",
    type=int,
    default=1,
    help="instructions of each target and family (default: %(default)s)",
  )
  parser.add_argument(
    "--input-length",
    type=int,
    default=512,
    help="tokens that the encoder takes (default: %(default)s)",
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--force", action="store_true", help="build it again")
  parser.add_argument("--json", action="store_true", help="print the manifest")


def run(args: argparse.Namespace) -> None:
  """Builds and prints what was written."""
  from instructrec_jax.seqio_bridge.build import build

  manifest = build(
    args.dataset,
    vocabulary=args.vocab,
    train_vocabulary_size=args.train_vocab,
    templates_file=args.templates,
    rows_per_target=args.rows_per_target,
    input_length=args.input_length,
    seed=args.seed,
    force=args.force,
  )
  print(json.dumps(manifest) if args.json else summary(manifest))


def summary(manifest: dict[str, Any]) -> str:
  """Returns rows of each template and split, and what was cut."""
  lines = [f"{'':<6}{'':<16}{'train':>10}{'validation':>12}{'test':>10}"]
  for name, label in manifest["templates"].items():
    counts = [
      manifest["rows"][f"{name}_{split}"]
      for split in ("train", "validation", "test")
    ]
    lines.append(
      f"{name:<6}{label:<16}{counts[0]:>10,}{counts[1]:>12,}{counts[2]:>10,}"
    )
  for name, found in manifest["requests"].items():
    if isinstance(found, str):
      lines.append(f"requests/{name} {found}")
    else:
      lines.append(
        f"requests/{name}.parquet  {found['rows']:,} of {found['template']}"
      )
  cuts = manifest["cuts"]
  lines.append(
    f"{cuts['rows_with_dropped_items']:,} of {cuts['rows']:,} instructions "
    f"lost their oldest history ({cuts['items_dropped']:,} items); "
    f"{cuts['rows_over_budget']:,} are longer than the encoder takes"
  )
  return "\n".join(lines)
