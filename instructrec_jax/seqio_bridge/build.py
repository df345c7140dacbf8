"""`instructions.build.build` that writes TFDS and fits the matchers."""

import functools

from instructrec_jax.baselines.hard_negatives import write_hard_candidates
from instructrec_jax.instructions import build as build_lib
from instructrec_jax.instructions.build import Options
from instructrec_jax.seqio_bridge.tfds_writer import write_tfds

__all__ = ["Options", "build"]

build = functools.partial(
  build_lib.build,
  write_rows=write_tfds,
  write_hard_candidates=write_hard_candidates,
)
