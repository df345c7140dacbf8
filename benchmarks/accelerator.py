"""Training, scoring and searching on one accelerator: a benchmark.

  python benchmarks/accelerator.py [--size xl] [--parts train score search]

T5 1.1 from random weights, in bfloat16, on random tokens, so that neither a
dataset nor TensorFlow is needed. Rows of 512 + 64 tokens hold instructions of
108 to 400 tokens and answers of 5 to 24. MFU is FLOPs of `flops.py`, of full
rows or of real tokens, over --peak: 989 TFLOP/s are dense bfloat16 on H100 and
H200. Random weights tell no title from another, so a search reads about all
nodes of the titles' trie; a trained model reads one in a hundred. Where torch
has the device too, Hugging Face's T5 scores the same requests, each instruction
encoded once. A peak of memory is of all that ran before it: run --parts one by
one for theirs.
"""

import argparse
import functools
import gc
import os
import time
from collections.abc import Callable
from typing import Any

# Memory is told as it is used, and torch wants some of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from flops import training_flops, useful_flops
from hugging_face import HuggingFace
from packed_rows import LENGTHS, Example, pack, to_batch
from random_tokens import Numbers, draw_requests
from sizes import SIZES, VOCABULARY

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.scoring import tokenization
from instructrec_jax.scoring.catalogue import CatalogueSearch
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.training import optimizer as optimizers
from instructrec_jax.training.memory_plan import plan_memory
from instructrec_jax.training.state import initial_state, state_shardings
from instructrec_jax.training.step import jitted_step

_GIB = 2**30
# Of Hugging Face's instructions at a time; the fastest counts.
_MICRO_BATCHES = (8, 32, 128)


def main() -> None:
  """Prints a table for each part."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=SIZES, default="xl")
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument(
    "--parts",
    nargs="+",
    choices=("train", "score", "search"),
    default=("train", "score", "search"),
  )
  parser.add_argument("--peak", type=float, default=989, help="TFLOP/s")
  parser.add_argument(
    "--remat",
    nargs="+",
    choices=("full", "minimal", "none"),
    default=("full", "minimal", "none"),
    help="in the order of the memory that they need",
  )
  for name, default, what in (
    ("--rows", 64, "a step"),
    ("--microbatches", 1, "that a step is taken in"),
    ("--steps", 5, "that are timed; the median counts"),
    ("--requests", 512, "that are scored"),
    ("--candidates", 10, "of each"),
    ("--titles", 2000, "that are searched"),
    ("--users", 16, "that are searched for, at the same time"),
    ("--seed", 0, "of weights and tokens"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  config = T5Config(
    vocab_size=VOCABULARY,
    dropout_rate=0.0,
    dtype=args.dtype,
    **SIZES[args.size],
  )
  device = jax.devices()[0]
  print(
    f"{args.size} in {args.dtype} on {device.device_kind}, jax "
    f"{jax.__version__}; products of matrices reach "
    f"{matmul_peak(args.dtype) / 1e12:,.1f} TFLOP/s, the peak is said to be "
    f"{args.peak:,.4g}",
    flush=True,
  )
  for part in args.parts:
    {"train": train, "score": score, "search": search}[part](config, args)
    gc.collect()


def train(config: T5Config, args: argparse.Namespace) -> None:
  """Prints what a step takes, by what is computed again."""
  examples, rows = draw_rows(args.rows, seed=args.seed)
  batch = to_batch(examples, rows, count=args.rows)
  lengths = [(len(inputs), len(targets)) for inputs, targets in examples]
  whole = training_flops(config, [LENGTHS] * args.rows)
  real = training_flops(config, lengths)
  tokens = sum(map(sum, lengths))
  print(
    f"\ntraining: {args.rows} rows of {LENGTHS[0]} + {LENGTHS[1]} tokens in "
    f"{args.microbatches} parts, {tokens / args.rows / sum(LENGTHS):.0%} of "
    f"them real; Adafactor\n"
  )
  print(
    "| remat   | s a step | real tokens/s | MFU of rows | of real tokens "
    "| peak GiB | planned |"
  )
  print(
    "| ------- | -------: | ------------: | ----------: | -------------: "
    "| -------: | ------: |"
  )
  for remat in args.remat:
    of_remat = T5Config(**{**vars(config), "remat_policy": remat})
    planned, measured = time_steps(of_remat, batch, args)
    if measured is None:
      print(f"| {remat:<7} | no room | | | | | {planned / _GIB:>7.1f} |")
      continue
    seconds, memory = measured
    print(
      f"| {remat:<7} | {seconds:>8.3f} | {tokens / seconds:>13,.0f} "
      f"| {whole / seconds / args.peak / 1e12:>11.1%} "
      f"| {real / seconds / args.peak / 1e12:>14.1%} "
      f"| {memory / _GIB:>8.1f} | {planned / _GIB:>7.1f} |",
      flush=True,
    )


def time_steps(
  config: T5Config, batch: dict[str, np.ndarray], args: argparse.Namespace
) -> tuple[int, tuple[float, int] | None]:
  """Returns the bytes planned; the median seconds and the peak, if it fits."""
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  optimizer = optimizers.adafactor(optimizers.constant(1e-3))
  options: dict[str, Any] = {"microbatches": args.microbatches}
  planned = plan_memory(
    config, optimizer, mesh=mesh, batch_size=args.rows, **options
  ).total
  make_state = functools.partial(
    initial_state, config, optimizer, seed=args.seed
  )
  shapes = jax.eval_shape(make_state)
  shardings = state_shardings(config, optimizer, state=shapes, mesh=mesh)
  step = jitted_step(
    config, optimizer, mesh=mesh, shardings=shardings, **options
  )
  batch = mesh_lib.to_devices(batch, mesh_lib.batch_sharding(mesh))
  times = []
  try:
    state = jax.jit(make_state, out_shardings=shardings)()
    # Two more: the first compiles, the second is still slow.
    for _ in range(args.steps + 2):
      started = time.perf_counter()
      state, metrics = step(state, batch)
      jax.block_until_ready(metrics)
      times.append(time.perf_counter() - started)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return planned, None
  return planned, (float(np.median(times[2:])), peak_memory())


def score(config: T5Config, args: argparse.Namespace) -> None:
  """Prints requests a second, beside Hugging Face's where torch is there."""
  requests = draw_requests(args.requests, args.candidates, args.seed)
  params = parameters.initial_variables(config, seed=args.seed)["params"]
  vocabulary: Any = Numbers()
  seconds, shapes = our_time(config, params, requests)
  useful = sum(
    useful_flops(config, request)
    for request in tokenization.tokenize(requests, vocabulary.encode_one)
  )
  print(
    f"\nscoring: {len(requests)} requests of {args.candidates} candidates, "
    f"{shapes} shapes; peak {peak_memory() / _GIB:.1f} GiB\n"
  )
  print(f"| {'':<24} | requests/s | useful work of peak | ours is |")
  print(
    "| ------------------------ | ---------: | ------------------: | ------: |"
  )

  def row(name: str, took: float) -> None:
    print(
      f"| {name:<24} | {len(requests) / took:>10.1f} "
      f"| {useful / took / args.peak / 1e12:>19.1%} "
      f"| {took / seconds:>6.2f}x |",
      flush=True,
    )

  row("ours", seconds)
  for batch, took in hugging_face_times(config, params, requests, args):
    row(f"encode once, {batch} at a time", took)


def our_time(config: T5Config, params: Any, requests: Any) -> tuple[float, int]:
  """Returns seconds, and how many shapes were compiled."""
  vocabulary: Any = Numbers()
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  seconds = best_of(3, functools.partial(ranker.score, requests))
  return seconds, ranker.compiled_shapes


def hugging_face_times(
  config: T5Config, params: Any, requests: Any, args: argparse.Namespace
) -> list[tuple[int, float]]:
  """Returns seconds by how many instructions are taken at a time."""
  try:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    theirs = HuggingFace(
      config,
      params,
      Numbers(),
      threads=os.cpu_count() or 1,
      device=device,
      dtype=args.dtype,
    )
  except ImportError:
    print("torch and transformers are absent: no Hugging Face to compare with")
    return []
  if (device == "cuda") != (jax.default_backend() == "gpu"):
    print("torch and jax see different devices: nothing to compare with")
    return []
  requests = sorted(requests, key=lambda r: len(r.instruction.split()))
  return [
    (
      batch,
      best_of(
        2,
        functools.partial(
          theirs.score, requests, encode_once=True, batch=batch
        ),
      ),
    )
    for batch in _MICRO_BATCHES
    if batch <= len(requests)
  ]


def search(config: T5Config, args: argparse.Namespace) -> None:
  """Prints what a search takes for each node of the titles' trie."""
  rng = np.random.default_rng(args.seed)
  # Beginnings in common, as brands and series make them.
  ids = np.minimum(rng.zipf(1.3, (args.titles, 9)) + 2, VOCABULARY - 101)
  titles = [" ".join(map(str, row[: rng.integers(4, 10)])) for row in ids]
  titles = list(dict.fromkeys(titles))
  params = parameters.initial_variables(config, seed=args.seed)["params"]
  vocabulary: Any = Numbers()
  finder = CatalogueSearch(
    titles,
    config=config,
    params=params,
    vocabulary=vocabulary,
    batch=args.users,
  )
  asked = [r.instruction for r in draw_requests(args.users, 1, args.seed)]
  found = finder.top(asked, 10)
  seconds = best_of(2, lambda: finder.top(asked, 10), warm=False)
  nodes = sum(one.nodes for one in found)
  print(
    f"\nsearching: {len(titles):,} titles, {args.users} users at the same "
    f"time, {nodes / args.users:,.0f} of {len(finder.trie.tokens):,} nodes "
    f"each; {1e3 * seconds / nodes:.3f} s for a user's 1,000 nodes; peak "
    f"{peak_memory() / _GIB:.1f} GiB"
  )


def draw_rows(
  count: int, *, seed: int
) -> tuple[list[Example], list[list[int]]]:
  """Draws examples that fill so many rows, and says which share one."""
  rng = np.random.default_rng(seed)

  def draw(low: int, high: int) -> list[int]:
    return rng.integers(3, VOCABULARY, rng.integers(low, high)).tolist()

  examples = [(draw(108, 400), draw(5, 24)) for _ in range(4 * count)]
  rows = pack(examples)[:count]
  kept = sorted(number for row in rows for number in row)
  places = {number: place for place, number in enumerate(kept)}
  return (
    [examples[number] for number in kept],
    [[places[number] for number in row] for row in rows],
  )


def best_of(
  rounds: int, function: Callable[[], Any], *, warm: bool = True
) -> float:
  """Returns the least seconds, not counting what compiles."""
  if warm:
    function()
  times = []
  for _ in range(rounds):
    started = time.perf_counter()
    function()
    times.append(time.perf_counter() - started)
  return min(times)


def matmul_peak(dtype: str) -> float:
  """Returns the most FLOP/s that a matrix product reaches here."""
  best = 0.0
  sizes = (1024, 2048) if jax.default_backend() == "cpu" else (8192, 16384)
  for size in sizes:
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    seconds = best_of(
      5, lambda p=product, x=matrix: jax.block_until_ready(p(x))
    )
    best = max(best, 2 * size**3 / seconds)
  return best


def peak_memory() -> int:
  """Returns the most bytes of the device in use so far; 0 where untold."""
  statistics = jax.devices()[0].memory_stats() or {}
  return int(statistics.get("peak_bytes_in_use", 0))


if __name__ == "__main__":
  main()
