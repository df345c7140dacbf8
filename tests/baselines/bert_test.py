"""Tests for instructrec_jax/baselines/bert.py."""

import json
import sys

import numpy as np
import pytest

from instructrec_jax.baselines.bert import BertEncoder, is_bert
from instructrec_jax.errors import InputError

from .bert_folder import LAYERS, PLACES, WIDTH, write_bert

TEXTS = ["red tent", "Ropes, TENTS", "", "red " * 3, "ropes " * 200, "naïve"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def encoder(folder):
  return BertEncoder(folder)


def test_vectors_are_of_length_one_and_do_not_depend_on_the_batch(encoder):
  vectors = encoder.encode(TEXTS)
  assert vectors.shape == (len(TEXTS), WIDTH) and vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  for text, vector in zip(TEXTS, vectors, strict=True):
    np.testing.assert_array_equal(encoder.encode([text])[0], vector)
  assert not np.allclose(vectors[0], vectors[1])
  assert encoder.encode([]).shape == (0, WIDTH)


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_torch_computes_the_same(tmp_path, pooling):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  path = write_bert(tmp_path / "model", seed=1)
  (path / "1_Pooling").mkdir()
  modes = {"cls_token": False, "mean_tokens": False, pooling: True}
  (path / "1_Pooling/config.json").write_text(
    json.dumps({f"pooling_mode_{name}": is_on for name, is_on in modes.items()})
  )
  network = transformers.BertModel.from_pretrained(path).eval()
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(path / "tokenizer.json"), pad_token="[PAD]"
  )
  found = BertEncoder(path).encode(TEXTS)
  for text, vector in zip(TEXTS, found, strict=True):
    ids = tokenizer(text)["input_ids"]
    # What is too long keeps its end.
    ids = ids if len(ids) <= PLACES else [*ids[: PLACES - 1], ids[-1]]
    with torch.no_grad():
      states = network(torch.tensor([ids])).last_hidden_state[0].numpy()
    expected = states[0] if pooling == "cls_token" else states.mean(0)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(vector, expected, atol=2e-6)


def test_names_may_have_a_prefix(folder, encoder, tmp_path):
  other = BertEncoder(write_bert(tmp_path / "model", prefix="bert."))
  np.testing.assert_array_equal(other.encode(TEXTS), encoder.encode(TEXTS))
  assert other.num_parameters == encoder.num_parameters
  assert other.sha256 != encoder.sha256


def test_arithmetic_is_counted(folder):
  encoder = BertEncoder(folder)
  encoder.encode(["red"])
  once = encoder.flops
  encoder.encode(["red", "tent"])
  assert encoder.flops == 3 * once
  # Eight tokens, with padding.
  products = 8 * (4 * WIDTH**2 + 2 * WIDTH * 12) + 2 * 8 * 8 * WIDTH
  assert once == 2 * LAYERS * products


def test_what_is_no_bert_is_told(tmp_path):
  assert not is_bert(tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "t5"}')
  assert not is_bert(tmp_path)
  for changes, sentence in (
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ({"num_attention_heads": 3}, "num_attention_heads is 3, which fits no"),
    ({"num_hidden_layers": 3}, "no tensor encoder.layer.2.*it is no BERT"),
    ({"intermediate_size": 16}, "not of the sizes of config.json"),
  ):
    path = write_bert(tmp_path / sentence[:9], **changes)
    assert is_bert(path)
    with pytest.raises(InputError, match=sentence):
      BertEncoder(path)
  path = write_bert(tmp_path / "pooled")
  (path / "1_Pooling").mkdir()
  (path / "1_Pooling/config.json").write_text(
    '{"pooling_mode_max_tokens": true}'
  )
  with pytest.raises(InputError, match="pools by pooling_mode_max_tokens"):
    BertEncoder(path)
  path = write_bert(tmp_path / "damaged")
  (path / "tokenizer.json").write_text("{}")
  with pytest.raises(InputError, match="tokenizer.json: no tokenizer"):
    BertEncoder(path)
  (path / "model.safetensors").unlink()
  with pytest.raises(InputError, match="model.safetensors: no such file"):
    BertEncoder(path)


def test_without_the_package_it_is_named(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(InputError, match="pip install tokenizers"):
    BertEncoder(folder)
