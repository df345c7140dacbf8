"""How long a request takes to score, beside Hugging Face's T5: a benchmark.

  .venv/bin/python benchmarks/scoring.py [--size small] [--threads 1] \
    --vocab spiece.model --requests data/games/requests/sequential_test.parquet

T5 1.1 with the same random weights, float32, on CPU; the requests of the first
64 users. Hugging Face is used in three forms, the requests sorted by length:
`naive` runs encoder and decoder for each candidate, `encode once` the encoder
for each instruction, and `batched` that with 8 instructions at a time.
CTranslate2, where it is installed, runs both for each candidate, 8 at a time,
in float32 and with weights in int8. The slow forms score a sample, whose time
is scaled to all requests by the useful work.

Useful work is what no exact scorer can do without: real tokens, what candidates
begin with alike once, no padding. CPU seconds are the number to compare: they
depend little on what else the machine does. Without --requests, random tokens.
"""

import argparse
import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ctranslate_2 import CTranslate2
from flops import flops, useful_flops
from hugging_face import HuggingFace
from random_tokens import Numbers, draw_requests
from sizes import CPU_SIZES, SIZES, VOCABULARY

from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring import tokenization
from instructrec_jax.text.vocabulary import Vocabulary

_MICRO_BATCH = 8
# Of CTranslate2's candidates; with 32 and with 128 it takes longer.
_CANDIDATES_AT_ONCE = 8


def main() -> None:
  """Prints a table for each file of requests."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=CPU_SIZES, default="small")
  parser.add_argument("--requests", type=pathlib.Path, nargs="*", default=[])
  parser.add_argument("--vocab", type=pathlib.Path)
  parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100])
  for name, default, what in (
    ("--limit", 64, "requests"),
    ("--sample", 8, "requests that encode-once forms score"),
    ("--naive-sample", 2, "requests that the naive form scores"),
    ("--rounds", 5, "in turns; the best counts"),
    ("--threads", 1, "cores"),
    ("--batch-tokens", None, "of ours"),
    ("--seed", 0, "of weights"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  # Before jax and torch make their threads.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  vocabulary: Any = Numbers()
  streams = [draw_requests(args.limit, n, args.seed) for n in args.candidates]
  if args.requests:
    vocabulary = Vocabulary.load(args.vocab)
    streams = [list(read_requests(p, limit=args.limit)) for p in args.requests]
  for requests in streams:
    print_table(requests, vocabulary, args=args)
  print(
    "\nBefore the device has work, CPU us a request in chunks of so many:\n\n"
    "| candidates | chunk | tokenise | choose bins | lay out | both |"
    "\n| ---------: | ----: | -------: | ----------: | ------: | ---: |"
  )
  for requests in streams:
    print_packing(requests, vocabulary, args=args)


def print_packing(
  requests: Sequence[RankingRequest], vocabulary: Any, *, args: Any
) -> None:
  """Times what the host does for each request, repeated to fill a chunk."""
  from instructrec_jax.scoring.batching import Batcher, to_batches

  batcher = Batcher(shards=1, bin_tokens=args.batch_tokens or 5120)
  encode = functools.cache(vocabulary.encode_one)
  title = functools.cache(tokenization.candidate_encoder(encode))
  for size in (64, 1024, 8192):
    chunk_of = [requests[number % len(requests)] for number in range(size)]
    best = np.full(3, np.inf)
    for _ in range(args.rounds + 1):
      times = [time.process_time()]
      tokenized = tokenization.tokenize(chunk_of, encode, title)
      times.append(time.process_time())
      chunk = tokenization.Chunk(tokenized)
      binned = batcher.bins(chunk)
      times.append(time.process_time())
      for shape, bins in binned.items():
        for _ in to_batches(chunk, bins, shape=shape, shards=1):
          pass
      times.append(time.process_time())
      best = np.minimum(best, np.diff(times) / size * 1e6)
    told = " | ".join(f"{of:.0f}" for of in (*best, best[1:].sum()))
    print(f"| {len(requests[0].candidates)} | {size:,} | {told} |")


def print_table(
  requests: Sequence[RankingRequest], vocabulary: Any, *, args: Any
) -> None:
  """Times every form on the same requests, in turns."""
  from instructrec_jax.scoring.reranker import T5Ranker
  from instructrec_jax.seq2seq import parameters
  from instructrec_jax.seq2seq.config import T5Config

  config = T5Config(vocab_size=VOCABULARY, **SIZES[args.size])
  params = parameters.initial_variables(config, seed=args.seed)["params"]
  tokenized = tokenization.tokenize(requests, vocabulary.encode_one)
  useful = np.array([useful_flops(config, request) for request in tokenized])
  by_length = np.argsort([len(r.instruction) for r in tokenized])
  ranker = T5Ranker(
    config=config,
    params=params,
    vocabulary=vocabulary,
    batch_tokens=args.batch_tokens,
  )
  started = time.perf_counter()
  scores = ranker.score(requests)
  first_call = time.perf_counter() - started
  computed = computed_flops(config, ranker, tokenized)
  everything = np.arange(len(requests))
  forms: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "ours": (lambda: ranker.score(requests), everything)
  }
  difference = 0.0
  try:
    theirs = HuggingFace(config, params, vocabulary, threads=args.threads)
  except ImportError:
    print("torch and transformers are absent: pip install -e '.[parity]'")
  else:
    for name, once, batch, count in (
      ("encode once, batched", True, _MICRO_BATCH, args.sample),
      ("encode once", True, 1, args.sample),
      ("naive", False, 1, args.naive_sample),
    ):
      # Whole micro-batches, spread over the lengths.
      starts = spread(
        range(0, len(requests) - batch + 1, batch), count // batch
      )
      members = by_length[[start + n for start in starts for n in range(batch)]]
      sample = [requests[number] for number in members]
      forms[name] = (
        lambda sample=sample, once=once, batch=batch: theirs.score(
          sample, encode_once=once, batch=batch
        ),
        members,
      )
      for number, values in zip(members, forms[name][0](), strict=True):
        apart = np.abs(scores[number] / values - 1).max()
        difference = max(difference, float(apart))
    members = by_length[spread(range(len(requests)), args.sample)]
    for name in ("float32", "int8"):
      try:
        peer = CTranslate2(
          theirs, vocabulary, threads=args.threads, compute_type=name
        )
      except ImportError:
        print("ctranslate2 is absent: pip install ctranslate2")
        break
      sample = [requests[number] for number in members]
      form = functools.partial(peer.score, sample, batch=_CANDIDATES_AT_ONCE)
      forms[f"CTranslate2, {name}"] = form, members
      apart = max(
        float(np.abs(scores[number] / values - 1).max())
        for number, values in zip(members, form(), strict=True)
      )
      print(f"CTranslate2's scores in {name} differ by {apart:.1e}")
  times = measure(forms, rounds=args.rounds)
  clock = time.process_time if args.threads == 1 else time.perf_counter
  peak = matmul_peak(clock)
  wall_or_cpu = "CPU" if args.threads == 1 else "wall"
  print(
    f"\n{args.size}, {len(requests[0].candidates)} candidates, "
    f"{args.threads} threads: {ranker.compiled_shapes} shapes, first call "
    f"{first_call:.1f} s; {useful.mean() / 1e9:.1f} GFLOP of useful work a "
    f"request, computed {computed / useful.sum():.3f} times that; matrix "
    f"products reach {peak / 1e9:.0f} GFLOP/s; largest relative difference of "
    f"scores {difference:.1e}\n"
  )
  print(
    f"| {'':<20} | {wall_or_cpu} ms a request | ours is | share of peak "
    "| MiB above weights |"
  )
  print(
    "| -------------------- | ---------------: | ------: | ------------: "
    "| ----------------: |"
  )
  ours = None
  for name, (cpu, wall, memory) in times.items():
    members = forms[name][1]
    seconds = cpu if args.threads == 1 else wall
    # Of all requests, by the sample's share of the useful work.
    each = seconds * useful.sum() / useful[members].sum() / len(requests)
    ours = ours or each
    print(
      f"| {name:<20} | {1e3 * each:>16.1f} | {each / ours:>6.2f}x "
      f"| {useful.mean() / each / peak:>13.0%} | {memory / 2**20:>17.0f} |"
    )


def spread(items: Sequence[Any], count: int) -> list[Any]:
  """Returns the middle of each of `count` equal parts."""
  count = max(min(count, len(items)), 1)
  places = (np.arange(count) + 0.5) * len(items) / count
  return [items[place] for place in places.astype(int)]


def measure(
  forms: dict[str, tuple[Callable[[], Any], np.ndarray]], *, rounds: int
) -> dict[str, tuple[float, float, int]]:
  """Returns each form's least CPU and wall seconds, and its memory."""
  times = {name: [] for name in forms}
  for _ in range(rounds):
    for name, (score, _) in forms.items():
      before = _resident_memory()
      # Linux: begin to count the peak anew.
      pathlib.Path("/proc/self/clear_refs").write_text("5")
      cpu, wall = time.process_time(), time.perf_counter()
      score()
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      times[name].append((cpu, wall, _resident_memory("VmHWM") - before))
  return {
    name: (
      min(cpu for cpu, _, _ in found),
      min(wall for _, wall, _ in found),
      max(memory for _, _, memory in found),
    )
    for name, found in times.items()
  }


def _resident_memory(field: str = "VmRSS") -> int:
  """Returns bytes, of Linux's accounts of this process."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  line = next(line for line in lines if line.startswith(field))
  return int(line.split()[1]) * 1024


def matmul_peak(clock: Callable[[], float]) -> float:
  """Returns the most FLOP/s that a float32 matrix product reaches here."""
  import jax

  best = 0.0
  for size in (1024, 1536, 2048, 3072):
    matrix = np.random.default_rng(0).normal(size=(size, size))
    matrix = jax.numpy.asarray(matrix, "float32")
    product = jax.jit(lambda x: x @ x)
    product(matrix).block_until_ready()
    for _ in range(5):
      started = clock()
      product(matrix).block_until_ready()
      best = max(best, 2 * size**3 / (clock() - started))
  return best


def computed_flops(
  config: Any, ranker: Any, tokenized: Sequence[tokenization.TokenizedRequest]
) -> float:
  """Returns what ours computes, padding counted."""
  total = 0.0
  chunk = tokenization.Chunk(tokenized)
  for shape, bins in ranker._batcher.bins(chunk).items():
    places = shape.rows * shape.row_length
    total += len(bins) * flops(
      config,
      tokens=shape.tokens,
      nodes=shape.nodes,
      encoder_pairs=shape.instructions * shape.length**2,
      trie_pairs=places * (shape.row_length + shape.length),
    )
  return total


if __name__ == "__main__":
  main()
