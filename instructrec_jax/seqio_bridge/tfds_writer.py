"""Rows -> a TFDS dataset of TFRecord shards, which SeqIO and T5X read."""

import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from instructrec_jax.instructions.rows import Row

_CONFIG = "main"
_VERSION = "1.0.0"
TFDS_NAME = f"instructrec/{_CONFIG}:{_VERSION}"
# Of the shards, in the dataset folder.
SHARDS = pathlib.Path("instructrec", _CONFIG, _VERSION)

_SHARD_ROWS = 100_000
_BATCH_ROWS = 10_000


class _InOrder(example_serializer.ExampleSerializer):
  """Writes an example's features by their names.

  Else their order is by chance of each process, as that of a protobuf's map is.
  """

  def serialize_example(self, example: Any) -> bytes:
    """Returns the bytes of a tf.train.Example."""
    return self.get_tf_example(example).SerializeToString(deterministic=True)


def write_tfds(
  rows: Iterable[tuple[str, Row]], *, folder: pathlib.Path, splits: list[str]
) -> dict[str, int]:
  """Writes rows in the order given; returns the number of rows by split.

  Args:
    rows: pairs of a split's name and a row.
    folder: the dataset folder; the shards go to instructrec/main/1.0.0 in it.
    splits: all names of splits; one without rows gets no shard.
  """
  features = {
    "inputs": tfds.features.Text(),
    "targets": tfds.features.Text(),
    "user": tfds.features.Scalar(np.int64),
    "item": tfds.features.Scalar(np.int64),
  }
  data_dir = folder / SHARDS
  info = tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name="instructrec",
      config_name=_CONFIG,
      version=tfds.core.Version(_VERSION),
      data_dir=str(data_dir),
      module_name="instructrec_jax",
    ),
    features=tfds.features.FeaturesDict(features),
    description="Recommendation instructions and the desired answers.",
  )
  data_dir.mkdir(parents=True)
  writer = tfds.core.SequentialWriter(info, max_examples_per_shard=_SHARD_ROWS)
  # It has no option for it.
  specs: Any = tfds.features.FeaturesDict(features).get_serialized_info()
  writer._serializer = _InOrder(specs)
  writer.initialize_splits(splits)
  counts = dict.fromkeys(splits, 0)
  remaining = iter(rows)
  while batch := list(itertools.islice(remaining, _BATCH_ROWS)):
    by_split: dict[str, list[dict[str, str | int]]] = {}
    for split, row in batch:
      by_split.setdefault(split, []).append(
        {name: getattr(row, name) for name in features}
      )
      counts[split] += 1
    writer.add_examples(by_split)
  writer.close_all()
  return counts
