"""Describes a mixture: mixing rates, counts, lengths, examples."""

import itertools
import pathlib
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import check_counts, check_seed
from instructrec_jax.progress import progress
from instructrec_jax.seqio_bridge.pack import open_mixture
from instructrec_jax.seqio_bridge.registration import told_damage
from instructrec_jax.text import packing
from instructrec_jax.text.vocabulary import Vocabulary

_FEATURES_SHOWN = 24


def inspect_mixture(
  *,
  mixture: str,
  dataset: pathlib.Path,
  split: str = "train",
  sample: int = 2000,
  examples: int = 2,
  input_length: int = 512,
  target_length: int = 64,
  seed: int = 0,
) -> dict[str, Any]:
  """Reads a mixture through SeqIO, as T5X would, and describes it.

  Args:
    mixture: name of a SeqIO mixture or task.
    dataset: a folder of `build`.
    split: "train", "validation" or "test".
    sample: the number of examples that lengths are measured on.
    examples: how many to show in full.
    input_length: the encoder's tokens, for the fill of packed rows.
    target_length: the decoder's.
    seed: of the sample.

  Returns:
    `tasks` (name, normalised mixing rate, rows), `lengths` (of inputs and
    targets: mean, quantiles, histogram), `row_fill` (share of packed rows that
    is no padding), `examples` (texts, model features).

  Raises:
    InputError: no such mixture, an unbuilt dataset, or an empty sample.
  """
  check_counts(sample=sample)
  check_counts(least=0, examples=examples)
  check_counts(least=2, input_length=input_length, target_length=target_length)
  check_seed(seed)
  folder = DatasetFolder.open(dataset)
  # Before SeqIO, which would log a traceback for each task.
  vocabulary = Vocabulary.load(folder.vocabulary_path)
  members = open_mixture(mixture, dataset=dataset, split=split)
  # SeqIO cannot read tasks without rows, so only those with rows.
  provider = seqio.Mixture(mixture, [(m.task, m.share) for m in members])
  lengths = {"inputs": input_length, "targets": target_length}
  stream = provider.get_dataset(
    sequence_length=lengths,
    split=split,
    use_cached=False,
    shuffle=True,
    seed=seed,
    num_epochs=1,
  )
  examples_drawn = itertools.islice(stream.as_numpy_iterator(), sample)
  with told_damage(dataset):
    drawn = list(progress(examples_drawn, "examples", total=sample))
  counted = {
    name: np.array([len(example[name]) for example in drawn])
    for name in lengths
  }
  rows = packing.pack_lengths(
    counted["inputs"].tolist(),
    counted["targets"].tolist(),
    encoder_length=input_length,
    decoder_length=target_length,
  )
  return {
    "mixture": mixture,
    "split": split,
    "tasks": [
      {"name": member.task.name, "rate": member.share, "rows": member.rows}
      for member in members
    ],
    "sample": len(drawn),
    "lengths": {
      name: _describe(values, lengths[name]) for name, values in counted.items()
    },
    "row_fill": {
      name: float(values.sum() / len(rows) / lengths[name])
      for name, values in counted.items()
    },
    "examples": [
      _example(example, vocabulary, lengths) for example in drawn[:examples]
    ],
  }


def format_inspection(found: dict[str, Any]) -> str:
  """Returns the result of `inspect_mixture` as text."""
  lines = [f"{found['mixture']}, {found['split']}", ""]
  width = max(len(task["name"]) for task in found["tasks"])
  for task in found["tasks"]:
    name = task["name"].ljust(width)
    lines.append(f"  {name} rate {task['rate']:6.1%}  {task['rows']:>10,} rows")
  total = sum(task["rows"] for task in found["tasks"])
  lines += [f"  {'':<{width}} {'':<11}  {total:>10,} rows", ""]
  for name, of_name in found["lengths"].items():
    lines.append(
      f"tokens of {name}: mean {of_name['mean']:.1f}, median "
      f"{of_name['median']:.0f}, 95% {of_name['p95']:.0f}, longest "
      f"{of_name['max']} ({found['sample']:,} examples); packed rows are "
      f"{found['row_fill'][name]:.0%} full"
    )
    most = max(share for _, share in of_name["histogram"])
    for top, share in of_name["histogram"]:
      bar = "#" * round(40 * share / most)
      lines.append(f"  up to {top:>4} {share:6.1%} {bar}")
    lines.append("")
  for number, example in enumerate(found["examples"], start=1):
    lines += [
      f"example {number}",
      f"  inputs   {example['inputs']}",
      f"  targets  {example['targets']}",
    ]
    for name, values in example["features"].items():
      lines.append(f"  {name:<24} {' '.join(map(str, values))} ...")
    lines.append("")
  return "\n".join(lines).rstrip()


def _describe(values: np.ndarray, limit: int) -> dict[str, Any]:
  edges = np.linspace(0, limit, 9).astype(int)
  shares = np.histogram(values, bins=edges + 0.5)[0] / len(values)
  return {
    "mean": float(values.mean()),
    "median": float(np.median(values)),
    "p95": float(np.quantile(values, 0.95)),
    "max": int(values.max()),
    "histogram": [
      (int(top), float(share))
      for top, share in zip(edges[1:], shares, strict=True)
    ],
  }


def _example(
  example: dict[str, np.ndarray],
  vocabulary: Vocabulary,
  lengths: dict[str, int],
) -> dict[str, Any]:
  """Returns texts, and the first values of T5X's model features."""
  tokens = {name: example[name] for name in lengths}
  dataset = tf.data.Dataset.from_tensors(tokens)
  converter = seqio.EncDecFeatureConverter(pack=False)
  features = next(converter(dataset, lengths).as_numpy_iterator())
  return {
    **{name: vocabulary.decode(ids) for name, ids in tokens.items()},
    "features": {
      name: values[:_FEATURES_SHOWN].tolist()
      for name, values in features.items()
    },
  }
