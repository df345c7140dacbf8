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

from .bert_folder import WORDS, write_bert


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


@pytest.fixture(scope="module", params=["bert", "roberta"])
def sentence_model(request, tmp_path_factory):
  """A folder with a text encoder of random weights."""
  path = tmp_path_factory.mktemp("sentences") / "model"
  if request.param == "bert":
    return str(write_bert(path))
  pytest.importorskip("sentence_transformers")
  import transformers

  write_bert(path)
  config = transformers.RobertaConfig(
    vocab_size=len(WORDS),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
  )
  transformers.RobertaModel(config).save_pretrained(path)
  transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(path / "tokenizer.json"), pad_token="[PAD]"
  ).save_pretrained(path)
  return str(path)


def test_a_sentence_model_gives_vectors_of_length_one(sentence_model):
  reader = SentenceReader(sentence_model)
  assert reader.num_parameters > 100
  vectors = reader.read(["tent", "rope", "tent"])
  assert vectors.shape == (3, 8)
  assert vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(vectors[0], vectors[2])
  assert not np.allclose(vectors[0], vectors[1])
  np.testing.assert_array_equal(reader.read(["rope"])[0], vectors[1])


def test_where_time_is_measured_no_text_is_kept(tmp_path):
  reader = SentenceReader(str(write_bert(tmp_path / "model")))
  reader.read(["tent", "tent"])
  once = reader.flops
  reader.read(["tent"])
  assert reader.flops == once > 0
  reader.forget()
  reader.read(["tent"])
  reader.read(["tent"])
  assert reader.flops == 3 * once


def test_no_such_sentence_model_is_one_sentence(tmp_path):
  pytest.importorskip("sentence_transformers")
  with pytest.raises(InputError, match="no sentence-transformers model"):
    SentenceReader(str(tmp_path / "absent"))


def test_without_the_package_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "sentence_transformers", None)
  with pytest.raises(InputError, match="pip install sentence-transformers"):
    SentenceReader("any")
