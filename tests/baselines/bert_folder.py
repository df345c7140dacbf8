"""A BERT of random weights, saved as Hugging Face does."""

import json

import numpy as np
import pytest

from instructrec_jax.checkpoints import safetensors_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "tent", "rope", "##s", ","]
WIDTH, HIDDEN, LAYERS, PLACES = 8, 12, 2, 20


def write_bert(path, *, seed=0, prefix="", **changes):
  """Writes the folder; `changes` are of config.json."""
  tokenizers = pytest.importorskip("tokenizers")
  path.mkdir(parents=True)
  tokenizer = tokenizers.BertWordPieceTokenizer(
    {word: number for number, word in enumerate(WORDS)}
  )
  tokenizer.save(str(path / "tokenizer.json"))
  config = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": HIDDEN,
    "max_position_embeddings": PLACES,
    "vocab_size": len(WORDS),
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
  }
  (path / "config.json").write_text(json.dumps(config | changes))
  shapes = {
    "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
    "embeddings.position_embeddings.weight": (PLACES, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
    "embeddings.LayerNorm.weight": (WIDTH,),
    "embeddings.LayerNorm.bias": (WIDTH,),
  }
  for number in range(LAYERS):
    for name, (rows, columns) in {
      "attention.self.query": (WIDTH, WIDTH),
      "attention.self.key": (WIDTH, WIDTH),
      "attention.self.value": (WIDTH, WIDTH),
      "attention.output.dense": (WIDTH, WIDTH),
      "attention.output.LayerNorm": (WIDTH, 0),
      "intermediate.dense": (HIDDEN, WIDTH),
      "output.dense": (WIDTH, HIDDEN),
      "output.LayerNorm": (WIDTH, 0),
    }.items():
      layer = f"encoder.layer.{number}.{name}"
      shapes[f"{layer}.weight"] = (rows, columns) if columns else (rows,)
      shapes[f"{layer}.bias"] = (rows,)
  rng = np.random.default_rng(seed)
  safetensors_file.write_file(
    path / "model.safetensors",
    {prefix + name: shape for name, shape in shapes.items()},
    "float32",
    lambda name: rng.normal(size=shapes[name.removeprefix(prefix)]),
  )
  return path
