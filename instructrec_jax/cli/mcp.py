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
class Options:
  model: opt.Model
  dataset: opt.Dataset | None = None
  """dataset folder whose items are the catalogue (default: the export's)"""
  templates: opt.Templates | None = None
  """to choose from (default: the export's own, or package)"""
  step: opt.Step | None = None


def run(options: Options) -> None:
  """Answers until the input ends."""
  try:
    from instructrec_jax.serving.mcp_tools import create_server
  except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in (
      "mcp",
      "pydantic",
    ):
      raise
    raise InputError(
      "a package is needed that is not here: pip install mcp (2 or newer)."
    ) from None
  from instructrec_jax.serving.recommender import Recommender

  recommender = Recommender.load(
    options.model,
    dataset=options.dataset,
    templates=options.templates,
    step=options.step,
  )
  # Standard output is the protocol's.
  print(f"loaded {options.model}: {recommender}", file=sys.stderr, flush=True)
  create_server(recommender).run()
