"""Tools for assistants (Model Context Protocol): recommend, rank, explain.

An assistant starts this command and speaks with it over standard input and
output; nothing is listened at. `recommend`, `explain` and `search_catalogue`
need a catalogue: an export with one, or --dataset.
"""

import sys
from dataclasses import dataclass

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec mcp --model exports/games"


@dataclass(frozen=True, kw_only=True)
class Options(opt.Served):
  pass


def run(options: Options) -> None:
  """Answers until the input ends."""
  try:
    from instructrec_jax.serving.mcp_tools import create_server
  except ImportError as error:
    # Not there, or older.
    if (error.name or "").split(".")[0] != "mcp":
      raise
    raise InputError(
      "the package mcp is needed, 2.3 or newer: pip install 'mcp>=2.3,<3'."
    ) from None
  recommender = options.recommender()
  # Standard output is the protocol's.
  print(f"loaded {options.model}: {recommender}", file=sys.stderr, flush=True)
  create_server(recommender).run()
