"""Writes a folder that takes a trained model elsewhere.

OUT has the weights (safetensors), vocabulary, templates and, of --dataset, the
titles. `Recommender.load`, `serve`, `ask`, `score` and `evaluate` take it as
--model; it opens with jax, flax, jaxtyping, sentencepiece, PyYAML and tqdm.
"""

import argparse
import json
import pathlib

EXAMPLE = "instructrec export --model runs/games --dataset data/games --out out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--model", type=pathlib.Path, required=True, help="folder of `train`"
  )
  parser.add_argument(
    "--dataset",
    type=pathlib.Path,
    help="dataset folder whose items are the catalogue",
  )
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder to write"
  )
  parser.add_argument(
    "--templates",
    nargs="+",
    default=["package"],
    metavar="YAML",
    help="to choose from, as in `build` (default: package)",
  )
  parser.add_argument(
    "--step", help="a checkpoint's number, or best (default: the latest)"
  )
  parser.add_argument("--force", action="store_true", help="replace --out")
  parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
  """Exports, and says what was written."""
  from instructrec_jax.serving.model_export import export

  manifest = export(
    args.model,
    args.out,
    dataset=args.dataset,
    templates=args.templates,
    step=args.step,
    force=args.force,
  )
  if args.json:
    print(json.dumps({"out": str(args.out), **manifest}))
    return
  print(
    f"{args.out}: {manifest['name']} of step {manifest['step']:,}, "
    f"{manifest['items']:,} titles"
  )
