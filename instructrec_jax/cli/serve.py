"""Answers over HTTP, and with a page at /.

/v1/rerank and /v2/rerank speak with rerank clients, /v1/recommend finds the
best of the catalogue, /openapi.json describes all. Nobody is asked who they
are: with another --host than the default, put a proxy in front that does.
"""

from dataclasses import dataclass
from typing import Annotated

from instructrec_jax.cli import options as opt

EXAMPLE = "instructrec serve --model runs/games --dataset data/games"


@dataclass(frozen=True, kw_only=True)
class Options:
  model: opt.Model
  dataset: opt.Dataset | None = None
  """dataset folder whose items are the catalogue (default: the export's)"""
  templates: opt.Templates | None = None
  """to choose from (default: the export's own, or package)"""
  step: opt.Step | None = None
  host: Annotated[str, opt.Arg(metavar="ADDRESS")] = "127.0.0.1"
  """address to listen at (default: 127.0.0.1, this machine alone)"""
  port: Annotated[opt.CountOrZero, opt.Arg(most=65535)] = 8000
  """to listen at; 0 for a free one"""
  waiting: opt.Count = 128
  """requests that may wait before others get a 503"""
  timeout: Annotated[opt.Count, opt.Arg(most=86_400)] = 30
  """seconds that an answer may take before it is a 504"""
  batch_tokens: opt.BatchTokens | None = None


def run(options: Options) -> None:
  """Serves until a signal, and answers what has come till then."""
  from instructrec_jax.serving.app import Limits, create_app
  from instructrec_jax.serving.recommender import Recommender
  from instructrec_jax.serving.server import listen, serve
  from instructrec_jax.serving.service import warm_up

  # Before the model is loaded: a taken port is found out at once.
  listening = listen(options.host, options.port)
  with listening:
    apart = ("model", "host", "port", "waiting", "timeout")
    recommender = Recommender.load(
      options.model, **opt.arguments(options, *apart)
    )
    # Before the first request, and not in uvicorn, which would print a
    # traceback for a model that cannot score.
    warm_up(recommender)
    limits = Limits(max_waiting=options.waiting, timeout=options.timeout)
    app = create_app(recommender, limits=limits)
    serve(app, listening, timeout=options.timeout)
