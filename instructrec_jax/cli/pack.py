"""Draws a mixture at its rates into packed rows that `train` reads.

The rows are tokenised and memory-mapped: training needs no TensorFlow, and
draws no example twice before all have come once.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from instructrec_jax.cli import options as opt

EXAMPLE = (
  "instructrec pack instructrec_all_v1 --dataset data/games --out packed/games"
)


@dataclass(frozen=True, kw_only=True)
class Options:
  mixture: opt.Mixture
  dataset: opt.Dataset
  out: opt.Out
  split: opt.Split = "train"
  input_length: opt.InputLength = 512
  target_length: opt.TargetLength = 64
  examples: opt.Count | None = None
  """examples to draw (default: one pass)"""
  spell: Annotated[float, opt.Arg(metavar="RATE", least=0, most=1)] = 0.0
  """share of pieces of several words, such as whole titles, that are spelled"""
  seed: opt.Seed = 0
  force: opt.Force = False
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Packs; returns the manifest and how full the rows are."""
  from instructrec_jax.seqio_bridge.pack import pack_mixture

  manifest = pack_mixture(**opt.arguments(options, "json")).manifest
  return manifest, (
    f"{options.out}: {manifest['examples']:,} examples in "
    f"{manifest['rows']:,} rows of "
    f"{options.input_length}/{options.target_length} tokens, "
    f"{manifest['row_fill_inputs']:.1%} and "
    f"{manifest['row_fill_targets']:.1%} full; "
    f"{manifest['inputs_dropped']:,} inputs too long for a row were dropped, "
    f"{manifest['targets_cut']:,} targets cut"
  )
