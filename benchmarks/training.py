"""Real tokens a second in training, beside Hugging Face's T5: a benchmark.

  .venv/bin/python benchmarks/training.py [--size small] [--threads 2] \\
    --packed packed/instruments

T5 1.1 from the same random weights, float32, AdamW, no dropout, on CPU. The
examples are those of a folder of `instructrec pack`, drawn at random; each step
has the same ones on both sides: ours packs them into rows again, Hugging Face
pads some to the longest of them, and both sum gradients over parts of a step,
as memory wants it. Losses must agree. With one thread, seconds are of the CPU,
which depend little on what else the machine does.
"""

import argparse
import dataclasses
import os
import pathlib
import time
from typing import Any

import numpy as np
from hugging_face import HuggingFace
from packed_rows import LENGTHS, Example, pack, to_batch
from sizes import CPU_SIZES, SIZES, VOCABULARY

from instructrec_jax.text.packed_dataset import PackedDataset

_ADAMW: dict[str, Any] = {
  "learning_rate": 1e-4,
  "b1": 0.9,
  "b2": 0.999,
  "eps": 1e-8,
}


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--size", choices=CPU_SIZES, default="small")
  parser.add_argument("--packed", type=pathlib.Path, required=True)
  for name, default, what in (
    ("--examples", 128, "a step"),
    ("--steps", 20, "whose losses are compared"),
    ("--timed", 3, "of these steps; the best counts"),
    ("--rows-at-once", 16, "of ours: the fewest microbatches of no more"),
    ("--padded-at-once", 8, "of theirs: more are padded more, and slower"),
    ("--threads", 2, "cores"),
    ("--seed", 0, "of weights"),
  ):
    parser.add_argument(name, type=int, default=default, help=what)
  args = parser.parse_args()
  # Before jax and torch make their threads.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
  steps = read_steps(args)
  from instructrec_jax.seq2seq import parameters
  from instructrec_jax.seq2seq.config import T5Config

  config = T5Config(vocab_size=VOCABULARY, dropout_rate=0.0, **SIZES[args.size])
  params = parameters.initial_variables(config, seed=args.seed)["params"]
  theirs = TorchTrainer(
    config, params, at_once=args.padded_at_once, threads=args.threads
  )
  ours = Trainer(
    config, params, steps, at_once=args.rows_at_once, seed=args.seed
  )
  clock = time.process_time if args.threads == 1 else time.perf_counter
  losses, times = [], []
  for number, examples in enumerate(steps):
    of_step = []
    for trainer in (ours, theirs):
      started = clock()
      loss = trainer.step(examples)
      of_step.append((loss, clock() - started))
    losses.append([loss for loss, _ in of_step])
    # The first step compiles.
    if 0 < number <= args.timed:
      times.append([seconds for _, seconds in of_step])
  best = np.min(times, axis=0)
  tokens = np.mean([sum(len(i) + len(t) for i, t in e) for e in steps])
  apart = max(abs(a / b - 1) for a, b in losses)
  print(
    f"\n{args.size}, {args.examples} examples a step of {tokens:,.0f} tokens "
    f"in {ours.rows} packed rows, {args.threads} threads; losses of "
    f"{len(losses)} steps from {losses[0][0]:.4f} to {losses[-1][0]:.4f}, "
    f"largest relative difference {apart:.1e}\n"
  )
  padded = [
    sum(
      len(part) * sum(max(map(len, side)) for side in zip(*part, strict=True))
      for start in range(0, len(e), args.padded_at_once)
      if (part := e[start : start + args.padded_at_once])
    )
    for e in steps
  ]
  print(
    f"real tokens: {tokens / ours.rows / sum(LENGTHS):.0%} of packed rows, "
    f"{tokens / ours.tokens:.0%} of what we compute, "
    f"{tokens / np.mean(padded):.0%} of padded ones\n"
  )
  print("| {:<20} | s a step | real tokens/s | ours is |".format(""))
  print("| -------------------- | -------: | ------------: | ------: |")
  for name, seconds in zip(("ours", "Hugging Face, padded"), best, strict=True):
    print(
      f"| {name:<20} | {seconds:>8.2f} | {tokens / seconds:>13,.0f} "
      f"| {seconds / best[0]:>6.2f}x |"
    )


def read_steps(args: argparse.Namespace) -> list[list[Example]]:
  """Returns the examples of each step: inputs and targets."""
  rng = np.random.default_rng(args.seed)
  dataset = PackedDataset.open(args.packed)
  count = args.steps * args.examples
  rows = np.sort(rng.permutation(len(dataset))[:count])
  batch = dataset.batch(rows)
  examples = []
  for row in range(len(rows)):
    last = batch["encoder_segment_ids"][row].max()
    examples += [
      (
        batch["encoder_input_tokens"][row, inputs].tolist(),
        batch["decoder_target_tokens"][row, targets].tolist(),
      )
      for inputs, targets in (
        (
          batch["encoder_segment_ids"][row] == number,
          batch["decoder_segment_ids"][row] == number,
        )
        for number in range(1, last + 1)
      )
    ]
  order = rng.permutation(len(examples))[:count]
  shuffled = [examples[number] for number in order]
  return [
    shuffled[start : start + args.examples]
    for start in range(0, count, args.examples)
  ]


class Trainer:
  """This package's step, on packed rows."""

  def __init__(
    self,
    config: Any,
    params: Any,
    steps: list[list[Example]],
    *,
    at_once: int,
    seed: int,
  ):
    """Packs all steps, to know how many rows hold any of them."""
    import jax
    import optax

    from instructrec_jax import mesh as mesh_lib
    from instructrec_jax.training.inputs import capacity_of_steps
    from instructrec_jax.training.state import initial_state, state_shardings
    from instructrec_jax.training.step import jitted_step

    self._packed = {id(examples): pack(examples) for examples in steps}
    most = max(len(rows) for rows in self._packed.values())
    parts = -(-most // at_once)
    self.rows = parts * -(-most // parts)
    batches = [self._batch(examples) for examples in steps]
    capacity = capacity_of_steps(
      (
        np.stack(
          [
            np.count_nonzero(batch[name], axis=1)
            for name in ("encoder_input_tokens", "decoder_target_tokens")
          ],
          axis=1,
        )
        for batch in batches
      ),
      parts,
    )
    self.tokens = parts * sum(capacity)
    optimizer = optax.adamw(weight_decay=0.0, **_ADAMW)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    state = initial_state(config, optimizer, seed=seed)
    state = dataclasses.replace(
      state, params=jax.tree.map(jax.numpy.array, params)
    )
    shardings = state_shardings(config, optimizer, state=state, mesh=mesh)
    self._state = jax.device_put(state, shardings)
    self._step = jitted_step(
      config,
      optimizer,
      mesh=mesh,
      shardings=shardings,
      z_loss=0.0,
      microbatches=parts,
      capacity=capacity,
    )

  def _batch(self, examples: list[Example]) -> dict[str, np.ndarray]:
    return to_batch(examples, self._packed[id(examples)], count=self.rows)

  def step(self, examples: list[Example]) -> float:
    """Takes a step; returns its loss."""
    self._state, metrics = self._step(self._state, self._batch(examples))
    return float(metrics["loss"])


class TorchTrainer:
  """Hugging Face's model and torch's AdamW, on padded batches."""

  def __init__(self, config: Any, params: Any, *, at_once: int, threads: int):
    """Takes over the weights."""
    import torch

    self._torch = torch
    self._at_once = at_once
    self._model = HuggingFace(config, params, None, threads=threads).model
    self._model.train()
    modules: list[Any] = list(self._model.modules())
    for module in modules:
      if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
      # Attention drops by a number of its own.
      if isinstance(module.__dict__.get("dropout"), float):
        module.__dict__["dropout"] = 0.0
    self._optimizer = torch.optim.AdamW(
      self._model.parameters(),
      lr=_ADAMW["learning_rate"],
      betas=(_ADAMW["b1"], _ADAMW["b2"]),
      eps=_ADAMW["eps"],
      weight_decay=0.0,
    )

  def step(self, examples: list[Example]) -> float:
    """Takes a step; returns its loss."""
    total = sum(len(targets) for _, targets in examples)
    loss = 0.0
    self._optimizer.zero_grad()
    for start in range(0, len(examples), self._at_once):
      here = examples[start : start + self._at_once]
      inputs, labels = (
        self._torch.nn.utils.rnn.pad_sequence(
          [self._torch.tensor(example[side]) for example in here],
          batch_first=True,
          padding_value=padding,
        )
        for side, padding in ((0, 0), (1, -100))
      )
      of_part = self._model(
        input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels
      ).loss * (sum(len(targets) for _, targets in here) / total)
      of_part.backward()
      loss += float(of_part.detach())
    self._optimizer.step()
    return loss


if __name__ == "__main__":
  main()
