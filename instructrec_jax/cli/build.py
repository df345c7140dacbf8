"""Writes a dataset folder's instructions and ranking requests.

One form of one template is drawn for each target and family <P,I,T>.
Instructions become a TFDS dataset that SeqIO and T5X read; requests of every
evaluation scenario become Parquet. What needs a preference or an intention is
written for those users and targets that have one: run `annotate` before.
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
    "--templates",
    nargs="+",
    default=["package"],
    metavar="YAML",
    help="files of templates, or the words package (the default) and pairwise; "
    "a later file's template replaces an earlier one of the same name",
  )
  parser.add_argument(
    "--families",
    type=lambda text: tuple(text.split(",")),
    default=(),
    help="comma-separated, such as p1_i0_t3,p1_i1_t3 (default: all)",
  )
  parser.add_argument(
    "--cold-items",
    choices=("paper", "strict"),
    default="paper",
    help="strict keeps the items that product search is tested on out of every "
    "training text (default: %(default)s)",
  )
  parser.add_argument(
    "--matcher",
    choices=("tfidf", "bm25", "two_tower"),
    default="tfidf",
    help="whose best items are the hard negatives; two_tower, the paper's, is "
    "trained first (default: %(default)s)",
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
  from instructrec_jax.seqio_bridge.build import Options, build

  manifest = build(
    args.dataset,
    vocabulary=args.vocab,
    train_vocabulary_size=args.train_vocab,
    options=Options(
      templates=tuple(args.templates),
      families=args.families,
      rows_per_target=args.rows_per_target,
      input_length=args.input_length,
      cold_items=args.cold_items,
      matcher=args.matcher,
      seed=args.seed,
    ),
    force=args.force,
  )
  print(json.dumps(manifest) if args.json else summary(manifest))


def summary(manifest: dict[str, Any]) -> str:
  """Returns rows of each family and split, requests, and what was cut."""
  planned = manifest["families"]
  splits = tuple(planned)
  width = max(len(name) for name in planned["train"]) + 2
  lines = ["".ljust(width) + "".join(f"{split:>12}" for split in splits)]
  for name in planned["train"]:
    counts = "".join(f"{planned[split][name]:>12,}" for split in splits)
    lines.append(name.ljust(width) + counts)
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
