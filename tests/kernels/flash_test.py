"""Of the kernels for GPUs: interpreted here, and lowered for what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.kernels import cudnn, flash, reference
from instructrec_jax.seq2seq.attention import RelativePositionBias
from instructrec_jax.seq2seq.config import T5Config

HEADS = 2
# Of queries and keys; odd, some in several blocks, and where no key is seen.
CASES = {
  "encoder": dict(lengths=(75, 75), bidirectional=True, is_causal=False),
  "decoder": dict(lengths=(9, 9), bidirectional=False, is_causal=True),
  "long decoder": dict(lengths=(131, 131), bidirectional=False, is_causal=True),
  "cross": dict(lengths=(5, 130), bidirectional=None, is_causal=False),
}


def draw(lengths, dtype=jnp.float32):
  """Queries, keys, values and a cotangent, and segments of two rows."""
  rng = np.random.default_rng(0)
  arrays = [
    jnp.asarray(rng.normal(size=(2, lengths[side], HEADS, 8)) / 2, dtype)
    for side in (0, 1, 1, 0)
  ]
  segments = []
  for length in lengths:
    of_side = np.sort(rng.integers(1, 4, (2, length)), axis=1)
    of_side[1, length // 2 :] = 0
    segments.append(of_side)
  # A segment without keys.
  segments[1][0][segments[1][0] == 2] = 0
  return arrays, segments


def attends(case, segments, dtype):
  """The kernel and the reference, as functions of T5's own table."""
  bidirectional, is_causal = case["bidirectional"], case["is_causal"]
  length, keys = case["lengths"]
  config = T5Config(64, num_heads=HEADS, dtype=dtype)
  relative = RelativePositionBias(config, bidirectional=bool(bidirectional))
  mask = segments[0][:, None, :, None] == segments[1][:, None, None]
  mask &= segments[1][:, None, None] > 0
  if is_causal:
    mask &= np.tri(length, dtype=bool)

  def bias_of(table, method=None, *sizes):
    if bidirectional is None:
      return None
    variables = {"params": {"rel_embedding": table}}
    return relative.apply(variables, *sizes, method=method)

  def kernel(query, key, value, table):
    return flash.attend_segments(
      *(query, key, value, *segments),
      bias_of(table, "of_distances"),
      is_causal=is_causal,
    )

  def plain(query, key, value, table, attend=reference.attend):
    gathered = attend(
      query, key, value, mask, bias_of(table, None, length, keys)
    )
    return jnp.where(mask.any(-1)[:, 0, :, None, None], gathered, 0)

  return kernel, plain


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_the_reference(name, dtype):
  case = CASES[name]
  (*arrays, cotangent), segments = draw(case["lengths"], dtype)
  rng = np.random.default_rng(1)
  table = jnp.asarray(rng.normal(size=(HEADS, 32)), jnp.float32)
  kernel, plain = attends(case, segments, dtype)
  # Of the same numbers, in float32: bfloat16 is told from rounding so.
  exact = [x.astype(jnp.float32) for x in arrays]
  _, exactly = attends(case, segments, jnp.float32)

  def of(attend, arrays):
    gathered, pull = jax.vjp(attend, *arrays, table)
    return gathered, *pull(cotangent.astype(gathered.dtype))

  found = jax.jit(lambda: of(kernel, arrays))()
  expected = jax.jit(lambda: of(exactly, exact))()
  tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
  for one, other in zip(found, expected, strict=True):
    largest = max(float(jnp.abs(other).max()), 1.0)
    np.testing.assert_allclose(
      one.astype(jnp.float32), other, atol=tolerance * largest
    )
  if case["bidirectional"] is not None:
    assert float(jnp.abs(expected[-1]).max()) > 1e-2


def test_blocks_that_share_no_segment_are_left_out():
  segments = np.repeat([[1, 2, 0]], [3, 2, 3], axis=1)
  for is_causal, of_keys, expected in (
    (False, False, [[0, 0, 1], [2, 3, 3]]),
    (True, False, [[0, 0, 1], [1, 2, 3]]),
    (True, True, [[0, 1, 2], [2, 3, 3]]),
  ):
    bounds = flash._bounds(
      (segments, segments), 2, 2, is_causal, of_keys=of_keys
    )
    assert bounds[:, 0, :3].tolist() == expected
    # Nothing but padding: no block at all.
    assert bounds[0, 0, 3] == bounds[1, 0, 3]


def test_cudnn_gets_mask_and_bias_as_one_bias(monkeypatch):
  """Of odd lengths, made even; here `jax.nn` computes it with XLA."""
  case = CASES["encoder"]
  (*arrays, _), segments = draw(case["lengths"])
  table = jnp.asarray(np.random.default_rng(1).normal(size=(HEADS, 32)))
  _, plain = attends(case, segments, jnp.float32)

  dot_product_attention = jax.nn.dot_product_attention

  def even(*args, **options):
    # Queries, keys, and both sides of the bias.
    lengths = *(x.shape[1] for x in args[:3]), *args[3].shape[2:]
    assert not any(length % 2 for length in lengths)
    return dot_product_attention(*args, **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", even)

  def attend(*args):
    return cudnn.attend(*args, implementation="xla")

  np.testing.assert_allclose(
    plain(*arrays, table, attend), plain(*arrays, table), atol=1e-5
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_passes_lower_for_a_gpu(dtype, monkeypatch):
  monkeypatch.setattr(flash, "_is_interpreted", lambda: False)
  rows = jax.ShapeDtypeStruct((2, 513, 3, 64), dtype)
  segments = jax.ShapeDtypeStruct((2, 513), jnp.int32)
  distances = jax.ShapeDtypeStruct((3, 257), jnp.float32)

  def loss(query, key, value, distances, segments):
    gathered = flash.attend_segments(
      *(query, key, value, segments, segments, distances), is_causal=True
    )
    return gathered.astype(jnp.float32).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))
  lowered = gradient.trace(rows, rows, rows, distances, segments).lower(
    lowering_platforms=("cuda",)
  )
  # The forward pass, and one of queries and one of keys.
  assert lowered.as_text().count("__gpu$xla.gpu.triton") == 3
  assert "513x513" not in lowered.as_text()


def test_another_device_is_told(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  rows, segments = jnp.ones((1, 4, 1, 8)), jnp.ones((1, 4), int)
  with pytest.raises(InputError, match="a kernel for GPUs, and this is a tpu"):
    flash.attend_segments(rows, rows, rows, segments, segments)


def test_cudnn_on_a_cpu_is_told():
  rows = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
  with pytest.raises(InputError, match="'cudnn', a kernel for GPUs, and this"):
    cudnn.attend(rows, rows, rows, None, None)
