"""Attention within examples that stand end to end, on a processor.

A flat batch has no rows: examples follow one another, and each attends within
itself. One after the other is taken from the batch in a block just large
enough, so that a short example costs little however long others are; an
accelerator would rather have them all at once.

The gradient is written out, as in FlashAttention: weights are computed again
from the normaliser, which is sooner done than fetching them from memory, and
their softmax's gradient needs but a sum over the width of a head.

Key to shapes. N: tokens of queries, M: tokens of keys, E: examples, H: heads,
K: head_dim, T: queries of a block, S: keys of a block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

# Large enough to vanish in a softmax.
_MASKED = -1e10
# Tokens of a block, unless no example has as many.
_SMALLEST = 32
# Sizes of blocks, in eighths of the longest example.
Eighths = tuple[int, ...]


@struct.dataclass
class Segments:
  """Examples of a flat batch, those of one size of block side by side.

  Attributes:
    query_starts: first tokens of queries.
    query_lengths: how many there are.
    key_starts: first tokens of keys.
    key_lengths: how many there are.
    ends: for each of `blocks`, where its examples end.
    rows: of each query's token, which row it came from, for dropout.
    key_places: of each key's token, where it was in rows end to end, likewise.
    row_count: how many rows there are.
    key_width: of a row of keys.
    blocks: lengths of queries and keys, the largest last.
  """

  query_starts: Int[Array, " examples"]
  query_lengths: Int[Array, " examples"]
  key_starts: Int[Array, " examples"]
  key_lengths: Int[Array, " examples"]
  ends: Int[Array, " blocks"]
  rows: Int[Array, " queries"] | None
  key_places: Int[Array, " keys"] | None
  row_count: int = struct.field(pytree_node=False)
  key_width: int = struct.field(pytree_node=False)
  blocks: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)


def segments_of(
  queries: tuple[jax.Array, jax.Array],
  keys: tuple[jax.Array, jax.Array] | None = None,
  *,
  longest: tuple[int, int],
  eighths: tuple[Eighths, Eighths],
  rows: jax.Array | None = None,
  key_places: jax.Array | None = None,
  row_count: int = 0,
  key_width: int = 0,
) -> Segments:
  """Sorts examples into blocks.

  Args:
    queries: starts and lengths; without a length, there is no example.
    keys: the same, or None for the queries.
    longest: queries and keys of an example at most.
    eighths: sizes of blocks, as parts of the longest; without keys, the first.
      More of them waste less, and take longer to compile.
    rows: of `Segments`; needed by dropout alone, as is all that follows.
    key_places: of `Segments`.
    row_count: of `Segments`.
    key_width: of `Segments`.
  """
  of_queries, of_keys = (
    _sizes(most, parts) for most, parts in zip(longest, eighths, strict=True)
  )
  blocks = [(query, key) for key in of_keys for query in of_queries]
  if keys is None:
    blocks = [(size, size) for size in of_queries]
  keys = queries if keys is None else keys
  sizes = jnp.array(blocks)
  fits = (queries[1][:, None] <= sizes[:, 0]) & (
    keys[1][:, None] <= sizes[:, 1]
  )
  block = jnp.where(queries[1] > 0, jnp.argmax(fits, axis=1), len(blocks))
  order = jnp.argsort(block)
  ends = jnp.searchsorted(block[order], jnp.arange(len(blocks)), side="right")
  return Segments(
    query_starts=queries[0][order],
    query_lengths=queries[1][order],
    key_starts=keys[0][order],
    key_lengths=keys[1][order],
    ends=ends,
    rows=rows,
    key_places=key_places,
    row_count=row_count,
    key_width=key_width,
    blocks=tuple(blocks),
  )


def _sizes(longest: int, eighths: Eighths) -> list[int]:
  sizes = {max(longest * part // 8, _SMALLEST) for part in eighths}
  return sorted(size for size in sizes if size < longest) + [longest]


@jax.custom_vjp
def attend(
  query_NxHxK: Float[Array, "queries heads head_dim"],
  key_MxHxK: Float[Array, "keys heads head_dim"],
  value_MxHxK: Float[Array, "keys heads head_dim"],
  bias_HxTxS: Float[Array, "heads query key"] | None,
  segments: Segments,
) -> Float[Array, "queries heads head_dim"]:
  """Returns what each query gathers from its example, 0 outside of examples.

  Args:
    query_NxHxK: flat, without padding between examples.
    key_MxHxK: flat.
    value_MxHxK: flat.
    bias_HxTxS: added to the logits; of differences between indices alone.
    segments: the examples.
  """
  return _forward(query_NxHxK, key_MxHxK, value_MxHxK, bias_HxTxS, segments)[0]


def _forward(query, key, value, bias, segments):
  def body(block, carry):
    gathered, normalizer = carry
    q, k, v = block.queries(query), block.keys(key), block.keys(value)
    logits_HxTxS = block.logits(q, k, bias)
    most = logits_HxTxS.max(-1, keepdims=True)
    weights = jnp.exp(logits_HxTxS - most)
    total = weights.sum(-1, keepdims=True)
    of_block = jnp.einsum("hts,hsk->htk", weights.astype(v.dtype), v) / total
    return (
      block.put_queries(gathered, of_block),
      block.put_queries(normalizer, most + jnp.log(total)),
    )

  tokens, heads, _ = query.shape
  zero = jnp.zeros_like(query), jnp.zeros((tokens, heads, 1), jnp.float32)
  gathered, normalizer = _each_block(body, zero, query, key, segments)
  return gathered, (query, key, value, bias, segments, gathered, normalizer)


def _backward(kept, d_gathered):
  query, key, value, bias, segments, gathered, normalizer = kept
  # What a softmax's gradient subtracts.
  mean = (d_gathered * gathered).sum(-1, keepdims=True, dtype=jnp.float32)

  def body(block, carry):
    d_query, d_key, d_value, d_bias = carry
    q, k, v = block.queries(query), block.keys(key), block.keys(value)
    d_out = block.queries(d_gathered)
    logits_HxTxS = block.logits(q, k, bias)
    weights = jnp.exp(logits_HxTxS - block.queries(normalizer))
    weights = jnp.where(block.is_query[:, None], weights, 0)
    of_value = jnp.einsum("hts,htk->hsk", weights.astype(v.dtype), d_out)
    d_weights = jnp.einsum(
      "htk,hsk->hts", d_out, v, preferred_element_type=jnp.float32
    )
    d_logits = weights * (d_weights - block.queries(mean))
    if bias is not None:
      d_bias = d_bias.at[:, : block.shape[0], : block.shape[1]].add(d_logits)
    d_logits = d_logits.astype(q.dtype)
    of_query = jnp.einsum("hts,hsk->htk", d_logits, k)
    of_key = jnp.einsum("hts,htk->hsk", d_logits, q)
    return (
      block.put_queries(d_query, of_query),
      block.put_keys(d_key, of_key),
      block.put_keys(d_value, of_value),
      d_bias,
    )

  zero = (
    *(jnp.zeros_like(x) for x in (query, key, value)),
    None if bias is None else jnp.zeros(bias.shape, jnp.float32),
  )
  *gradients, d_bias = _each_block(body, zero, query, key, segments)
  if bias is not None:
    d_bias = d_bias.astype(bias.dtype)
  return *gradients, d_bias, None


attend.defvjp(_forward, _backward)


class _Block:
  """A window on the batch that holds one example."""

  def __init__(self, segments: Segments, example, shape, tokens):
    """Reads where it is; at the batch's end it begins before its example."""
    self.shape = shape
    self._of_query, self.is_query = _window(
      segments.query_starts[example],
      segments.query_lengths[example],
      shape[0],
      tokens[0],
    )
    self._of_key, self.is_key = _window(
      segments.key_starts[example],
      segments.key_lengths[example],
      shape[1],
      tokens[1],
    )

  def queries(self, array):
    """Returns [heads, block, width] of [tokens, heads, width]."""
    return _cut(array, self._of_query, self.shape[0])

  def keys(self, array):
    """Returns [heads, block, width] of [tokens, heads, width]."""
    return _cut(array, self._of_key, self.shape[1])

  def put_queries(self, array, of_block):
    """Returns the array with the example's part of the block in it."""
    return _put(array, of_block, self._of_query, self.is_query)

  def put_keys(self, array, of_block):
    """Returns the array with the example's part of the block in it."""
    return _put(array, of_block, self._of_key, self.is_key)

  def logits(self, q_HxTxK, k_HxSxK, bias_HxTxS):
    """Returns float32 logits [heads, query, key], others' keys hidden."""
    logits = jnp.einsum(
      "htk,hsk->hts", q_HxTxK, k_HxSxK, preferred_element_type=jnp.float32
    )
    if bias_HxTxS is not None:
      logits += bias_HxTxS[:, : self.shape[0], : self.shape[1]]
    return logits + jnp.where(self.is_key, 0, _MASKED)


def _window(start, length, block, tokens):
  # A bias is of differences alone, so that both sides may be shifted alike.
  begin = jnp.minimum(start, tokens - block)
  index = jnp.arange(block)
  shift = start - begin
  return begin, (index >= shift) & (index < shift + length)


def _cut(array, begin, block):
  return jnp.moveaxis(jax.lax.dynamic_slice_in_dim(array, begin, block), 1, 0)


def _put(array, of_block, begin, mine):
  old = jax.lax.dynamic_slice_in_dim(array, begin, len(mine))
  new = jnp.moveaxis(of_block, 0, 1).astype(array.dtype)
  new = jnp.where(mine[:, None, None], new, old)
  return jax.lax.dynamic_update_slice_in_dim(array, new, begin, 0)


def _each_block(body, carry, query, key, segments: Segments) -> Any:
  """Folds over examples, those of one size of block after those of another."""
  tokens = len(query), len(key)
  begin = 0
  for shape, end in zip(segments.blocks, segments.ends, strict=True):

    def step(example, carry, shape=shape):
      return body(_Block(segments, example, shape, tokens), carry)

    carry = jax.lax.fori_loop(begin, end, step, carry)
    begin = end
  return carry
