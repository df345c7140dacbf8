"""Training, scoring and searching on one accelerator: a benchmark.

  python benchmarks/accelerator.py [--minutes 8] [--sizes base large xl]

prints all tables of docs/performance.md that want an accelerator. Each part
runs in a process of its own until its deadline, and gets what those before it
have left over; what it has printed by then counts, and one that fails or is
ended ends no other. `--part score --size xl --candidates 10` runs one alone,
without a deadline; --dry-run says which there are.

T5 1.1 from random weights, in bfloat16, on random tokens, so that neither a
dataset nor TensorFlow is needed. Rows of 512 + 64 tokens hold instructions of
108 to 400 tokens and answers of 5 to 24. MFU is FLOPs of `flops.py`, of full
rows or of real tokens, over --peak: 989 TFLOP/s are dense bfloat16 on H100 and
H200. Random weights tell no title from another, so a search reads about all
nodes of the titles' trie; a trained model reads one in a hundred. Where torch
has the device too, Hugging Face's T5 scores a sample of the same requests, each
instruction encoded once; its time is scaled by the useful work. Joules are the
mean of what nvidia-smi tells while a row is timed, where it is there.
"""

import argparse
import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Memory is told as it is used, and torch wants some of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

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
from instructrec_jax.seq2seq import parameters, stacking
from instructrec_jax.seq2seq.config import ATTENTIONS, T5Config
from instructrec_jax.training import optimizer as optimizers
from instructrec_jax.training.memory_plan import plan_memory
from instructrec_jax.training.state import (
  initial_state,
  is_stacked,
  state_shapes,
  state_shardings,
)
from instructrec_jax.training.step import jitted_step

_GIB = 2**30
# Of Hugging Face's instructions at a time; the fastest counts.
_MICRO_BATCHES = (32, 8, 128)


def main() -> None:
  """Prints a table for each part."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--minutes", type=float, default=8, help="for all parts")
  parser.add_argument("--dry-run", action="store_true")
  parser.add_argument(
    "--sizes", nargs="+", choices=SIZES, default=("base", "large", "xl")
  )
  parser.add_argument(
    "--part", choices=("device", "train", "score", "search"), help="only this"
  )
  parser.add_argument("--size", choices=SIZES, default="xl", help="of --part")
  parser.add_argument("--dtype", default="bfloat16")
  parser.add_argument("--attention", choices=ATTENTIONS, default="xla")
  parser.add_argument(
    "--scan", action="store_true", help="layers in a loop, whatever the size"
  )
  parser.add_argument("--peak", type=float, default=989, help="TFLOP/s")
  parser.add_argument(
    "--remat",
    nargs="+",
    choices=("full", "minimal", "none"),
    default=("full", "minimal", "none"),
    help="in the order of the memory that they need, whose peak is of all",
  )
  for name, default, what in (
    ("--rows", 64, "a step"),
    ("--microbatches", 1, "that a step is taken in"),
    ("--steps", 5, "that are timed; the median counts"),
    ("--requests", 512, "that are scored"),
    ("--sample", 64, "of them, that Hugging Face scores"),
    ("--candidates", 10, "of each"),
    ("--titles", 2000, "that are searched"),
    ("--users", 32, "that are searched for, half of them at the same time"),
    ("--seed", 0, "of weights and tokens"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  if args.part is None:
    run_parts(args)
    return
  config = T5Config(
    vocab_size=VOCABULARY,
    dropout_rate=0.0,
    dtype=args.dtype,
    attention=args.attention,
    scan_layers=args.scan or None,
    **SIZES[args.size],
  )
  parts = {"device": device, "train": train, "score": score, "search": search}
  parts[args.part](config, args)


def run_parts(args: argparse.Namespace) -> None:
  """Runs each part in a process of its own, the most wanted first."""
  *others, size = args.sizes
  largest = ["--size", size]
  requests = str(max(args.requests // 4, 1))
  # Seconds of eight minutes: a program of xl compiles for one of them.
  parts: list[tuple[float, list[str]]] = [
    (25, ["device"]),
    (110, ["train", *largest, "--remat", "full", "minimal"]),
    (85, ["score", *largest]),
    (60, ["score", *largest, "--candidates", "100", "--requests", requests]),
    (50, ["search", *largest]),
    *[(45, ["train", "--size", one, "--remat", "minimal"]) for one in others],
    *[
      (30, ["train", "--size", args.sizes[0], "--remat", "minimal", *way])
      for way in (
        ["--attention", "pallas"],
        ["--attention", "cudnn"],
        ["--scan"],
      )
    ],
  ]
  unit = 60 * args.minutes / sum(seconds for seconds, _ in parts)
  ends, of_part = time.monotonic(), {}
  for seconds, part in parts:
    ends += seconds * unit
    command = [sys.executable, __file__, *sys.argv[1:], "--part", *part]
    told = shlex.join(part)
    if args.dry_run:
      print(f"{seconds * unit:4.0f} s  {shlex.join(command[1:])}")
      continue
    print(f"\n## {told}", flush=True)
    started = time.monotonic()
    status = run_until(command, ends)
    of_part[told] = f"{status} after {time.monotonic() - started:.0f} s"
  if of_part:
    print("\n## what became of the parts\n")
  for told, status in of_part.items():
    print(f"- {told}: {status}")


def run_until(command: list[str], ends: float) -> str:
  """Runs a command, which is ended at a time; returns what became of it."""
  # A group, so that nothing of it holds the device while others run.
  process = subprocess.Popen(command, start_new_session=True)
  try:
    status = process.wait(max(ends - time.monotonic(), 1))
  except subprocess.TimeoutExpired:
    return "ended at its deadline"
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  return f"failed ({status})" if status else "done"


def device(config: T5Config, args: argparse.Namespace) -> None:
  """Prints which device it is, and what a product of matrices reaches."""
  del config
  print(
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}: products of "
    f"matrices in {args.dtype} reach {matmul_peak(args.dtype) / 1e12:,.1f} "
    f"TFLOP/s, the peak is said to be {args.peak:,.4g}"
  )


def train(config: T5Config, args: argparse.Namespace) -> None:
  """Prints what a step takes, by what is computed again."""
  examples, rows = draw_rows(args.rows, seed=args.seed)
  batch = to_batch(examples, rows, count=args.rows)
  lengths = [(len(inputs), len(targets)) for inputs, targets in examples]
  whole = training_flops(config, [LENGTHS] * args.rows)
  real = training_flops(config, lengths)
  tokens = sum(map(sum, lengths))
  print(
    f"\ntraining, {args.size}, attention {args.attention}: {args.rows} "
    f"rows of {LENGTHS[0]} + {LENGTHS[1]} tokens in {args.microbatches} parts, "
    f"{tokens / args.rows / sum(LENGTHS):.0%} of them real; Adafactor\n",
    flush=True,
  )
  print(
    "| remat   | s a step | real tokens/s | MFU of rows | of real tokens "
    "| peak GiB | planned | joules | first s |"
  )
  print(
    "| ------- | -------: | ------------: | ----------: | -------------: "
    "| -------: | ------: | -----: | ------: |"
  )
  for remat in args.remat:
    of_remat = T5Config(**{**vars(config), "remat_policy": remat})
    planned, measured = time_steps(of_remat, batch, args)
    if measured is None:
      print(f"| {remat:<7} | no room | | | | | {planned / _GIB:>7.1f} | | |")
      continue
    seconds, memory, watts, first = measured
    print(
      f"| {remat:<7} | {seconds:>8.3f} | {tokens / seconds:>13,.0f} "
      f"| {whole / seconds / args.peak / 1e12:>11.1%} "
      f"| {real / seconds / args.peak / 1e12:>14.1%} "
      f"| {memory / _GIB:>8.1f} | {planned / _GIB:>7.1f} "
      f"| {watts() * seconds:>6,.0f} | {first:>7.1f} |",
      flush=True,
    )


def time_steps(
  config: T5Config, batch: dict[str, np.ndarray], args: argparse.Namespace
) -> tuple[int, tuple[float, int, Callable[[], float], float] | None]:
  """Returns bytes planned and, if it fits, what was measured.

  Median seconds, the peak's bytes, watts, and seconds of the first step, which
  compiles.
  """
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  optimizer = optimizers.adafactor(optimizers.constant(1e-3))
  options: dict[str, Any] = {"microbatches": args.microbatches}
  planned = plan_memory(
    config, optimizer, mesh=mesh, batch_size=args.rows, **options
  ).total
  if planned > memory_of("bytes_limit") > 0:
    return planned, None
  shapes = state_shapes(config, optimizer)
  shardings = state_shardings(config, optimizer, state=shapes, mesh=mesh)
  stacked = is_stacked(config, optimizer)
  if stacked:
    shardings = stacking.stack_layers(shardings, stacking.stack_shardings)
  step = jitted_step(
    config, optimizer, mesh=mesh, shardings=shardings, **options
  )
  batch = mesh_lib.to_devices(batch, mesh_lib.batch_sharding(mesh))
  try:
    state = initial_state(
      config, optimizer, seed=0, params=draw_params(config, args.seed)
    )
    state = stacking.stack_layers(state) if stacked else state
    state = jax.device_put(state, shardings)
    # The first compiles, the second is still slow.
    started = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    first = time.perf_counter() - started
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    times, watts = [], power()
    for _ in range(args.steps):
      started = time.perf_counter()
      state, metrics = step(state, batch)
      jax.block_until_ready(metrics)
      times.append(time.perf_counter() - started)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return planned, None
  seconds = float(np.median(times))
  return planned, (seconds, memory_of("peak_bytes_in_use"), watts, first)


def score(config: T5Config, args: argparse.Namespace) -> None:
  """Prints requests a second, beside Hugging Face's where torch is there."""
  requests = draw_requests(args.requests, args.candidates, args.seed)
  params = draw_params(config, args.seed)
  vocabulary: Any = Numbers()
  useful = np.array(
    [
      useful_flops(config, request)
      for request in tokenization.tokenize(requests, vocabulary.encode_one)
    ]
  )
  ranker = T5Ranker(config=config, params=params, vocabulary=vocabulary)
  score_all = functools.partial(ranker.score, requests)
  score_all()
  watts = power()
  seconds = best_of(3, score_all)
  print(
    f"\nscoring, {args.size}: {len(requests)} requests of {args.candidates} "
    f"candidates, {ranker.compiled_shapes} shapes in "
    f"{ranker.compile_seconds:.0f} s; peak "
    f"{memory_of('peak_bytes_in_use') / _GIB:.1f} GiB\n"
  )
  print(
    f"| {'':<24} | requests/s | useful work of peak | ours is "
    "| joules a request |"
  )
  print(
    "| ------------------------ | ---------: | ------------------: | ------: "
    "| ---------------: |"
  )
  ours = seconds / useful.sum()

  def row(name: str, took: float, of: np.ndarray, watts: float) -> None:
    # Of all requests, by the sample's share of the useful work.
    each = took / of.sum() * useful.mean()
    print(
      f"| {name:<24} | {1 / each:>10.1f} "
      f"| {useful.mean() / each / args.peak / 1e12:>19.1%} "
      f"| {took / of.sum() / ours:>6.2f}x | {watts * each:>16.2f} |",
      flush=True,
    )

  row("ours", seconds, useful, watts())
  del ranker, score_all
  order = np.argsort([len(r.instruction.split()) for r in requests])
  every = max(len(order) // args.sample, 1)
  members = order[every // 2 :: every]
  sample = [requests[number] for number in members]
  for batch, took, watts_of in hugging_face_times(config, params, sample, args):
    row(f"encode once, {batch} at a time", took, useful[members], watts_of)


def hugging_face_times(
  config: T5Config, params: Any, requests: Any, args: argparse.Namespace
) -> Iterator[tuple[int, float, float]]:
  """Yields seconds and watts by how many instructions are taken at a time."""
  try:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda") != (jax.default_backend() == "gpu"):
      print("torch and jax see different devices: nothing to compare with")
      return
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
    return
  for batch in _MICRO_BATCHES:
    if batch > len(requests):
      continue
    score_all = functools.partial(
      theirs.score, requests, encode_once=True, batch=batch
    )
    score_all()
    watts = power()
    yield batch, best_of(2, score_all), watts()


def search(config: T5Config, args: argparse.Namespace) -> None:
  """Prints what a search takes for each node of the titles' trie."""
  rng = np.random.default_rng(args.seed)
  # Beginnings in common, as brands and series make them.
  ids = np.minimum(rng.zipf(1.3, (args.titles, 9)) + 2, VOCABULARY - 101)
  titles = [" ".join(map(str, row[: rng.integers(4, 10)])) for row in ids]
  titles = list(dict.fromkeys(titles))
  params = draw_params(config, args.seed)
  vocabulary: Any = Numbers()
  finder = CatalogueSearch(
    titles,
    config=config,
    params=params,
    vocabulary=vocabulary,
    batch=-(-args.users // 2),
  )
  asked = [r.instruction for r in draw_requests(args.users, 1, args.seed)]
  found = finder.top(asked, 10)
  seconds = best_of(2, lambda: finder.top(asked, 10))
  nodes = sum(one.nodes for one in found)
  print(
    f"\nsearching, {args.size}: {len(titles):,} titles, {args.users} users at "
    f"the same time, {nodes / args.users:,.0f} of "
    f"{len(finder.trie.tokens):,} nodes each; {1e3 * seconds / nodes:.3f} s "
    f"for a user's 1,000 nodes; peak "
    f"{memory_of('peak_bytes_in_use') / _GIB:.1f} GiB"
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


def draw_params(config: T5Config, seed: int) -> Any:
  """Draws weights on the device, a program for each shape."""
  draw = jax.jit(
    lambda key, shape: jax.random.normal(key, shape) * shape[0] ** -0.5,
    static_argnums=1,
  )
  leaves, tree = jax.tree.flatten(parameters.parameter_shapes(config))
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [
      draw(key, leaf.shape) if leaf.ndim > 1 else jnp.ones(leaf.shape)
      for key, leaf in zip(keys, leaves, strict=True)
    ],
  )


def best_of(rounds: int, function: Callable[[], Any]) -> float:
  """Returns the least seconds of a function that is compiled."""
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
  product = jax.jit(lambda x: x @ x)
  for size in sizes:
    matrix = jnp.ones((size, size), dtype)

    def multiply(matrix: jax.Array = matrix) -> None:
      jax.block_until_ready(product(matrix))

    multiply()
    best = max(best, 2 * size**3 / best_of(5, multiply))
  return best


def memory_of(name: str) -> int:
  """Returns bytes that the device tells, so far; 0 where untold."""
  return int((jax.devices()[0].memory_stats() or {}).get(name, 0))


def power() -> Callable[[], float]:
  """Begins to measure; what it returns ends that, and returns mean watts.

  They are no number where nvidia-smi is absent or tells nothing.
  """
  command = ["nvidia-smi", "--query-gpu=power.draw", "--id=0", "-lms", "100"]
  try:
    process = subprocess.Popen(
      [*command, "--format=csv,noheader,nounits"],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )
  except OSError:
    return lambda: float("nan")

  def mean() -> float:
    process.terminate()
    told = [line.strip() for line in process.communicate()[0].splitlines()]
    watts = [float(w) for w in told if w.replace(".", "", 1).isdigit()]
    return float(np.mean(watts)) if watts else float("nan")

  return mean


if __name__ == "__main__":
  main()
