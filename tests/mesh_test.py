import jax
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer

pytestmark = pytest.mark.usefixtures("all_devices")

CONFIG = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=8,
  head_dim=4,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=24,
)


def _variables(config=CONFIG):
  return jax.eval_shape(lambda: parameters.initial_variables(config))


def _shardings(mesh, config=CONFIG):
  variables = _variables(config)
  return mesh_lib.parameter_shardings(
    variables["params_axes"], mesh, shapes=variables["params"]
  )


@pytest.fixture(scope="module")
def params():
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
    _variables()["params"],
  )


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(1)
  tokens = rng.integers(1, 64, (3, 8, 12), dtype=np.int32)
  tokens[0, 3, 7:] = 0
  segments = np.repeat([[1, 2]], [5, 7], axis=1) * np.ones((8, 1), np.int32)
  return *tokens, segments, segments


def _logits(params, *batch):
  return Transformer(CONFIG).apply(
    {"params": params}, *batch, enable_dropout=False
  )


@pytest.fixture(scope="module")
def on_one_device(params, batch):
  return np.asarray(jax.jit(_logits)(params, *batch))


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_every_mesh_gives_the_logits_of_one_device(
  shape, params, batch, on_one_device
):
  data, model = shape
  mesh = mesh_lib.make_mesh(data=data, model=model)
  shardings, by_row = _shardings(mesh), mesh_lib.batch_sharding(mesh)
  run = jax.jit(
    _logits,
    in_shardings=(shardings, *[by_row] * 5),
    out_shardings=by_row,
  )
  logits = run(params, *batch)
  shards = {str(shard.index) for shard in logits.addressable_shards}
  assert len(shards) == data
  np.testing.assert_allclose(logits, on_one_device, rtol=1e-5, atol=1e-5)


def test_activation_constraints_hold_as_t5x_sets_them(
  params, batch, on_one_device
):
  mesh = mesh_lib.make_mesh(model=4)
  rules = nn.logical_axis_rules(mesh_lib.LOGICAL_AXIS_RULES)
  with jax.set_mesh(mesh), rules:
    run = jax.jit(
      _logits,
      in_shardings=(_shardings(mesh), *[mesh_lib.batch_sharding(mesh)] * 5),
    )
    np.testing.assert_allclose(
      run(params, *batch), on_one_device, rtol=1e-5, atol=1e-5
    )


def test_embedding_gradients_agree_when_the_vocabulary_is_split(params, batch):
  def gradient(params, *batch):
    loss = lambda params: (_logits(params, *batch) ** 2).mean()  # noqa: E731
    return jax.grad(loss)(params)["token_embedder"]["embedding"]

  mesh = mesh_lib.make_mesh(model=4)
  shardings = _shardings(mesh)
  split = jax.jit(
    gradient,
    in_shardings=(shardings, *[mesh_lib.batch_sharding(mesh)] * 5),
    out_shardings=shardings["token_embedder"]["embedding"],
  )
  np.testing.assert_allclose(
    split(params, *batch),
    jax.jit(gradient)(params, *batch),
    rtol=1e-4,
    atol=1e-6,
  )


def test_what_is_split_over_the_model_axis():
  mesh = mesh_lib.make_mesh(data=2, model=4)
  shardings = _shardings(mesh)
  decoder = shardings["decoder"]
  layer = decoder["layers_0"]
  for found, expected in [
    (shardings["token_embedder"]["embedding"], ("model", None)),
    (decoder["logits_dense"]["kernel"], (None, "model")),
    (layer["self_attention"]["query"]["kernel"], (None, "model")),
    (layer["self_attention"]["out"]["kernel"], ("model", None)),
    (layer["mlp"]["wo"]["kernel"], ("model", None)),
    (layer["pre_mlp_layer_norm"]["scale"], (None,)),
    (decoder["relpos_bias"]["rel_embedding"], ("model", None)),
  ]:
    assert found.spec == PartitionSpec(*expected)


def test_batches_are_split_over_the_data_axis():
  mesh = mesh_lib.make_mesh(data=4, model=2)
  rows = jax.device_put(np.zeros((8, 3)), mesh_lib.batch_sharding(mesh))
  assert {shard.data.shape for shard in rows.addressable_shards} == {(2, 3)}


def test_data_axis_takes_the_devices_that_are_left():
  assert dict(mesh_lib.make_mesh(model=2).shape) == {"data": 4, "model": 2}
  one = mesh_lib.make_mesh(devices=jax.devices()[:1])
  assert dict(one.shape) == {"data": 1, "model": 1}


@pytest.mark.parametrize(
  "sizes",
  [
    {"model": 3},
    {"model": 16},
    {"model": 0},
    {"data": 4},
    {"data": -2, "model": 4},
  ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  with pytest.raises(InputError, match=r"model -?\d+ .*8 devices"):
    mesh_lib.make_mesh(**sizes)


def test_a_dimension_that_cannot_be_split_is_named():
  mesh = mesh_lib.make_mesh(data=1, model=8)
  with pytest.raises(InputError, match=r"mlp/wi_0/kernel .* of 20, .*model"):
    _shardings(mesh, CONFIG.replace(mlp_dim=20))
