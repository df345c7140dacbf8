"""Answers over HTTP, and with a page at /.

/v1/rerank and /v2/rerank speak with rerank clients, /v1/recommend finds the
best of the catalogue, /docs describes all. It listens on this machine alone;
with another --host, ask for a key (--api-key) and encrypt (--ssl-certfile), or
put a proxy in front that does.
"""

import contextlib
import ipaddress
import re
import sys
from dataclasses import dataclass
from typing import Annotated

from instructrec_jax.cli import options as opt

EXAMPLE = "instructrec serve --model runs/games --dataset data/games"


def _origin(text: str) -> str:
  is_origin = text == "*" or re.fullmatch(r"https?://[^\s/?#@]+", text)
  return "" if is_origin else "an origin such as https://shop.example is needed"


def _host(text: str) -> str:
  is_host = re.fullmatch(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*", text)
  if not is_host:
    with contextlib.suppress(ValueError):
      is_host = ipaddress.IPv6Address(text)
  needed = "a name such as recs.shop.example is needed, without a port"
  return "" if is_host else needed


def _root(text: str) -> str:
  is_root = re.fullmatch(r"(/[\w.~-]+)+", text, re.ASCII)
  return "" if is_root else "a path such as /recs is needed, without a / behind"


@dataclass(frozen=True, kw_only=True)
class Options(opt.Served):
  host: Annotated[str, opt.Arg(metavar="ADDRESS")] = "127.0.0.1"
  """address to listen at (default: 127.0.0.1, this machine alone)"""
  port: Annotated[opt.CountOrZero, opt.Arg(most=65535)] = 8000
  """to listen at; 0 for a free one"""
  api_key: opt.InputFile | None = None
  """file of API keys, one a line; a request without one gets a 401 (default:
  those of the variable INSTRUCTREC_API_KEY, with commas between, if any)"""
  cors_origins: Annotated[
    tuple[str, ...], opt.Arg(metavar="ORIGIN", check=_origin, is_set=True)
  ] = ()
  """pages of other hosts whose scripts may ask, such as https://shop.example,
  or *"""
  allowed_hosts: Annotated[
    tuple[str, ...], opt.Arg(metavar="NAME", check=_host, is_set=True)
  ] = ()
  """names under which it may be asked, such as recs.shop.example, or * for any;
  this machine's own always may (default: no others if --host is this machine
  alone, which keeps foreign pages with such a name out; else any)"""
  root_path: Annotated[str, opt.Arg(metavar="PATH", check=_root)] = ""
  """where a proxy shows the server, such as /recs"""
  ssl_certfile: opt.InputFile | None = None
  """certificate for HTTPS, in PEM"""
  ssl_keyfile: opt.InputFile | None = None
  """its key, without a passphrase (default: in the certificate's file)"""
  images: bool = False
  """show the catalogue's pictures on the page, which browsers then load from
  the hosts that the data name (default: the page loads nothing from others)"""
  request_log: bool = False
  """write a line of JSON for each request to standard error"""
  truncate: bool = False
  """cut texts that are too long, unless a request to rerank says otherwise"""
  skip_warm_up: bool = False
  """answer sooner after the start: what a request needs is compiled when it is
  first asked for, and that answer takes seconds (--timeout bounds it, too)"""
  waiting: opt.Count = 128
  """requests that may wait before others get a 503"""
  timeout: Annotated[opt.Count, opt.Arg(most=86_400)] = 30
  """seconds that an answer may take before it is a 504"""
  head_timeout: Annotated[opt.Count, opt.Arg(most=86_400)] = 10
  """seconds that a request's headers may take before the connection ends"""
  keep_alive: Annotated[opt.Count, opt.Arg(most=86_400)] = 5
  """seconds that a connection may be idle; behind a proxy, more than its own"""
  batch_tokens: opt.BatchTokens | None = None
  user_state_bytes: opt.CountOrZero = 0
  """memory for the encoder's states of instructions, which then need not be
  read again for other candidates; 0 for none"""


def run(options: Options) -> None:
  """Serves until a signal, and answers what has come till then."""
  from instructrec_jax.serving.access import Access, is_loopback, read_keys
  from instructrec_jax.serving.app import Limits, create_app
  from instructrec_jax.serving.server import Connections, listen, serve
  from instructrec_jax.serving.service import try_out, warm_up

  # Before the model is loaded: what is wrong is found out at once.
  connections = Connections(
    head_timeout=options.head_timeout,
    keep_alive=options.keep_alive,
    certificate=options.ssl_certfile,
    key=options.ssl_keyfile,
  )
  connections.check()
  keys = read_keys(options.api_key)
  listening = listen(options.host, options.port)
  is_alone = is_loopback(listening.getsockname()[0])
  access = Access(
    keys=keys,
    cors_origins=options.cors_origins,
    root_path=options.root_path,
    hosts=options.allowed_hosts or (() if is_alone else ("*",)),
  )
  with listening:
    # In a log, a model that cannot be loaded is one sentence and no more.
    if sys.stderr.isatty():
      _tell(f"loading {options.model}")
    recommender = options.recommender(
      batch_tokens=options.batch_tokens,
      user_state_bytes=options.user_state_bytes,
    )
    _tell(f"loaded {options.model}: {recommender}")
    # Before the first request, and not in uvicorn, which would print a
    # traceback for a model that cannot score.
    if options.skip_warm_up:
      try_out(recommender)
    else:
      warm_up(recommender, _tell)
    limits = Limits(
      max_waiting=options.waiting,
      timeout=options.timeout,
      truncate=options.truncate,
    )
    app = create_app(
      recommender,
      limits=limits,
      access=access,
      log_requests=options.request_log,
      images=options.images,
    )
    serve(app, listening, timeout=options.timeout, connections=connections)


def _tell(line: str) -> None:
  """Says how far it is: starting takes a minute or so."""
  print(line, file=sys.stderr, flush=True)
