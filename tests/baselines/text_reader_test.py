"""Tests for instructrec_jax/baselines/text_reader.py."""

import sys

import numpy as np
import pytest

from instructrec_jax.baselines.text_reader import (
  SentenceReader,
  WordReader,
  texts_hash,
)
from instructrec_jax.errors import InputError


def test_words_have_one_number_everywhere():
  reader = WordReader(["a green tent", "Tent, green"])
  rows = reader.read(["green tent", "TENT", "", "rope"])
  green, tent = rows[0, :2]
  assert 0 < green != tent > 0
  assert rows[1].tolist() == [tent, 0, 0]
  assert not rows[2:].any()
  assert reader.words == 3
  assert reader.read([]).shape == (0, 3)


def test_a_long_text_is_read_as_far_as_others():
  reader = WordReader(["word " * 100])
  assert reader.read(["word " * 500]).shape == (1, 32)


def test_a_hash_tells_groups_apart():
  assert texts_hash(["a", "b"], ["c"]) != texts_hash(["a"], ["b", "c"])
  assert texts_hash(["ab"]) != texts_hash(["a", "b"])
  assert texts_hash(["a"], []) == texts_hash(["a"], [])


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
  """A folder with a sentence encoder of random weights."""
  pytest.importorskip("sentence_transformers")
  import transformers

  path = tmp_path_factory.mktemp("sentences")
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "tent", "rope"]
  vocabulary = path / "vocab.txt"
  vocabulary.write_text("\n".join(words))
  config = transformers.BertConfig(
    vocab_size=len(words),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
  )
  transformers.BertModel(config).save_pretrained(path)
  transformers.BertTokenizer(str(vocabulary)).save_pretrained(path)
  return str(path)


def test_a_sentence_model_gives_vectors_of_length_one(sentence_model):
  reader = SentenceReader(sentence_model)
  vectors = reader.read(["tent", "rope", "tent"])
  assert vectors.shape == (3, 8)
  assert vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(vectors[0], vectors[2])
  assert not np.allclose(vectors[0], vectors[1])
  np.testing.assert_array_equal(reader.read(["rope"])[0], vectors[1])


def test_no_such_sentence_model_is_one_sentence(tmp_path):
  pytest.importorskip("sentence_transformers")
  with pytest.raises(InputError, match="no sentence-transformers model"):
    SentenceReader(str(tmp_path / "absent"))


def test_without_the_package_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sentence_transformers", None)
  with pytest.raises(InputError, match="pip install sentence-transformers"):
    SentenceReader("any")
