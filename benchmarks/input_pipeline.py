"""Instructions a second a core, ours beside plain SeqIO: a benchmark.

  .venv/bin/python benchmarks/input_pipeline.py --dataset DIR \\
      [--vocab FILE] [--examples 50000] [--seed 0]

DIR is a folder of `instructrec prepare`. The process keeps to one core, both
ways get the same texts, and time is CPU time, which other work on the machine
does not stretch. The goal: 10,000 examples a second, rows 0.85 full.
"""

import argparse
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Pairs = list[tuple[str, str]]

LENGTHS = {"inputs": 512, "targets": 64}


def main() -> None:
  """Renders, tokenises and packs, both ways, and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument(
    "--vocab", type=pathlib.Path, help="default: the dataset folder's own"
  )
  parser.add_argument("--examples", type=int, default=50_000)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  # Before TensorFlow starts: it makes a thread for each core that it sees.
  core = min(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {core})
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  with tempfile.TemporaryDirectory() as folder:
    rows = _measure(args, pathlib.Path(folder))
  print("| step                           | examples/s | row fill |")
  print("| ------------------------------ | ---------- | -------- |")
  for name, rate, fill in rows:
    print(f"| {name:<30} | {rate:>10,.0f} | {fill:>8} |")


def _measure(
  args: argparse.Namespace, folder: pathlib.Path
) -> list[tuple[str, float, str]]:
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.instructions.rows import Renderer, instruction_rows
  from instructrec_jax.text.packed_dataset import pack_pairs
  from instructrec_jax.text.packing import pack_lengths
  from instructrec_jax.text.vocabulary import Vocabulary

  dataset = DatasetFolder.open(args.dataset)
  path = args.vocab or dataset.vocabulary_path

  material, facts, families = _draw_targets(
    dataset, examples=args.examples, seed=args.seed
  )

  def rendered(vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    count = vocabulary.count_tokens
    for row in instruction_rows(
      material,
      Renderer(count_tokens=count, budget=LENGTHS["inputs"]),
      facts=facts,
      families=families,
      seed=args.seed,
    ):
      yield row.inputs, row.targets

  # Each step loads the vocabulary afresh, before it has seen any word.
  vocabulary = Vocabulary.load(path)
  pairs, render = _timed(lambda: list(rendered(vocabulary)))
  # As a mixture is drawn; the rows of one target come together before.
  order = np.random.default_rng(args.seed).permutation(len(pairs))
  pairs = [pairs[i] for i in order]
  vocabulary = Vocabulary.load(path)
  ids, tokenise = _timed(
    lambda: [vocabulary.encode(texts) for texts in zip(*pairs, strict=True)]
  )
  # With the end of sequence; a longer target is cut.
  lengths = [
    [min(len(text) + 1, longest) for text in texts]
    for texts, longest in zip(ids, LENGTHS.values(), strict=True)
  ]
  print(
    f"{len(pairs):,} examples of {np.mean(lengths[0]):.0f} + "
    f"{np.mean(lengths[1]):.1f} tokens on average, rows of "
    f"{LENGTHS['inputs']} + {LENGTHS['targets']}; one core, CPU time\n"
  )
  _, pack = _timed(
    lambda: pack_lengths(
      *lengths,
      encoder_length=LENGTHS["inputs"],
      decoder_length=LENGTHS["targets"],
    )
  )
  vocabulary = Vocabulary.load(path)
  packed, tokenise_and_pack = _timed(
    lambda: pack_pairs(pairs, vocabulary=vocabulary, out=folder / "packed")
  )
  fill = f"{packed.manifest['row_fill_inputs']:.3f}"
  vocabulary = Vocabulary.load(path)
  whole, everything = _timed(
    lambda: pack_pairs(
      rendered(vocabulary), vocabulary=vocabulary, out=folder / "whole"
    )
  )
  whole_fill = f"{whole.manifest['row_fill_inputs']:.3f}"
  seqio_seconds, seqio_fill = _measure_seqio(pairs, vocabulary)
  seconds = [
    ("render within the budget", render, ""),
    ("tokenise", tokenise, ""),
    ("choose rows", pack, ""),
    ("tokenise, pack, write", tokenise_and_pack, fill),
    ("render, tokenise, pack, write", everything, whole_fill),
    ("SeqIO: tokenise, pack", seqio_seconds, f"{seqio_fill:.3f}"),
  ]
  return [(name, len(pairs) / spent, fill) for name, spent, fill in seconds]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
  start = time.process_time()
  result = work()
  return result, time.process_time() - start


def _draw_targets(dataset, *, examples: int, seed: int):
  """Returns what instructions are made of: material, targets, forms.

  The families are those of appendix group A that need no teacher, and the
  targets so many training targets that the families give the examples.
  """
  from instructrec_jax.instructions.material import Material
  from instructrec_jax.instructions.rows import group_families
  from instructrec_jax.instructions.templates import load_templates

  families = {
    name: forms
    for name, forms in group_families(load_templates()).items()
    if name in ("p1_i0_t2", "p1_i0_t3", "p1_i0_t0")
  }
  material = Material(dataset)
  facts = material.facts("train")
  count = -(-examples // len(families))
  chosen = np.random.default_rng(seed).permutation(len(facts.users))[:count]
  return material, facts.take(chosen), families


def _measure_seqio(pairs: Pairs, vocabulary) -> tuple[float, float]:
  """Returns CPU seconds and row fill of a SeqIO task over texts in memory."""
  import seqio
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  columns: Any = {
    name: list(texts)
    for name, texts in zip(LENGTHS, zip(*pairs, strict=True), strict=True)
  }
  texts = tf.data.Dataset.from_tensor_slices(columns)
  feature = seqio.Feature(
    seqio.SentencePieceVocabulary(str(vocabulary.path), vocabulary.extra_ids)
  )
  task = seqio.Task(
    "input_pipeline",
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: texts, splits=["train"]
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={name: feature for name in LENGTHS},
  )
  converter = seqio.EncDecFeatureConverter(pack=True)

  def filled() -> tuple[int, int]:
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
    rows = converter(dataset, LENGTHS).as_numpy_iterator()
    used = [np.count_nonzero(row["encoder_input_tokens"]) for row in rows]
    return int(sum(used)), len(used)

  # The graph is traced, and its vocabulary read, outside of the time.
  next(iter(task.get_dataset(LENGTHS, "train", shuffle=False)))
  (tokens, rows), seconds = _timed(filled)
  return seconds, tokens / rows / LENGTHS["inputs"]


if __name__ == "__main__":
  main()
