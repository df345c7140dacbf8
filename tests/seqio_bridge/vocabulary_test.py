import copy

import pytest
import seqio
import tensorflow as tf

from instructrec_jax.errors import InputError
from instructrec_jax.seqio_bridge.registration import use_dataset
from instructrec_jax.seqio_bridge.vocabulary import DatasetVocabulary
from instructrec_jax.text.vocabulary import Vocabulary

TEXTS = ["Lamp 7, red; Lamp 12, red.", "", "Choose the next one", "\u20ac 5"]


def test_it_is_seqios_own_of_the_dataset_in_use(dataset):
  vocabulary = DatasetVocabulary()
  use_dataset(dataset)
  plain = Vocabulary.load(dataset / "vocabulary.model")
  reference = seqio.SentencePieceVocabulary(
    str(plain.path), extra_ids=plain.extra_ids
  )
  for text in TEXTS:
    ids = reference.encode(text)
    assert vocabulary.encode(text) == ids == plain.encode_one(text)
    assert vocabulary.encode_tf(text).numpy().tolist() == ids
    assert vocabulary.decode(ids) == reference.decode(ids)
    tensor = tf.constant(ids, tf.int32)
    assert vocabulary.decode_tf(tensor) == reference.decode_tf(tensor)
  for name in ("vocab_size", "extra_ids", "pad_id", "eos_id", "unk_id"):
    assert getattr(vocabulary, name) == getattr(reference, name), name


def test_copies_are_equal_also_after_use(dataset):
  use_dataset(dataset)
  vocabulary = DatasetVocabulary()
  vocabulary.encode("Lamp")
  copied = copy.deepcopy(vocabulary)
  assert copied == vocabulary and hash(copied) == hash(vocabulary)
  assert copied.encode("Lamp") == vocabulary.encode("Lamp")


def test_a_model_of_another_vocabulary_is_refused(dataset):
  use_dataset(dataset)
  size = Vocabulary.load(dataset / "vocabulary.model").model_vocab_size
  DatasetVocabulary(size).encode("Lamp")
  with pytest.raises(InputError, match=f"--gin.VOCAB_SIZE={size};"):
    DatasetVocabulary(32128)


def test_it_needs_a_dataset(monkeypatch):
  monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", None)
  with pytest.raises(InputError, match="--tfds_data_dir"):
    DatasetVocabulary().encode("Lamp")
