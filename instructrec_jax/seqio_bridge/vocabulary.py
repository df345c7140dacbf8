"""The dataset folder in use and its vocabulary: known only at run time.

T5X names the folder by `--tfds_data_dir`, our commands by `--dataset`; both
set SeqIO's data folder. Without either it is the environment's TFDS_DATA_DIR,
or the first folder that was added by a name (`registration.add_dataset`).
"""

import functools
import os
import pathlib
from typing import Any

import seqio

from instructrec_jax import storage
from instructrec_jax.data.folder import VOCABULARY_FILE
from instructrec_jax.errors import InputError
from instructrec_jax.text import vocabulary

NAMED: dict[str, pathlib.Path] = {}
"""The folders that were added by a name."""


def dataset_in_use() -> pathlib.Path:
  """Returns the folder that tasks without a dataset's name read.

  Raises:
    InputError: none has been set.
  """
  # SeqIO has a setter for it and no getter.
  path = seqio.utils._TFDS_DATA_DIR_OVERRIDE or os.environ.get("TFDS_DATA_DIR")
  path = path or next(iter(NAMED.values()), None)
  if not path:
    raise InputError(
      "no dataset folder is set: pass --dataset, or --tfds_data_dir to T5X, or "
      "set TFDS_DATA_DIR."
    )
  return pathlib.Path(path)


def text_features(dataset: pathlib.Path | None = None) -> dict[str, Any]:
  """Returns a task's output features: instructions and answers."""
  vocabulary = DatasetVocabulary(dataset=dataset)
  return {
    name: seqio.Feature(vocabulary=vocabulary, add_eos=True)
    for name in ("inputs", "targets")
  }


class DatasetVocabulary(seqio.Vocabulary):
  """The dataset folder's SentencePiece vocabulary, loaded lazily.

  SeqIO wants a vocabulary when tasks are registered, before the folder is
  known.
  """

  def __init__(
    self,
    model_vocab_size: int | None = None,
    dataset: pathlib.Path | None = None,
  ):
    """Checks the number of rows of the model's embedding, if there is one.

    Args:
      model_vocab_size: the number of these rows.
      dataset: the folder; the one in use if None.

    Raises:
      InputError: the model was made for another vocabulary.
    """
    # The number of sentinels is read from the file.
    super().__init__(extra_ids=0)
    self._dataset = dataset
    if model_vocab_size is None:
      return
    path = self._path
    needed = vocabulary.Vocabulary.load(path).model_vocab_size
    if needed != model_vocab_size:
      raise InputError(
        f"{path}: its ids ask for an embedding of {needed:,} rows, but "
        f"VOCAB_SIZE is {model_vocab_size:,}. From random weights, pass "
        f"--gin.VOCAB_SIZE={needed}; a checkpoint needs a dataset that was "
        "built with its own vocabulary (`instructrec build --vocab FILE`)."
      )

  @property
  def _path(self) -> pathlib.Path:
    return (self._dataset or dataset_in_use()) / VOCABULARY_FILE

  @functools.cached_property
  def _loaded(self) -> seqio.SentencePieceVocabulary:
    path = self._path
    extra_ids = vocabulary.Vocabulary.load(path).extra_ids
    return seqio.SentencePieceVocabulary(str(path), extra_ids)

  @property
  def eos_id(self) -> int:
    """The id of the end of sequence."""
    return vocabulary.EOS_ID

  @property
  def unk_id(self) -> int:
    """The id of unknown characters."""
    return vocabulary.UNK_ID

  @property
  def extra_ids(self) -> int:
    """The number of sentinels after the pieces."""
    return self._loaded.extra_ids

  @property
  def vocab_size(self) -> int:
    """The number of pieces and sentinels."""
    return self._loaded.vocab_size

  @property
  def _base_vocab_size(self) -> int:
    return self._loaded._base_vocab_size

  def _encode(self, s):
    return self._loaded._encode(s)

  def _decode(self, ids):
    return self._loaded._decode(ids)

  def _encode_tf(self, s):
    return self._loaded._encode_tf(s)

  def _decode_tf(self, ids):
    return self._loaded._decode_tf(ids)

  def __eq__(self, other):
    if not isinstance(other, DatasetVocabulary):
      return False
    if self._dataset == other._dataset:
      return True
    return storage.sha256_of(self._path) == storage.sha256_of(other._path)

  def __hash__(self):
    return hash(DatasetVocabulary)

  def __getstate__(self):
    # gin copies what it binds; the copy loads the model again.
    return {"_extra_ids": 0, "_dataset": self._dataset}
