"""Rows -> a TFDS dataset of TFRecord shards, which SeqIO and T5X read."""

import itertools
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from instructrec_jax.instructions.rows import Row
from instructrec_jax.seqio_bridge.location import TFDS_CONFIG, TFDS_VERSION

_ROWS_A_SHARD = 100_000
_ROWS_AT_ONCE = 10_000

FEATURES = tfds.features.FeaturesDict(
  {
    "inputs": tfds.features.Text(),
    "targets": tfds.features.Text(),
    "user": tfds.features.Scalar(np.int64),
    "item": tfds.features.Scalar(np.int64),
  }
)


def write_tfds(
  rows: Iterable[tuple[str, Row]], *, folder: pathlib.Path, splits: list[str]
) -> dict[str, int]:
  """Writes rows in the order given; returns the number of each split's.

  Args:
    rows: pairs of a split's name and a row of it.
    folder: where the shards and their metadata go.
    splits: all names of splits; one without rows gets no shard.
  """
  identity = tfds.core.DatasetIdentity(
    name="instructrec",
    config_name=TFDS_CONFIG,
    version=tfds.core.Version(TFDS_VERSION),
    data_dir=str(folder),
    module_name="instructrec_jax",
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    features=FEATURES,
    description="Recommendation instructions and the desired answers.",
  )
  folder.mkdir(parents=True)
  writer = tfds.core.SequentialWriter(
    info, max_examples_per_shard=_ROWS_A_SHARD
  )
  writer.initialize_splits(splits)
  counts = dict.fromkeys(splits, 0)
  for chunk in _chunks(rows):
    by_split: dict[str, list[dict]] = {}
    for split, row in chunk:
      by_split.setdefault(split, []).append(
        {
          "inputs": row.inputs,
          "targets": row.targets,
          "user": row.user,
          "item": row.item,
        }
      )
    writer.add_examples(by_split)
    for split, examples in by_split.items():
      counts[split] += len(examples)
  writer.close_all()
  return counts


def _chunks(
  rows: Iterable[tuple[str, Row]],
) -> Iterator[list[tuple[str, Row]]]:
  rows = iter(rows)
  while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
    yield chunk
