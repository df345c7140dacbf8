"""How fast answers are written, beside Hugging Face's `generate`: a benchmark.

  .venv/bin/python benchmarks/generation.py [--size small] [--tokens 64]

T5 1.1 with the same random weights, float32, one thread of a CPU, instructions
of 108 to 400 random tokens. Both write exactly so many tokens: random weights
hardly ever end. Each is warmed up once; the median of the repeats counts. CPU
seconds are the number to compare: they depend little on what else the machine
does. The bound is of the bytes that each step must read at least once: the
decoder's weights, and the keys and values of instructions and answers, at the
speed at which this thread reads memory.
"""

import argparse
import os
import resource
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = (
  "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1 "
  + os.environ.get("XLA_FLAGS", "")
)

import jax
import numpy as np
from hugging_face import HuggingFace
from random_tokens import Numbers, draw_requests
from sizes import SIZES, VOCABULARY

from instructrec_jax.generation.generator import Decoding, Generator
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config


class Words(Numbers):
  """Numbers that can be read back."""

  def decode(self, ids) -> str:
    """Returns the text that spells ids."""
    return " ".join(map(str, ids))


def main() -> None:
  """Prints a line a batch and way to decode."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", choices=SIZES, default="small")
  parser.add_argument("--tokens", type=int, default=64)
  parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
  parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
  parser.add_argument("--repeats", type=int, default=3)
  options = parser.parse_args()
  config = T5Config(vocab_size=VOCABULARY, **SIZES[options.size])
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: (
      rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape)
      if len(leaf.shape) > 1
      else np.ones(leaf.shape)
    ).astype(np.float32),
    parameters.parameter_shapes(config),
  )
  vocabulary = Words()
  ours = Generator(config=config, params=params, vocabulary=vocabulary)  # type: ignore[arg-type]
  theirs = HuggingFace(config, params, vocabulary, threads=1)
  bandwidth = _bandwidth()
  print(f"{options.size}, reads {bandwidth / 1e9:.1f} GB/s")
  for batch in options.batches:
    texts = [r.instruction for r in draw_requests(batch, 1, seed=batch)]
    for beams in options.beams:
      decoding = Decoding(max_tokens=options.tokens, beams=beams)
      found = ours.generate(texts, decoding)
      spent = {
        "ours": _seconds(
          lambda: ours.generate(texts, decoding),  # noqa: B023
          options.repeats,
        ),
        "hugging face": _seconds(
          lambda: _generate(theirs, texts, options.tokens, beams),  # noqa: B023
          options.repeats,
        ),
      }
      steps = max(len(a.tokens) for (a,) in found)
      longest = max(len(text.split()) + 1 for text in texts)
      least = steps * _bytes(config, batch, beams, longest, steps) / bandwidth
      line = [f"batch {batch:3}, beams {beams}:"]
      line += [
        f"{name} {cpu:.2f} s of CPU ({wall:.2f} s), "
        f"{batch * steps / cpu:.0f} tokens/s;"
        for name, (cpu, wall) in spent.items()
      ]
      ratio = spent["hugging face"][0] / spent["ours"][0]
      print(
        *line, f"{ratio:.2f} times as fast; bound {least:.2f} s", flush=True
      )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(f"peak memory of both {peak:.1f} GiB")


def _seconds(call, repeats: int) -> tuple[float, float]:
  """Returns the median CPU and wall seconds of a call, after a warm-up."""
  call()
  spent = []
  for _ in range(repeats):
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    spent.append((time.process_time() - cpu, time.perf_counter() - wall))
  return tuple(np.median(spent, axis=0))


def _generate(peer: HuggingFace, texts: list[str], tokens: int, beams: int):
  import torch

  rows = [[*map(int, text.split()), 1] for text in texts]
  inputs = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
  for row, ids in zip(inputs, rows, strict=True):
    row[: len(ids)] = torch.tensor(ids)
  with torch.inference_mode():
    return peer.model.generate(
      input_ids=inputs,
      attention_mask=(inputs > 0).long(),
      max_new_tokens=tokens,
      num_beams=beams,
      do_sample=False,
      decoder_start_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    )


def _bandwidth() -> float:
  """Returns bytes a second that a sum over much memory reads."""
  much = np.ones(1 << 26, np.float32)
  much.sum()
  start = time.process_time()
  for _ in range(5):
    much.sum()
  return 5 * much.nbytes / (time.process_time() - start)


def _bytes(
  config: T5Config, batch: int, beams: int, instruction: int, tokens: int
) -> float:
  """Returns what a step reads: weights, and on average half the answer."""
  inner = config.num_heads * config.head_dim
  width = config.emb_dim
  layer = 6 * width * inner + 3 * width * config.mlp_dim
  weights = config.num_decoder_layers * layer + width * config.vocab_size
  kept = instruction * batch + tokens / 2 * batch * beams
  return 4 * (weights + 2 * config.num_decoder_layers * inner * kept)


if __name__ == "__main__":
  main()
