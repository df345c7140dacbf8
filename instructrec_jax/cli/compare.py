"""Tests whether two evaluations, or two rankers of one, differ.

A and B are folders of `evaluate`; their requests are paired. With --rankers
one ranker is taken from each (both from A where there is no B). Shown are the
difference B - A, its 95% bootstrap interval and the p-value of a paired test.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec compare results/games --rankers sasrec model"


@dataclass(frozen=True, kw_only=True)
class Options:
  a: Annotated[opt.Results, opt.Arg(is_positional=True)]
  """results of `evaluate`"""
  b: Annotated[opt.Results | None, opt.Arg(is_positional=True)] = None
  """results to compare with A (default: A)"""
  rankers: Annotated[tuple[str, str] | None, opt.Arg(metavar=("X", "Y"))] = None
  """rankers of A and of B (default: those of both)"""
  scenarios: opt.Names = ()
  """scenarios to compare, comma-separated (default: those of both)"""
  resamples: Annotated[opt.Count, opt.Arg(most=1_000_000)] = 10_000
  """resamples of the bootstrap"""
  seed: opt.Seed = 0
  """seed of the bootstrap"""
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Compares; returns the rows and their table."""
  if options.b is None and options.rankers is None:
    raise InputError("A alone has nothing to compare: name B, or --rankers.")
  from instructrec_jax.evaluation import compare

  rows = compare.compare(
    options.a,
    options.b or options.a,
    **opt.arguments(options, "a", "b", "json"),
  )
  return rows, compare.to_markdown(rows)
