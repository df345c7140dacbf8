"""The dataset folder's vocabulary, as SeqIO wants it when tasks register."""

import functools

import seqio

from instructrec_jax.errors import InputError
from instructrec_jax.seqio_bridge.location import dataset_in_use
from instructrec_jax.text import vocabulary


class DatasetVocabulary(seqio.Vocabulary):
  """A SentencePiece vocabulary that is found when it is first used."""

  def __init__(self, model_vocab_size: int | None = None):
    """Takes the rows of the model's embedding, where there is a model.

    Raises:
      InputError: they are not those of the vocabulary's ids, so that the model
        was made for another one.
    """
    # How many sentinels there are shows in the file.
    super().__init__(extra_ids=0)
    if model_vocab_size is None:
      return
    path = dataset_in_use() / "vocabulary.model"
    needed = vocabulary.Vocabulary.load(path).model_vocab_size
    if needed != model_vocab_size:
      raise InputError(
        f"{path}: its ids ask for an embedding of {needed:,} rows, but "
        f"VOCAB_SIZE is {model_vocab_size:,}. From random weights, pass "
        f"--gin.VOCAB_SIZE={needed}; a checkpoint needs a dataset that was "
        "built with its own vocabulary (`instructrec build --vocab FILE`)."
      )

  @functools.cached_property
  def _found(self) -> seqio.SentencePieceVocabulary:
    path = dataset_in_use() / "vocabulary.model"
    extra_ids = vocabulary.Vocabulary.load(path).extra_ids
    return seqio.SentencePieceVocabulary(str(path), extra_ids)

  @property
  def eos_id(self) -> int:
    """The end of sequence."""
    return vocabulary.EOS_ID

  @property
  def unk_id(self) -> int:
    """What is in no piece."""
    return vocabulary.UNK_ID

  @property
  def extra_ids(self) -> int:
    """Sentinels after the pieces."""
    return self._found.extra_ids

  @property
  def vocab_size(self) -> int:
    """Pieces and sentinels."""
    return self._found.vocab_size

  @property
  def _base_vocab_size(self) -> int:
    return self._found._base_vocab_size

  def _encode(self, s):
    return self._found._encode(s)

  def _decode(self, ids):
    return self._found._decode(ids)

  def _encode_tf(self, s):
    return self._found._encode_tf(s)

  def _decode_tf(self, ids):
    return self._found._decode_tf(ids)

  def __eq__(self, other):
    return isinstance(other, DatasetVocabulary)

  def __hash__(self):
    return hash(DatasetVocabulary)

  def __getstate__(self):
    # gin copies what it binds; the loaded model is found again.
    return {"_extra_ids": 0}
