"""The `instructrec` command: one file a subcommand, loaded when it is named.

Each subcommand module has `EXAMPLE` (a command line), `add_arguments(parser)`
and `run(args)`. A module that sets `TAKES_EXTRA = True` gets the arguments
that its parser does not know as `args.extra` (gin's `--gin.MACRO=VALUE`).
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from instructrec_jax.errors import InputError

# In the order of the pipeline: name -> what `instructrec --help` says of it.
SUBCOMMANDS = {
  "quickstart": "the whole pipeline, small, offline, on a synthetic shop",
  "prepare": "raw reviews -> a dataset folder",
  "annotate": "a teacher writes preferences and intentions, each paid once",
  "statistics": "a dataset folder's Table 5 and Table 2",
  "templates": "the instruction templates, each with a rendered example",
  "build": "a dataset folder -> instructions (TFDS) and ranking requests",
  "inspect": "a SeqIO mixture: rates, counts, lengths, examples",
  "pack": "a mixture -> memory-mapped packed batches",
  "plan": "a model, a mesh, a batch -> the memory that training needs",
  "train": "instruction-tune a T5, configured with gin",
  "convert": "a checkpoint: T5X's, Hugging Face's or ours -> another of them",
  "score": "requests -> log-likelihoods and ranks per candidate",
  "evaluate": "rankers on the same candidates -> the HR/NDCG table",
  "reproduce": "the paper's tables and figure for a dataset folder, a report",
  "ask": "a user's own words -> the model instruction and a ranking",
  "export": "a trained model -> a folder that opens with jax alone",
  "serve": "a trained model over HTTP, and a page to ask it",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one subcommand; returns the process's exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] not in SUBCOMMANDS:
    return _overview(argv)
  # TensorFlow greets at length otherwise; errors still show.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  command = importlib.import_module(f"instructrec_jax.cli.{argv[0]}")
  parser = argparse.ArgumentParser(
    prog=f"instructrec {argv[0]}",
    description=command.__doc__,
    epilog=f"example:\n  {command.EXAMPLE}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  command.add_arguments(parser)
  if getattr(command, "TAKES_EXTRA", False):
    args, args.extra = parser.parse_known_args(argv[1:])
  else:
    args = parser.parse_args(argv[1:])
  try:
    if (seed := getattr(args, "seed", 0)) < 0:
      raise InputError(f"--seed is {seed}: a number from 0 is needed.")
    return command.run(args) or 0
  except InputError as error:
    print(f"instructrec {argv[0]}: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print(f"\ninstructrec {argv[0]}: interrupted.", file=sys.stderr)
    return 130
  except BrokenPipeError:
    # `instructrec ... | head` is not an error of ours.
    sys.stderr.close()
    return 0
  except OSError as error:
    # A path that cannot be read or written, or a full disk; others are ours.
    if error.filename is None and error.errno != errno.ENOSPC:
      raise
    where = f"{error.filename}: " if error.filename is not None else ""
    print(f"instructrec {argv[0]}: {where}{error.strerror}.", file=sys.stderr)
    return 2


def _overview(argv: Sequence[str]) -> int:
  asked = bool(argv) and argv[0] in ("-h", "--help")
  out = sys.stdout if asked or not argv else sys.stderr
  if argv and not asked:
    print(f"instructrec: no subcommand {argv[0]!r}.\n", file=out)
  print("usage: instructrec SUBCOMMAND [options]\n", file=out)
  for name, summary in SUBCOMMANDS.items():
    print(f"  {name:<11} {summary}", file=out)
  print("\n`instructrec SUBCOMMAND --help` shows an example.", file=out)
  return 0 if asked or not argv else 2


if __name__ == "__main__":
  sys.exit(main())
