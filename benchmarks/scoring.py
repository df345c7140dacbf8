"""How long a request takes to score, beside Hugging Face's T5: a benchmark.

  .venv/bin/python benchmarks/scoring.py [--size small] [--candidates 10 100]

Random weights and token ids, T5 1.1, float32, on CPU. Instructions have 108 to
400 tokens and titles 5 to 24. Ours plans its shapes for a long stream and is
timed, compiling left out, on some requests of it, spread evenly over lengths.
Hugging Face scores a request at a time, so it has no padded instruction, in two
forms: the instruction goes through the encoder with each candidate, or once. It
is slow, and does a few of these requests.

CPU seconds are the number to compare: they hardly depend on what else the
machine does. Without torch, ours stands alone.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instructrec_jax.records import RankingRequest

SIZES: dict[str, dict[str, Any]] = {
  "mini": {
    "emb_dim": 128,
    "num_heads": 4,
    "head_dim": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "mlp_dim": 256,
  },
  "small": {
    "emb_dim": 512,
    "num_heads": 6,
    "head_dim": 64,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
    "mlp_dim": 1024,
  },
}
_VOCAB = 32128


class Numbers:
  """A vocabulary whose texts are their ids, so that none is needed."""

  path = "numbers"
  model_vocab_size = _VOCAB

  def encode_one(self, text: str) -> list[int]:
    """Returns the ids that a text spells."""
    return list(map(int, text.split()))


def main() -> None:
  """Prints a table for each number of candidates."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=SIZES, default="small")
  parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100])
  for name, default, what in (
    ("--stream", 4096, "requests that shapes are planned for"),
    ("--requests", 64, "requests timed"),
    ("--sample", 4, "requests timed in Hugging Face's forms"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  parser.add_argument("--batch-tokens", type=int, default=4096)
  parser.add_argument("--rounds", type=int, default=3, help="the best counts")
  parser.add_argument("--cores", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  # Before jax and torch make their threads.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  for count in args.candidates:
    stream = draw_requests(args.stream, candidates=count, seed=args.seed)
    print_table(stream, args=args)


def draw_requests(
  count: int, *, candidates: int, seed: int
) -> list[RankingRequest]:
  """Draws requests, the shortest instruction first."""
  rng = np.random.default_rng(seed)

  def text(length: int) -> str:
    return " ".join(map(str, rng.integers(3, _VOCAB, length)))

  # Without the end of sequence.
  instructions = np.sort(rng.integers(107, 400, count))
  titles = rng.normal(12, 4, (count, candidates)).round().clip(4, 23)
  return [
    RankingRequest(
      request_id=str(number),
      instruction=text(int(length)),
      candidates=tuple(text(int(n)) for n in titles[number]),
    )
    for number, length in enumerate(instructions)
  ]


def spread(stream: Sequence[Any], count: int) -> list[Any]:
  """Returns the middle of each of `count` equal parts."""
  places = (np.arange(count) + 0.5) * len(stream) / count
  return [stream[place] for place in places.astype(int)]


def print_table(
  stream: Sequence[RankingRequest], *, args: argparse.Namespace
) -> None:
  """Times every form on the same requests, in turns."""
  from instructrec_jax.scoring.reranker import T5Ranker
  from instructrec_jax.seq2seq import model_folder
  from instructrec_jax.seq2seq.config import T5Config

  config = T5Config(vocab_size=_VOCAB, **SIZES[args.size])
  params = model_folder.initial_variables(config)["params"]
  numbers: Any = Numbers()
  ranker = T5Ranker(
    config=config,
    params=params,
    vocabulary=numbers,
    batch_tokens=args.batch_tokens,
  )
  ranker.plan(stream)
  requests = spread(stream, args.requests)
  started = time.perf_counter()
  scores = ranker.score(requests)
  first_call = time.perf_counter() - started
  print(
    f"\n{args.size}, {len(requests[0].candidates)} candidates, {args.cores} "
    f"cores: {ranker.compiled_shapes} shapes, first call {first_call:.1f} s, "
    f"padding {padding_share(stream):.0%}\n"
  )
  forms: dict[str, tuple[Callable[[], Any], int]] = {
    "ours": (lambda: ranker.score(requests), len(requests))
  }
  try:
    hugging_face = HuggingFace(config, params, threads=args.cores)
  except ImportError:
    print("torch and transformers are absent: pip install -e '.[parity]'")
  else:
    sample = spread(requests, args.sample)
    for name, once in (("encode once", True), ("naive", False)):
      forms[f"Hugging Face, {name}"] = (
        lambda once=once: hugging_face.score(sample, encode_once=once),
        len(sample),
      )
    expected = hugging_face.score(sample)
    for ours, theirs in zip(spread(scores, args.sample), expected, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4)
  times = measure(forms, rounds=args.rounds)
  print(f"| {'':<25} | CPU ms a request | wall ms | ours is |")
  print(f"| {'-' * 25} | ---------------: | ------: | ------: |")
  for name, (cpu, wall) in times.items():
    ratio = cpu / times["ours"][0]
    print(
      f"| {name:<25} | {1e3 * cpu:>16.1f} | {1e3 * wall:>7.1f} "
      f"| {ratio:>6.1f}x |"
    )


def measure(
  forms: dict[str, tuple[Callable[[], Any], int]], *, rounds: int
) -> dict[str, tuple[float, float]]:
  """Returns each form's least CPU and wall seconds a request."""
  times = {name: [] for name in forms}
  for _ in range(rounds):
    for name, (score, count) in forms.items():
      cpu, wall = time.process_time(), time.perf_counter()
      score()
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      times[name].append((cpu / count, wall / count))
  return {
    name: (min(cpu for cpu, _ in found), min(wall for _, wall in found))
    for name, found in times.items()
  }


def padding_share(requests: Sequence[RankingRequest]) -> float:
  """Returns the share of padding in what is computed for requests."""
  from instructrec_jax.scoring import packing

  numbers: Any = Numbers()
  tokenized = packing.tokenize(requests, numbers)
  shapes = packing.plan_shapes(tokenized)
  real = sum(len(r.instruction) + r.width for r in tokenized)
  padded = sum(packing.choose_shape(r, shapes).tokens for r in tokenized)
  return 1 - real / padded


class HuggingFace:
  """The same model in transformers, used as its users would."""

  def __init__(self, config: Any, params: Any, *, threads: int):
    """Raises ImportError without torch and transformers."""
    import torch
    import transformers

    from instructrec_jax.seq2seq import weights

    self._torch = torch
    torch.set_num_threads(threads)
    make_config: Any = transformers.T5Config
    self._model: Any = transformers.T5ForConditionalGeneration(
      make_config(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=False,
      )
    ).eval()
    # transformers ties a freshly made model whatever it is asked.
    self._model.lm_head.weight = torch.nn.Parameter(
      torch.empty_like(self._model.shared.weight)
    )
    tensors = weights.to_hugging_face(params, config)
    self._model.load_state_dict(
      {name: torch.tensor(tensor) for name, tensor in tensors.items()},
      strict=False,
    )

  def score(
    self, requests: Sequence[RankingRequest], *, encode_once: bool = True
  ) -> list[np.ndarray]:
    """Returns the scores of a request's candidates, one batch a request."""
    with self._torch.inference_mode():
      return [self._score(request, encode_once) for request in requests]

  def _score(self, request: RankingRequest, encode_once: bool) -> np.ndarray:
    torch, encode = self._torch, Numbers().encode_one
    count = len(request.candidates)
    source = torch.tensor([[*encode(request.instruction), 1]])
    target = torch.nn.utils.rnn.pad_sequence(
      [torch.tensor([*encode(text), 1]) for text in request.candidates],
      batch_first=True,
    )
    if encode_once:
      states = self._model.encoder(input_ids=source)[0]
      inputs = {"encoder_outputs": (states.expand(count, -1, -1),)}
    else:
      inputs = {"input_ids": source.expand(count, -1)}
    shifted = torch.nn.functional.pad(target[:, :-1], (1, 0))
    logits = self._model(decoder_input_ids=shifted, **inputs).logits
    log_p = torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0]
    return (log_p * (target > 0)).sum(-1).numpy()


if __name__ == "__main__":
  main()
