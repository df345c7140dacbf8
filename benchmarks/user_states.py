"""Requests of users who come back, with and without kept encoder states.

  python benchmarks/user_states.py --model runs/quickstart/model \
    --dataset runs/quickstart/shop [--size small --vocab spiece.model]

Two servers in this process, one with `--user-state-bytes 0`, get the same
requests in turns, over loopback. A user's request has a wish and a history, in
a template without a list of candidates; the candidates are others each time.
Beside users who were all here before: half of them, and none, which tells what
keeping states costs. With --size the model is T5 1.1 of random weights, whose
catalogue is not searched: they tell nothing of how much is read of it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import pathlib
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from serving import connected, post
from sizes import CPU_SIZES, SIZES

from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.serving.app import Limits, create_app
from instructrec_jax.serving.model_export import catalogue
from instructrec_jax.serving.recommender import Recommender
from instructrec_jax.serving.server import running
from instructrec_jax.text.vocabulary import Vocabulary

# With a wish and a history, and without a list of candidates.
TEMPLATE = "C02"
WISH = "something of this kind"
KEPT = 1 << 26
# Long enough to compile.
LIMITS = Limits(timeout=600)
# Of users who were here before.
SHARES = (1.0, 0.5, 0.0)


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
  parser.add_argument("--model", type=pathlib.Path, required=True)
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument("--size", choices=CPU_SIZES)
  parser.add_argument("--vocab", type=pathlib.Path)
  parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100])
  for name, default, what in (
    ("--users", 64, "who come back"),
    ("--history", 12, "titles of each"),
    ("--requests", 64, "of a round"),
    ("--rounds", 5, "in turns; the best counts"),
    ("--connections", 16, "that ask at the same time"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  print(
    "| asked | here before | without, requests/s | with, requests/s | ratio "
    "| CPU ms, without | with | ratio | most differs |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
  )
  for count in args.candidates + [0] * (args.size is None):
    print_rows(count, args)


def print_rows(count: int, args: Any) -> None:
  """Prints rows for so many candidates; 0 searches the catalogue."""
  both = [make(args, kept) for kept in (0, KEPT)]
  titles, rng = both[0].titles, np.random.default_rng(0)
  new = itertools.count(args.users)

  def body(user: int) -> bytes:
    had = np.random.default_rng(user).choice(len(titles), args.history)
    said: dict[str, Any] = {
      "query": WISH,
      "history": [titles[number] for number in had],
      "template": TEMPLATE,
    }
    if count:
      drawn = rng.choice(len(titles), count, replace=False)
      said["documents"] = [titles[number] for number in drawn]
    return json.dumps(said).encode()

  def drawn(share: float) -> list[bytes]:
    known = rng.random(args.requests) < share
    return [
      body(int(rng.integers(args.users)) if is_known else next(new))
      for is_known in known
    ]

  path = "/v1/rerank" if count else "/v1/recommend"
  with contextlib.ExitStack() as stack:
    ports = []
    for recommender in both:
      if count:
        add_shapes(recommender, [json.loads(b) for b in drawn(0.5)])
      url = stack.enter_context(
        running(create_app(recommender, limits=LIMITS), timeout=600)
      )
      ports.append(urllib.parse.urlsplit(url).port)

    def ask(port: Any, asked: list[bytes]) -> tuple[float, float, Any]:
      cpu, wall = time.process_time(), time.perf_counter()
      answers = asyncio.run(answered(port, path, asked, args.connections))
      return time.perf_counter() - wall, time.process_time() - cpu, answers

    # Compiles, and has every user's states kept.
    for asked in ([body(user) for user in range(args.users)], drawn(0.5)):
      for port in ports:
        ask(port, asked)
        for one in asked[:3]:
          ask(port, [one])
    for share in SHARES:
      best, apart = np.full((2, 2), np.inf), 0.0
      for _ in range(args.rounds):
        asked, scores = drawn(share), []
        for number, port in enumerate(ports):
          *took, answers = ask(port, asked)
          best[number] = np.minimum(best[number], took)
          scores.append(np.array(answers))
        apart = max(apart, float(np.abs(scores[0] / scores[1] - 1).max()))
      rate, cpu = args.requests / best[:, 0], 1e3 * best[:, 1] / args.requests
      print(
        f"| {f'{count} candidates' if count else 'search'} | {share:.0%} "
        f"| {rate[0]:.1f} | {rate[1]:.1f} | {rate[1] / rate[0]:.2f}x "
        f"| {cpu[0]:.1f} | {cpu[1]:.1f} | {cpu[0] / cpu[1]:.2f}x "
        f"| {apart:.1e} |",
        flush=True,
      )


def make(args: Any, kept: int) -> Recommender:
  """Returns the model that keeps so many bytes of states."""
  if args.size is None:
    return Recommender.load(
      args.model, dataset=args.dataset, user_state_bytes=kept
    )
  vocabulary = Vocabulary.load(args.vocab)
  config = T5Config(vocab_size=vocabulary.model_vocab_size, **SIZES[args.size])
  params = parameters.initial_variables(config, seed=0)["params"]
  return Recommender(
    config=config,
    params=jax.device_put(params),
    vocabulary=vocabulary,
    titles=list(catalogue(args.dataset)),
    user_state_bytes=kept,
  )


def add_shapes(recommender: Recommender, asked: Sequence[Any]) -> None:
  """Adds shapes for batches of such requests, as the server's warm-up does."""
  requests = []
  for said in asked:
    composed = recommender.compose(
      said["query"],
      history=said["history"],
      candidates=said["documents"],
      template=said["template"],
    )
    requests.append(recommender.request(composed, composed.candidates))
  for together in (16, 8, 4, 1):
    recommender.ranker.add_shape(requests, together=together)


async def answered(
  port: int, path: str, asked: Sequence[bytes], connections: int
) -> list[list[float]]:
  """Returns the log-likelihoods of each request, by document or place."""
  numbers: Iterator[int] = iter(range(len(asked)))
  found: list[list[float]] = [[] for _ in asked]

  async def connection() -> None:
    async with connected(port) as (reader, writer):
      for number in numbers:
        status, answer = await post(reader, writer, asked[number], path)
        assert status == 200, answer
        results = json.loads(answer)["results"]
        if path == "/v1/rerank":
          results.sort(key=lambda each: each["index"])
        found[number] = [each["log_likelihood"] for each in results]

  await asyncio.gather(*(connection() for _ in range(connections)))
  return found


if __name__ == "__main__":
  main()
