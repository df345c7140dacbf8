"""Attention of packed rows in one Pallas kernel each way, for GPUs.

As in FlashAttention, weights stand only for a block of queries and one of keys,
and the backward pass computes them again. T5's bias is looked up within the
kernel by the distance of key and query, of which each head has 257 that differ;
its gradient is summed there too, so that no bias [heads, query, key] is made.
Blocks whose segments have nothing in common are left out.

The kernel is Triton's through Pallas; on a CPU, Pallas interprets it, which
takes long and is for tests. It has not been timed on a GPU.

Key to shapes. B: batch, T: queries, S: keys, H: heads, K: head_dim, Q: queries
of a block, C: keys of a block, N: distances.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from instructrec_jax.kernels.reference import check_backend

# Rows of a block; Triton's products have at least 16.
_LARGEST_BLOCK = 64
_SMALLEST_BLOCK = 16
# Of a logit that counts for nothing.
_MASKED = -1e30


def attend_segments(
  query: Float[Array, "batch query heads head_dim"],
  key: Float[Array, "batch key heads head_dim"],
  value: Float[Array, "batch key heads head_dim"],
  query_segments: Int[Array, "batch query"],
  key_segments: Int[Array, "batch key"],
  distances: Float[Array, "heads distances"] | None = None,
  *,
  is_causal: bool = False,
) -> Float[Array, "batch query heads head_dim"]:
  """Returns softmax(q k + bias) v within segments, softmax in float32.

  A query sees keys of its own segment. One that sees none gathers 0.

  Args:
    query: of any length.
    key: of any length.
    value: likewise.
    query_segments: 0 is padding.
    key_segments: likewise.
    distances: the bias by the index of the key less that of the query, from
      -n to n, an odd number; those farther away have the last one's.
    is_causal: whether queries see no later key.
  """
  shape = query.shape
  blocks = _block(shape[1]), _block(key.shape[1])
  width = max(pl.next_power_of_2(shape[-1]), _SMALLEST_BLOCK)
  query, key, value = (
    _padded(jnp.moveaxis(x, 2, 1), 2, block, width)
    for x, block in zip(
      (query, key, value), (blocks[0], blocks[1], blocks[1]), strict=True
    )
  )
  segments = tuple(
    _padded(jnp.asarray(x, jnp.int32), 1, block)
    for x, block in zip((query_segments, key_segments), blocks, strict=True)
  )
  if distances is not None:
    distances = distances.astype(jnp.float32)
  gathered: Any = _attend(
    query, key, value, distances, segments, (*blocks, is_causal)
  )
  return jnp.moveaxis(gathered, 1, 2)[:, : shape[1], :, : shape[-1]]


def _block(length: int) -> int:
  return min(max(pl.next_power_of_2(length), _SMALLEST_BLOCK), _LARGEST_BLOCK)


def _padded(x: jax.Array, axis: int, multiple: int, width: int = 0):
  pad = [(0, 0)] * x.ndim
  pad[axis] = 0, -x.shape[axis] % multiple
  if width:
    pad[-1] = 0, width - x.shape[-1]
  return jnp.pad(x, pad)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, distances, segments, options):
  return _forward(query, key, value, distances, segments, options)[0]


def _forward(query, key, value, distances, segments, options):
  size_q, size_k, is_causal = options
  batch, heads, length, width = query.shape
  gathered, normalizer = _call(
    functools.partial(_forward_kernel, size_k=size_k, is_causal=is_causal),
    grid=(length // size_q, batch, heads),
    inputs=[
      _tile(query, size_q),
      _tile(key),
      _tile(value),
      _tile(segments[0], size_q),
      _tile(segments[1]),
      _of_head(distances),
      _of_block(_bounds(segments, size_q, size_k, is_causal, of_keys=False)),
    ],
    outputs=[
      _tile(jax.ShapeDtypeStruct(query.shape, query.dtype), size_q),
      _tile(jax.ShapeDtypeStruct((batch, heads, length), jnp.float32), size_q),
    ],
  )
  residuals = query, key, value, distances, segments, gathered, normalizer
  return gathered, residuals


def _backward(options, residuals, d_gathered):
  query, key, value, distances, segments, gathered, normalizer = residuals
  size_q, size_k, is_causal = options
  batch, heads, length, _ = query.shape
  # What a softmax's gradient subtracts.
  mean = (d_gathered.astype(jnp.float32) * gathered).sum(-1)
  of_queries = query, d_gathered, normalizer, mean, segments[0]
  of_keys = key, value, segments[1]
  outputs = [_tile(query, size_q)]
  zeros = []
  if distances is not None:
    # Each program adds to numbers of its own.
    reach = distances.shape[1]
    shape = batch, heads, length // size_q * reach
    zeros = [_tile(jnp.zeros(shape, jnp.float32), reach)]
    outputs += zeros
  d_query, *d_distances = _call(
    functools.partial(_queries_kernel, size_k=size_k, is_causal=is_causal),
    grid=(length // size_q, batch, heads),
    inputs=[
      *(_tile(x, size_q) for x in of_queries),
      *map(_tile, of_keys),
      _of_head(distances),
      _of_block(_bounds(segments, size_q, size_k, is_causal, of_keys=False)),
      *zeros,
    ],
    outputs=outputs,
    aliases={10: 1} if zeros else None,
  )
  d_key, d_value = _call(
    functools.partial(_keys_kernel, size_q=size_q, is_causal=is_causal),
    grid=(key.shape[2] // size_k, batch, heads),
    inputs=[
      *map(_tile, of_queries),
      *(_tile(x, size_k) for x in of_keys),
      _of_head(distances),
      _of_block(_bounds(segments, size_q, size_k, is_causal, of_keys=True)),
    ],
    outputs=[_tile(key, size_k), _tile(value, size_k)],
  )
  d_table = None
  if d_distances:
    d_table = d_distances[0].reshape(batch, heads, -1, reach).sum((0, 2))
  return d_query, d_key, d_value, d_table, (None, None)


_attend.defvjp(_forward, _backward)


def _bounds(segments, size_q, size_k, is_causal, *, of_keys):
  """Returns [2, B, blocks]: the first block of the other side, and the end."""
  own, other = segments
  size, other_size = size_q, size_k
  if of_keys:
    own, other, size, other_size = other, own, size_k, size_q
  own = own.reshape(len(own), -1, size)
  largest = jnp.iinfo(jnp.int32).max
  first = jnp.where(own > 0, own, largest).min(-1)[..., None]
  last = own.max(-1)[..., None]
  seen = (other[:, None] >= first) & (other[:, None] <= last)
  index, begins = jnp.arange(other.shape[1]), jnp.arange(own.shape[1]) * size
  if is_causal and of_keys:
    seen &= index >= begins[:, None]
  elif is_causal:
    seen &= index < begins[:, None] + size
  start = seen.argmax(-1) // other_size
  end = (len(index) - seen[..., ::-1].argmax(-1) - 1) // other_size + 1
  any_seen = seen.any(-1)
  return jnp.stack([start, jnp.where(any_seen, end, start)]).astype(jnp.int32)


def _tile(x, size=None):
  """A block of rows of one batch row, and one head if there are some.

  Of [B, rows] or [B, H, rows, ...]; all rows without a size.
  """
  lead = 1 if x.ndim == 2 else 2
  rest = x.shape[lead + 1 :]

  def index(i, b, h):
    return (*(b, h)[:lead], 0 if size is None else i, *[0] * len(rest))

  return x, pl.BlockSpec((*[None] * lead, size or x.shape[lead], *rest), index)


def _of_head(distances):
  if distances is None:
    return None, None
  return distances, pl.BlockSpec(
    (None, distances.shape[1]), lambda i, b, h: (h, 0)
  )


def _of_block(bounds):
  return bounds, pl.BlockSpec((2, None, None), lambda i, b, h: (0, b, i))


def _call(kernel, *, grid, inputs, outputs, aliases: Any = None):
  arrays, specs = zip(*inputs, strict=True)
  shapes, out_specs = zip(*outputs, strict=True)
  return pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=list(specs),
    out_specs=list(out_specs),
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes],
    input_output_aliases=aliases or {},
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
    interpret=_is_interpreted(),
  )(*arrays)


def _is_interpreted() -> bool:
  check_backend("pallas", "cpu", "gpu")
  return jax.default_backend() == "cpu"


def _dot(a, b):
  """Returns the product of two blocks in float32, exact where they are."""
  precision = None if a.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
  return jax.lax.dot(
    a, b, precision=precision, preferred_element_type=jnp.float32
  )


def _block_logits(
  q, k, segments_Q, segments_C, first, distances_ref, is_causal
):
  """Returns [Q, C] logits, which pairs count, and their place in the table."""
  logits = _dot(q, k.T)
  query_index_Q = first[0] + jnp.arange(len(q))
  key_index_C = first[1] + jnp.arange(len(k))
  is_seen = (segments_Q[:, None] == segments_C[None, :]) & (
    segments_C[None, :] > 0
  )
  if is_causal:
    is_seen &= key_index_C[None, :] <= query_index_Q[:, None]
  index = None
  if distances_ref is not None:
    reach = distances_ref.shape[0] // 2
    distance = key_index_C[None, :] - query_index_Q[:, None]
    index = jnp.clip(distance, -reach, reach) + reach
    logits += triton.load(distances_ref.at[index])
  return logits, is_seen, index


def _forward_kernel(
  q_ref,
  k_ref,
  v_ref,
  segments_Q_ref,
  segments_S_ref,
  distances_ref,
  bounds_ref,
  out_ref,
  normalizer_ref,
  *,
  size_k,
  is_causal,
):
  q, segments_Q = q_ref[...], segments_Q_ref[...]
  first = pl.program_id(0) * len(q)

  def body(block, carry):
    gathered, largest, total = carry
    here = pl.ds(block * size_k, size_k)
    logits, is_seen, _ = _block_logits(
      q,
      k_ref[here, :],
      segments_Q,
      segments_S_ref[here],
      (first, block * size_k),
      distances_ref,
      is_causal,
    )
    logits = jnp.where(is_seen, logits, _MASKED)
    larger = jnp.maximum(largest, logits.max(1))
    weights = jnp.where(is_seen, jnp.exp(logits - larger[:, None]), 0.0)
    kept = jnp.exp(largest - larger)
    v = v_ref[here, :]
    gathered = gathered * kept[:, None] + _dot(weights.astype(v.dtype), v)
    return gathered, larger, total * kept + weights.sum(1)

  zero_Q = jnp.zeros(len(q), jnp.float32)
  gathered, largest, total = jax.lax.fori_loop(
    bounds_ref[0],
    bounds_ref[1],
    body,
    (jnp.zeros(q.shape, jnp.float32), zero_Q + _MASKED, zero_Q),
  )
  total = jnp.where(total > 0, total, 1.0)
  out_ref[...] = (gathered / total[:, None]).astype(out_ref.dtype)
  normalizer_ref[...] = largest + jnp.log(total)


def _queries_kernel(
  q_ref,
  d_out_ref,
  normalizer_ref,
  mean_ref,
  segments_Q_ref,
  k_ref,
  v_ref,
  segments_S_ref,
  distances_ref,
  bounds_ref,
  *refs,
  size_k,
  is_causal,
):
  d_query_ref, d_distances_ref = refs[0], None
  if distances_ref is not None:
    _, d_query_ref, d_distances_ref = refs
  q, d_out, segments_Q = q_ref[...], d_out_ref[...], segments_Q_ref[...]
  normalizer, mean = normalizer_ref[...], mean_ref[...]
  first = pl.program_id(0) * len(q)

  def body(block, d_query):
    here = pl.ds(block * size_k, size_k)
    k = k_ref[here, :]
    logits, is_seen, index = _block_logits(
      q,
      k,
      segments_Q,
      segments_S_ref[here],
      (first, block * size_k),
      distances_ref,
      is_causal,
    )
    weights = jnp.exp(
      jnp.where(is_seen, logits - normalizer[:, None], 2 * _MASKED)
    )
    d_weights = _dot(d_out, v_ref[here, :].T)
    d_logits = weights * (d_weights - mean[:, None])
    if d_distances_ref is not None and _is_interpreted():
      # Interpreted, an atomic addition takes one of several to a place.
      none = jnp.zeros(d_distances_ref.shape, jnp.float32)
      d_distances_ref[...] += none.at[index].add(d_logits)
    elif d_distances_ref is not None:
      triton.atomic_add(d_distances_ref, (index,), d_logits)
    return d_query + _dot(d_logits.astype(k.dtype), k)

  d_query_ref[...] = jax.lax.fori_loop(
    bounds_ref[0], bounds_ref[1], body, jnp.zeros(q.shape, jnp.float32)
  ).astype(d_query_ref.dtype)


def _keys_kernel(
  q_ref,
  d_out_ref,
  normalizer_ref,
  mean_ref,
  segments_T_ref,
  k_ref,
  v_ref,
  segments_C_ref,
  distances_ref,
  bounds_ref,
  d_key_ref,
  d_value_ref,
  *,
  size_q,
  is_causal,
):
  k, v, segments_C = k_ref[...], v_ref[...], segments_C_ref[...]
  first = pl.program_id(0) * len(k)

  def body(block, carry):
    d_key, d_value = carry
    here = pl.ds(block * size_q, size_q)
    q, d_out = q_ref[here, :], d_out_ref[here, :]
    logits, is_seen, _ = _block_logits(
      q,
      k,
      segments_T_ref[here],
      segments_C,
      (block * size_q, first),
      distances_ref,
      is_causal,
    )
    normalizer = normalizer_ref[here]
    weights = jnp.exp(
      jnp.where(is_seen, logits - normalizer[:, None], 2 * _MASKED)
    )
    d_value += _dot(weights.astype(d_out.dtype).T, d_out)
    d_logits = weights * (_dot(d_out, v.T) - mean_ref[here][:, None])
    return d_key + _dot(d_logits.astype(q.dtype).T, q), d_value

  zero = jnp.zeros(k.shape, jnp.float32)
  d_key, d_value = jax.lax.fori_loop(
    bounds_ref[0], bounds_ref[1], body, (zero, zero)
  )
  d_key_ref[...] = d_key.astype(d_key_ref.dtype)
  d_value_ref[...] = d_value.astype(d_value_ref.dtype)
