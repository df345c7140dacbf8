"""Shows what is in a SeqIO mixture, read through SeqIO as T5X reads it.

Rates and rows of its tasks, token lengths, how full packed rows get, and
examples as text and as model features.
"""

from dataclasses import dataclass
from typing import Any

from instructrec_jax.cli import options as opt

EXAMPLE = "instructrec inspect instructrec_all_v1 --dataset data/games"


@dataclass(frozen=True, kw_only=True)
class Options:
  mixture: opt.Mixture
  dataset: opt.Dataset
  split: opt.Split = "train"
  sample: opt.Count = 2000
  """examples to measure"""
  examples: opt.CountOrZero = 2
  """examples to show"""
  input_length: opt.InputLength = 512
  target_length: opt.TargetLength = 64
  seed: opt.Seed = 0
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Measures the mixture."""
  from instructrec_jax.seqio_bridge import inspection

  found = inspection.inspect_mixture(**opt.arguments(options, "json"))
  return found, inspection.format_inspection(found)
