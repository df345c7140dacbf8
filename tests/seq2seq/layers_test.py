import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.seq2seq import layers
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import PaddedRows

ROWS = PaddedRows(None)
CONFIG = T5Config(vocab_size=32, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16)


def test_rms_norm_keeps_the_mean_and_scales_to_unit_mean_square():
  x = jnp.array([[3.0, 4.0, 0.0, 0.0]])
  norm = layers.RMSNorm("float32", epsilon=0.0)
  y = norm.apply({"params": {"scale": jnp.array([1.0, 2.0, 1.0, 1.0])}}, x)
  np.testing.assert_allclose(y, [[1.2, 3.2, 0.0, 0.0]], rtol=1e-6)


def test_embedding_gathers_what_a_one_hot_product_gives():
  tokens = jnp.array([[5, 0, 31], [5, 5, 1]])
  embed = layers.Embed(CONFIG)
  params = embed.init(jax.random.key(0), tokens)["params"]
  one_hot = jax.nn.one_hot(tokens, 32)
  np.testing.assert_array_equal(
    embed.apply({"params": params}, tokens), one_hot @ params["embedding"]
  )


def test_bfloat16_embedding_gradient_is_summed_in_float32():
  """4096 steps of 1/128 are 32; a bfloat16 sum would stop growing at 2."""
  config = CONFIG.replace(dtype="bfloat16")
  tokens = jnp.full((8, 512), 5)
  embed = layers.Embed(config)
  params = embed.init(jax.random.key(0), tokens)["params"]

  def total(params):
    embedded = embed.apply({"params": params}, tokens)
    assert embedded.dtype == jnp.bfloat16
    return embedded.astype(jnp.float32).sum() / 128

  gradient = jax.grad(total)(params)["embedding"]
  np.testing.assert_allclose(gradient[5], 32.0, rtol=1e-6)
  np.testing.assert_array_equal(gradient[6], 0.0)


def test_dropout_is_the_same_for_all_positions():
  config = CONFIG.replace(dropout_rate=0.5)
  x = jnp.broadcast_to(jnp.arange(1.0, 9.0), (1, 5, 8))
  mlp = layers.Mlp(config, deterministic=False)
  params = mlp.init(
    {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, ROWS
  )
  y = mlp.apply(params, x, ROWS, rngs={"dropout": jax.random.key(2)})
  np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1], y.shape), rtol=1e-6)
  kept = layers.Mlp(config, deterministic=True).apply(params, x, ROWS)
  assert not np.allclose(y, kept)


def test_mlp_is_gated():
  x = jax.random.normal(jax.random.key(1), (1, 2, 8))
  mlp = layers.Mlp(CONFIG, deterministic=True)
  params = mlp.init(jax.random.key(0), x, ROWS)["params"]
  kernels = {name: value["kernel"] for name, value in params.items()}
  gate = jax.nn.gelu(x @ kernels["wi_0"]) * (x @ kernels["wi_1"])
  np.testing.assert_allclose(
    mlp.apply({"params": params}, x, ROWS),
    gate @ kernels["wo"],
    rtol=1e-4,
    atol=1e-6,
  )
  single = layers.Mlp(CONFIG.replace(mlp_activations=("relu",)), True)
  assert set(single.init(jax.random.key(0), x, ROWS)["params"]) == {"wi", "wo"}
