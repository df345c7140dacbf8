"""Rows -> a TFDS dataset of TFRecord shards, which SeqIO and T5X read."""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core.splits import SplitDict

from instructrec_jax.instructions.rows import Row

_CONFIG = "main"
_VERSION = "1.0.0"
TFDS_NAME = f"instructrec/{_CONFIG}:{_VERSION}"
# Of the shards, in the dataset folder.
SHARDS = pathlib.Path("instructrec", _CONFIG, _VERSION)

SHARD_ROWS = 100_000
"""Of a split, in each shard but the last."""
_BATCH_ROWS = 10_000

_FEATURES = tfds.features.FeaturesDict(
  {
    "inputs": tfds.features.Text(),
    "targets": tfds.features.Text(),
    "user": tfds.features.Scalar(np.int64),
    "item": tfds.features.Scalar(np.int64),
  }
)


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
  info = _info(folder)
  pathlib.Path(info.data_dir).mkdir(parents=True)
  writer = tfds.core.SequentialWriter(info, max_examples_per_shard=SHARD_ROWS)
  # It has no option for it.
  writer._serializer = _serializer()
  writer.initialize_splits(splits)
  counts = dict.fromkeys(splits, 0)
  remaining = iter(rows)
  while batch := list(itertools.islice(remaining, _BATCH_ROWS)):
    by_split: dict[str, list[dict[str, str | int]]] = {}
    for split, row in batch:
      by_split.setdefault(split, []).append(_example(row))
      counts[split] += 1
    writer.add_examples(by_split)
  writer.close_all()
  return counts


def serialized(row: Row) -> bytes:
  """Returns a row as the record that `write_tfds` writes of it."""
  return _serializer().serialize_example(
    _FEATURES.encode_example(_example(row))
  )


def shard_path(folder: pathlib.Path, split: str, number: int) -> pathlib.Path:
  """Returns the file of a split's shard, counted from 0."""
  template = _template(_info(folder), split)
  return pathlib.Path(
    template.sharded_filepath(shard_index=number, num_shards=None)
  )


def write_info(
  folder: pathlib.Path, shards: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
  """Writes what `write_tfds` does beside its shards.

  Args:
    folder: the dataset folder, which has the shards.
    shards: by split, each one's records and their bytes.
  """
  info = _info(folder)
  info.set_file_format("tfrecord")
  info.set_splits(
    SplitDict(
      [
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[rows for rows, _ in of_split],
          num_bytes=sum(size for _, size in of_split),
          filename_template=_template(info, split),
        )
        for split, of_split in shards.items()
      ]
    )
  )
  info.write_to_directory(info.data_dir)


def _info(folder: pathlib.Path) -> tfds.core.DatasetInfo:
  return tfds.core.DatasetInfo(
    builder=tfds.core.DatasetIdentity(
      name="instructrec",
      config_name=_CONFIG,
      version=tfds.core.Version(_VERSION),
      data_dir=str(folder / SHARDS),
      module_name="instructrec_jax",
    ),
    features=_FEATURES,
    description="Recommendation instructions and the desired answers.",
  )


def _template(info: tfds.core.DatasetInfo, split: str) -> Any:
  """Returns the names of shards as `SequentialWriter` has them."""
  # It asks for a path of its own kind, and takes any.
  data_dir: Any = info.data_dir
  return tfds.core.ShardedFileTemplate(
    dataset_name=info.name,
    data_dir=data_dir,
    split=split,
    filetype_suffix="tfrecord",
    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
  )


@functools.cache
def _serializer() -> _InOrder:
  specs: Any = _FEATURES.get_serialized_info()
  return _InOrder(specs)


def _example(row: Row) -> dict[str, str | int]:
  return {name: getattr(row, name) for name in _FEATURES}
