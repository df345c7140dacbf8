"""Converts a checkpoint between ours, T5X and Hugging Face.

SOURCE is a MODEL_DIR or an export of ours, a T5X checkpoint_STEP (legacy or
orbax) or the folder above it, or a Hugging Face folder with safetensors; the
format is detected. Only parameters are converted, no optimizer. One array is in
memory at a time.
"""

import argparse
import json
import math
import pathlib

from instructrec_jax.cli.sizes import named_size

EXAMPLE = (
  "instructrec convert flan_t5_xl/checkpoint_1138000 models/flan-t5-xl --to "
  "ours --vocabulary sentencepiece.model --size xl"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("source", type=pathlib.Path, metavar="SOURCE")
  parser.add_argument("dest", type=pathlib.Path, metavar="DEST")
  parser.add_argument(
    "--to",
    choices=("ours", "hf", "t5x"),
    required=True,
    help="ours: an export for score, ask, evaluate and INITIAL_CHECKPOINT; "
    "hf: config.json and safetensors; t5x: DEST/checkpoint_STEP",
  )
  parser.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    default="float32",
    help="of the arrays on disk (default: %(default)s)",
  )
  parser.add_argument(
    "--activations",
    choices=("float32", "bfloat16"),
    help="what our model computes in (default: the source's, else float32)",
  )
  parser.add_argument(
    "--vocabulary",
    type=pathlib.Path,
    metavar="FILE",
    help="SentencePiece model; needed for ours where SOURCE has none",
  )
  parser.add_argument(
    "--size",
    help="of gin/model (small, xl, ...): refuse a source of another size",
  )
  parser.add_argument(
    "--step", help="of SOURCE's checkpoints, or best (default: the latest)"
  )
  parser.add_argument("--force", action="store_true", help="replace DEST")
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Converts, and says what was written."""
  from instructrec_jax.checkpoints.conversion import convert

  weights = convert(
    args.source,
    args.dest,
    to=args.to,
    dtype=args.dtype,
    activation_dtype=args.activations,
    vocabulary=args.vocabulary,
    size=None if args.size is None else named_size(args.size),
    step=args.step,
    force=args.force,
  )
  config = weights.config
  parameters = sum(math.prod(leaf.shape) for leaf in weights.leaves.values())
  if args.json:
    fields = {
      "out": str(args.dest),
      "format": args.to,
      "dtype": args.dtype,
      "step": weights.step,
      "parameters": parameters,
    }
    print(json.dumps(fields))
    return
  print(
    f"{args.dest}: {parameters:,} parameters in {args.dtype}, step "
    f"{weights.step} (embedding {config.vocab_size} x {config.emb_dim}, "
    f"{config.num_encoder_layers} + {config.num_decoder_layers} layers, "
    f"{config.num_heads} heads, mlp {config.mlp_dim})"
  )
