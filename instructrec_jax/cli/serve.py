"""Answers over HTTP, and with a page at /.

/v1/rerank and /v2/rerank speak with rerank clients, /v1/recommend finds the
best of the catalogue, /openapi.json describes all. Nobody is asked who they
are: behind another --host than the default there must be something that asks.
"""

import argparse
import pathlib

EXAMPLE = "instructrec serve --model runs/games --dataset data/games"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument(
    "--model",
    type=pathlib.Path,
    required=True,
    help="folder of `train` or `export`",
  )
  parser.add_argument(
    "--dataset",
    type=pathlib.Path,
    help="dataset folder whose items are the catalogue (default: the export's)",
  )
  parser.add_argument(
    "--templates",
    nargs="+",
    metavar="YAML",
    help="to choose from (default: the export's own, or package)",
  )
  parser.add_argument(
    "--step", help="a checkpoint's number, or best (default: the latest)"
  )
  parser.add_argument(
    "--host",
    default="127.0.0.1",
    help="address to listen at (default: %(default)s, this machine alone)",
  )
  for name, default, what in (
    ("--port", 8000, "to listen at; 0 for a free one"),
    ("--waiting", 128, "requests that may wait before others get a 503"),
    ("--timeout", 30, "seconds that an answer may take before it is a 504"),
  ):
    parser.add_argument(
      name, type=int, default=default, help=f"{what} (default: %(default)s)"
    )
  parser.add_argument(
    "--batch-tokens",
    type=int,
    metavar="N",
    help="in a batch, about (default: what suits the device)",
  )


def run(args: argparse.Namespace) -> None:
  """Serves until a signal, and answers what has come till then."""
  from instructrec_jax.errors import InputError
  from instructrec_jax.serving.app import Limits, create_app
  from instructrec_jax.serving.recommender import Recommender
  from instructrec_jax.serving.server import listen, serve
  from instructrec_jax.serving.service import warm_up

  for name in ("waiting", "batch_tokens", "timeout"):
    if (value := getattr(args, name)) is not None and value < 1:
      option = name.replace("_", "-")
      raise InputError(f"--{option} is {value}: at least 1 is needed.")
  # Before the model is loaded: a taken port is found out at once.
  listening = listen(args.host, args.port)
  with listening:
    recommender = Recommender.load(
      args.model,
      dataset=args.dataset,
      templates=args.templates,
      step=args.step,
      batch_tokens=args.batch_tokens,
    )
    # Not with the first request; nor in uvicorn, which would say of a model
    # that cannot score more than a sentence.
    warm_up(recommender)
    limits = Limits(max_waiting=args.waiting, timeout=args.timeout)
    app = create_app(recommender, limits=limits)
    serve(app, listening, timeout=args.timeout)
