import jax
import numpy as np
import pytest

from instructrec_jax.checkpoints import weights
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

CONFIG = T5Config(
  vocab_size=32,
  emb_dim=8,
  num_heads=2,
  head_dim=3,
  num_encoder_layers=2,
  num_decoder_layers=1,
  mlp_dim=10,
)


@pytest.fixture
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture
def tensors(params):
  return weights.to_hugging_face(params, CONFIG)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("activations", [("relu",), ("gelu", "linear")])
def test_round_trip(random_params, tied, activations):
  config = CONFIG.replace(
    logits_via_embedding=tied, mlp_activations=activations
  )
  params = random_params(config)
  tensors = weights.to_hugging_face(params, config)
  assert ("lm_head.weight" in tensors) is not tied
  jax.tree.map(
    np.testing.assert_array_equal,
    weights.from_hugging_face(tensors, config),
    params,
  )


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
  assert weights.hugging_face_name(tuple(ours.split("/"))) == theirs


def test_matrices_are_turned_and_the_embedding_is_not(params, tensors):
  assert tensors["shared.weight"].shape == (32, 8)
  np.testing.assert_array_equal(
    tensors["decoder.block.0.layer.2.DenseReluDense.wo.weight"],
    params["decoder"]["layers_0"]["mlp"]["wo"]["kernel"].T,
  )
  assert all(tensor.flags.c_contiguous for tensor in tensors.values())


def test_half_precision_files_become_float32(tensors):
  halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
  params = weights.from_hugging_face(halves, CONFIG)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    np.dtype("float32")
  }


def test_copies_of_the_embedding_are_accepted_if_equal(params, tensors):
  copied = dict(tensors)
  copied["decoder.embed_tokens.weight"] = copied.pop("shared.weight")
  copied[
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
  ] = np.zeros((32, 2))
  found = weights.from_hugging_face(copied, CONFIG)
  jax.tree.map(np.testing.assert_array_equal, found, params)
  copied["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
  with pytest.raises(InputError, match="differs from"):
    weights.from_hugging_face(copied, CONFIG)


def test_what_is_missing_or_too_much_is_named(tensors):
  name = "encoder.block.1.layer.0.SelfAttention.q.weight"
  broken = dict(tensors) | {"pooler.weight": np.zeros(3)}
  del broken[name]
  with pytest.raises(InputError) as caught:
    weights.from_hugging_face(broken, CONFIG)
  assert f"missing {name}; not expected pooler.weight." in str(caught.value)


def test_many_missing_names_are_counted(tensors):
  bigger = CONFIG.replace(num_decoder_layers=2)
  with pytest.raises(InputError, match=r"and 11 more; not expected none\."):
    weights.from_hugging_face(tensors, bigger)


def test_a_wrong_shape_is_named_with_both_shapes(params, tensors):
  wider = CONFIG.replace(mlp_dim=12)
  with pytest.raises(InputError, match=r"wi_0.weight .*\(10, 8\).*\(12, 8\)"):
    weights.from_hugging_face(tensors, wider)
  with pytest.raises(
    InputError, match=r"mlp/wi_0/kernel .*\(8, 10\).*\(8, 12\)"
  ):
    weights.to_hugging_face(params, wider)
