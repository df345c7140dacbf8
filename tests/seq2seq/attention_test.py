import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.seq2seq.attention import (
  Attention,
  RelativePositionBias,
  relative_position_bucket,
)
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import PaddedRows

CONFIG = T5Config(vocab_size=32, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16)


@pytest.mark.parametrize(
  ("distance", "bidirectional", "bucket"),
  [
    # 8 exact buckets a direction, then logarithmic to 128.
    (0, True, 0),
    (-7, True, 7),
    (-8, True, 8),
    (-127, True, 15),
    (-500, True, 15),
    (1, True, 17),
    (500, True, 31),
    # 16 exact buckets, and none for keys ahead of the query.
    (-15, False, 15),
    (-16, False, 16),
    (-128, False, 31),
    (-500, False, 31),
    (3, False, 0),
  ],
)
def test_relative_position_buckets(distance, bidirectional, bucket):
  found = relative_position_bucket(
    np.array([[distance]]), bidirectional=bidirectional
  )
  assert found.item() == bucket


def test_attention_bias_reads_the_table_by_distance():
  bias = RelativePositionBias(CONFIG, bidirectional=False)
  table = jnp.arange(64.0).reshape(2, 32)
  values = bias.apply({"params": {"rel_embedding": table}}, 3, 3)
  assert values.shape == (1, 2, 3, 3)
  # Rows are queries: distance 2 back is bucket 2, keys ahead are bucket 0.
  np.testing.assert_array_equal(values[0, 0], [[0, 0, 0], [1, 0, 0], [2, 1, 0]])
  np.testing.assert_array_equal(values[0, 1, 2], [34, 33, 32])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("sizes", [(5, 9), (9, 5), (1, 4), (300, 300)])
def test_attention_bias_of_oblong_rows(sizes, bidirectional):
  bias = RelativePositionBias(CONFIG, bidirectional)
  table = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
  queries, keys = map(np.arange, sizes)
  bucket = relative_position_bucket(
    keys - queries[:, None], bidirectional=bidirectional
  )
  np.testing.assert_array_equal(
    bias.apply({"params": {"rel_embedding": table}}, *sizes)[0],
    table[:, bucket],
  )


def test_attention_bias_puts_no_large_constant_in_the_program():
  bias = RelativePositionBias(CONFIG, bidirectional=True)
  program = jax.make_jaxpr(lambda params: bias.apply(params, 1024, 1024))(
    {"params": {"rel_embedding": jnp.zeros((2, 32))}}
  )
  assert sum(constant.nbytes for constant in program.consts) < 1 << 20


def test_attention_has_no_scale_but_in_the_query_initializer():
  wide = CONFIG.replace(emb_dim=64, num_heads=8, head_dim=16)
  x = jnp.ones((1, 2, 64))
  attention = Attention(wide, deterministic=True)
  params = attention.init(jax.random.key(0), x, x, PaddedRows(None))["params"]
  deviations = {n: float(jnp.std(p["kernel"])) for n, p in params.items()}
  # Fan-in 64, and 16**-0.5 more for queries; `out` has fan-in 128.
  assert deviations["key"] == pytest.approx(64**-0.5, rel=0.05)
  assert deviations["query"] == pytest.approx(64**-0.5 / 4, rel=0.05)
  assert deviations["out"] == pytest.approx(128**-0.5, rel=0.05)


def test_masked_keys_get_no_weight():
  x = jax.random.normal(jax.random.key(1), (1, 3, 8))
  attention = Attention(CONFIG, deterministic=True)
  params = attention.init(jax.random.key(0), x, x, PaddedRows(None))
  mask = jnp.array([1, 1, 0])[None, None, None]
  np.testing.assert_allclose(
    attention.apply(params, x, x, PaddedRows(mask))[0],
    attention.apply(params, x, x[:, :2], PaddedRows(None))[0],
    atol=1e-6,
  )
