"""Folders in and out, beside what transformers itself saves and computes."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from instructrec_jax.checkpoints import hugging_face
from instructrec_jax.checkpoints.weights import Weights, leaves_of
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer

CONFIG = T5Config(
  vocab_size=128,
  emb_dim=32,
  num_heads=4,
  head_dim=6,
  num_encoder_layers=2,
  num_decoder_layers=3,
  mlp_dim=40,
)
SMALL = T5Config()
QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"


MEMORY = pathlib.Path("memory")


def _as_weights(params, config):
  return Weights(MEMORY, config, leaves_of(params))


def _state_dict(params):
  leaves = hugging_face.to_state_dict(leaves_of(params))
  return {name: leaf.read() for name, leaf in leaves.items()}


def _params(leaves):
  return traverse_util.unflatten_dict(
    {name: leaf.read() for name, leaf in leaves.items()}, sep="/"
  )


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture
def folder(tmp_path, params):
  path = tmp_path / "model"
  path.mkdir()
  source = _as_weights(params, CONFIG)
  hugging_face.write_hugging_face(
    path, source, dtype="float32", shard_bytes=50_000
  )
  return path


def _edit_json(path, **changes):
  fields = json.loads(path.read_text()) | changes
  kept = {name: value for name, value in fields.items() if value is not None}
  path.write_text(json.dumps(kept))


def _rewrite(folder, tensors):
  """Replaces all shards by one file of these arrays."""
  for path in folder.glob("model*"):
    path.unlink()
  hugging_face.safetensors_file.write_file(
    folder / "model.safetensors",
    {name: array.shape for name, array in tensors.items()},
    "float32",
    tensors.__getitem__,
  )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("activations", [("relu",), ("gelu", "linear")])
def test_state_dict_round_trip(random_params, tied, activations):
  config = CONFIG.replace(
    logits_via_embedding=tied, mlp_activations=activations
  )
  params = random_params(config)
  tensors = hugging_face.to_state_dict(leaves_of(params))
  assert ("lm_head.weight" in tensors) is not tied
  found = hugging_face.from_state_dict(MEMORY, tensors, config)
  jax.tree.map(np.testing.assert_array_equal, _params(found), params)


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (
      "encoder/layers_1/attention/out/kernel",
      "encoder.block.1.layer.0.SelfAttention.o.weight",
    ),
    (
      "decoder/layers_0/encoder_decoder_attention/query/kernel",
      "decoder.block.0.layer.1.EncDecAttention.q.weight",
    ),
    (
      "decoder/layers_0/mlp/wi_1/kernel",
      "decoder.block.0.layer.2.DenseReluDense.wi_1.weight",
    ),
    (
      "decoder/relpos_bias/rel_embedding",
      "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    ("encoder/encoder_norm/scale", "encoder.final_layer_norm.weight"),
    ("decoder/logits_dense/kernel", "lm_head.weight"),
    ("token_embedder/embedding", "shared.weight"),
  ],
)
def test_names(ours, theirs):
  assert hugging_face.hugging_face_name(ours) == theirs


def test_kernels_are_transposed_and_the_embedding_is_not(params):
  tensors = _state_dict(params)
  assert tensors["shared.weight"].shape == (128, 32)
  np.testing.assert_array_equal(
    tensors["decoder.block.0.layer.2.DenseReluDense.wo.weight"],
    params["decoder"]["layers_0"]["mlp"]["wo"]["kernel"].T,
  )


def test_the_config_decides_whether_the_head_is_a_copy(params):
  """For a tied config the head must be a copy of the embedding."""
  tensors = hugging_face.to_state_dict(leaves_of(params))
  config = CONFIG.replace(logits_via_embedding=True)
  with pytest.raises(InputError, match=r"lm_head\.weight differs from shared"):
    hugging_face.from_state_dict(MEMORY, tensors, config)


def test_shards_and_their_index(folder, params):
  index = json.loads((folder / "model.safetensors.index.json").read_text())
  shards = sorted(folder.glob("*.safetensors"))
  assert len(shards) > 3
  assert sorted(set(index["weight_map"].values())) == [s.name for s in shards]
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert index["metadata"] == {
    "total_parameters": total,
    "total_size": 4 * total,
  }
  opened = hugging_face.open_hugging_face(folder)
  assert opened.config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, _params(opened.leaves), params)


def test_copies_of_the_embedding_are_accepted_if_equal(folder, params):
  tensors = _state_dict(params)
  tensors[
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  ] = np.zeros((32, 4), np.float32)
  tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
  tensors["decoder.embed_tokens.weight"] = tensors[
    "encoder.embed_tokens.weight"
  ]
  _rewrite(folder, tensors)
  opened = hugging_face.open_hugging_face(folder)
  jax.tree.map(np.testing.assert_array_equal, _params(opened.leaves), params)
  tensors["decoder.embed_tokens.weight"] = (
    tensors["encoder.embed_tokens.weight"] + 1
  )
  _rewrite(folder, tensors)
  with pytest.raises(InputError, match="differs from"):
    hugging_face.open_hugging_face(folder)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"d_ff": 48}, r"wi_0.weight has the shape \(40, 32\), .* \(48, 32\)"),
    ({"vocab_size": 256}, r"\(128, 32\), .* \(256, 32\)\."),
    ({"num_layers": 3}, r"missing encoder.block.2.* and 6 more\."),
    ({"d_model": None}, "there is no d_model in it"),
    ({"d_kv": "6"}, "config.json: T5Config.head_dim is '6'"),
    ({"model_type": "llama"}, '"model_type" is not "t5"'),
    ({"feed_forward_proj": "relu"}, r"so this is a T5 1\.0"),
    ({"feed_forward_proj": None}, r"so this is a T5 1\.0"),
    ({"feed_forward_proj": "gated-silu"}, '"gated-gelu" is needed'),
    ({"relative_attention_max_distance": 64}, "is 64, but .* has 128"),
  ],
)
def test_a_config_of_another_model_is_refused(folder, changes, message):
  _edit_json(folder / "config.json", **changes)
  with pytest.raises(InputError, match=message):
    hugging_face.open_hugging_face(folder)


def test_a_tied_head_is_refused(folder, params):
  tensors = _state_dict(params)
  del tensors["lm_head.weight"]
  _rewrite(folder, tensors)
  with pytest.raises(InputError, match=r"no lm_head.weight, so .* T5 1\.0"):
    hugging_face.open_hugging_face(folder)


def test_a_missing_tensor_is_named(folder, params):
  tensors = _state_dict(params)
  tensors["pooler"] = tensors.pop(QUERY)
  _rewrite(folder, tensors)
  with pytest.raises(InputError, match=f"missing {QUERY}; unknown pooler"):
    hugging_face.open_hugging_face(folder)


def test_a_damaged_shard_is_named(folder):
  shard = sorted(folder.glob("*.safetensors"))[1]
  whole = shard.read_bytes()
  shard.write_bytes(whole[:-100])
  with pytest.raises(InputError, match=f"{shard.name}: .* cut short"):
    hugging_face.open_hugging_face(folder)
  shard.unlink()
  with pytest.raises(InputError, match=f"{shard.name}: no such file"):
    hugging_face.open_hugging_face(folder)


def test_an_index_must_be_of_its_shards(folder):
  index = folder / "model.safetensors.index.json"
  places = json.loads(index.read_text())["weight_map"]
  first = sorted(folder.glob("*.safetensors"))[0].name
  places["lm_head.weight"] = places["shared.weight"] = first
  _edit_json(index, weight_map=places)
  with pytest.raises(InputError, match=f"{first}: .* is missing, which"):
    hugging_face.open_hugging_face(folder)
  index.write_text("{}")
  with pytest.raises(InputError, match="no weight_map"):
    hugging_face.open_hugging_face(folder)
  index.unlink()
  with pytest.raises(InputError, match="save_pretrained"):
    hugging_face.open_hugging_face(folder)


# What follows needs transformers and torch.


@pytest.fixture
def transformers():
  reason = "torch and transformers are absent: pip install -e '.[parity]'"
  pytest.importorskip("torch", reason=reason)
  return pytest.importorskip("transformers", reason=reason)


@pytest.mark.parametrize("config", [CONFIG, SMALL], ids=["tiny", "small"])
def test_transformers_loads_ours_and_we_load_what_it_saves(
  tmp_path, random_params, transformers, config
):
  import torch

  params = _with_t5_queries(random_params(config), config)
  ours, theirs = tmp_path / "ours", tmp_path / "theirs"
  ours.mkdir()
  hugging_face.write_hugging_face(
    ours, _as_weights(params, config), dtype="float32"
  )
  load = transformers.T5ForConditionalGeneration.from_pretrained
  model, info = load(ours, output_loading_info=True)
  assert not any(info.values()), info
  model.save_pretrained(theirs)
  names = [
    list(hugging_face.safetensors_file.open_file(path / "model.safetensors"))
    for path in (ours, theirs)
  ]
  assert names[0] == names[1]
  opened = hugging_face.open_hugging_face(theirs)
  assert opened.config == config
  jax.tree.map(np.testing.assert_array_equal, _params(opened.leaves), params)

  inputs, shifted, targets = _batch(config)
  with torch.no_grad():
    expected = (
      model.eval()(
        input_ids=torch.tensor(inputs),
        attention_mask=torch.tensor(inputs > 0),
        decoder_input_ids=torch.tensor(shifted),
      )
      .logits.float()
      .numpy()
    )
  found = jax.jit(
    functools.partial(Transformer(config).apply, enable_dropout=False)
  )({"params": params}, inputs, shifted, targets)
  real = targets > 0
  assert expected[real].std() > 0.1
  np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)


def test_config_json_has_what_transformers_writes(
  tmp_path, folder, transformers
):
  transformers.T5Config.from_pretrained(folder).save_pretrained(tmp_path)
  ours, theirs = (
    json.loads((path / "config.json").read_text())
    for path in (folder, tmp_path)
  )
  theirs = {name: theirs.get(name) for name in ours}
  # Version 5 writes true for an untied model too, and goes by the tensors.
  assert theirs | {"tie_word_embeddings": False} == ours


def _with_t5_queries(params, config):
  """Scales queries as T5 does: sharp attention would amplify rounding."""

  def scaled(path, leaf):
    is_query = path[-2].key == "query"
    return leaf * np.float32(config.head_dim**-0.5) if is_query else leaf

  return jax.tree_util.tree_map_with_path(scaled, params)


def _batch(config):
  rng = np.random.default_rng(0)
  inputs = rng.integers(1, config.vocab_size, (2, 30))
  inputs[1, 20:] = 0
  targets = rng.integers(1, config.vocab_size, (2, 12))
  targets[0, 9:] = 0
  return inputs, np.pad(targets[:, :-1], ((0, 0), (1, 0))), targets
