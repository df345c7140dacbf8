"""Attention on a CPU: one row, or one example, at a time.

A CPU's caches hold the weights of one row, not of a batch; an accelerator is
faster with all rows at once. `attend_spans` takes examples that are stored end
to end, each in a block just large enough, so that a short example costs little
however long others are. Its gradient is written out as in FlashAttention: the
backward pass computes weights again from the normaliser, which is faster than
reading them from memory.

Key to shapes. N: tokens of queries, M: tokens of keys, E: examples, H: heads,
K: head_dim, T: queries of a block, S: keys of a block.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from instructrec_jax.kernels import reference

# The smallest block, in tokens, unless no example is as long.
_SMALLEST_BLOCK = 32
# Block sizes, in eighths of the longest example.
BlockEighths = tuple[int, ...]


def attend_rows(
  *arrays: Any, float32_logits: bool
) -> Float[Array, "batch query heads head_dim"]:
  """Returns `reference.attend` of the same arguments, row after row."""
  # Arrays without a batch axis of their own are shared by all rows.
  is_per_row = [x is not None and len(x) > 1 for x in arrays]

  # The backward pass computes weights again: faster than reading them.
  @jax.checkpoint
  def attend_row(row):
    row = iter(row)
    return reference.attend(
      *(
        next(row)[None] if per_row else x
        for x, per_row in zip(arrays, is_per_row, strict=True)
      ),
      float32_logits=float32_logits,
    )[0]

  rows = [x for x, per_row in zip(arrays, is_per_row, strict=True) if per_row]
  return jax.lax.map(attend_row, rows)


@struct.dataclass
class Spans:
  """Examples within flat arrays of tokens, sorted by the size of their block.

  Attributes:
    query_starts: each example's first query.
    query_lengths: its number of queries.
    key_starts: its first key.
    key_lengths: its number of keys.
    block_ends: for each of `block_shapes`, the end of its examples.
    block_shapes: (queries, keys) of a block, the largest last.
  """

  query_starts: Int[Array, " examples"]
  query_lengths: Int[Array, " examples"]
  key_starts: Int[Array, " examples"]
  key_lengths: Int[Array, " examples"]
  block_ends: Int[Array, " blocks"]
  block_shapes: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)

  @classmethod
  def sort(
    cls,
    queries: tuple[jax.Array, jax.Array],
    keys: tuple[jax.Array, jax.Array] | None = None,
    *,
    longest: tuple[int, int],
    eighths: tuple[BlockEighths, BlockEighths],
  ) -> "Spans":
    """Sorts examples by the smallest block that holds them.

    Args:
      queries: starts and lengths; length 0 is no example.
      keys: the same for keys; None where keys are the queries' tokens.
      longest: the most queries and keys of an example.
      eighths: block sizes as eighths of the longest, of queries and of keys.
        More sizes compute less padding, and take longer to compile.
    """
    query_sizes, key_sizes = (
      _block_sizes(most, parts)
      for most, parts in zip(longest, eighths, strict=True)
    )
    if keys is None:
      keys = queries
      shapes = [(size, size) for size in query_sizes]
    else:
      shapes = [(query, key) for key in key_sizes for query in query_sizes]
    sizes = jnp.array(shapes)
    fits = (queries[1][:, None] <= sizes[:, 0]) & (
      keys[1][:, None] <= sizes[:, 1]
    )
    block = jnp.where(queries[1] > 0, jnp.argmax(fits, axis=1), len(shapes))
    order = jnp.argsort(block)
    return cls(
      query_starts=queries[0][order],
      query_lengths=queries[1][order],
      key_starts=keys[0][order],
      key_lengths=keys[1][order],
      block_ends=jnp.searchsorted(
        block[order], jnp.arange(len(shapes)), side="right"
      ),
      block_shapes=tuple(shapes),
    )


def _block_sizes(longest: int, eighths: BlockEighths) -> list[int]:
  sizes = {max(longest * part // 8, _SMALLEST_BLOCK) for part in eighths}
  return sorted(size for size in sizes if size < longest) + [longest]


@jax.custom_vjp
def attend_spans(
  query_NxHxK: Float[Array, "queries heads head_dim"],
  key_MxHxK: Float[Array, "keys heads head_dim"],
  value_MxHxK: Float[Array, "keys heads head_dim"],
  bias_HxTxS: Float[Array, "heads query key"] | None,
  spans: Spans,
) -> Float[Array, "queries heads head_dim"]:
  """Attends within each example; returns 0 for queries of no example.

  Args:
    query_NxHxK: queries of all examples, end to end.
    key_MxHxK: keys, likewise.
    value_MxHxK: values, likewise.
    bias_HxTxS: added to each example's logits; a function of the difference
      of indices alone. It holds a mask, if there is one.
    spans: the examples.
  """
  return _forward(query_NxHxK, key_MxHxK, value_MxHxK, bias_HxTxS, spans)[0]


def _forward(query, key, value, bias, spans):
  def body(block, carry):
    gathered, normalizer = carry
    q, k, v = block.queries(query), block.keys(key), block.keys(value)
    logits_HxTxS = block.logits(q, k, bias)
    largest = logits_HxTxS.max(-1, keepdims=True)
    weights = jnp.exp(logits_HxTxS - largest)
    total = weights.sum(-1, keepdims=True)
    of_block = jnp.einsum("hts,hsk->htk", weights.astype(v.dtype), v) / total
    return (
      block.update_queries(gathered, of_block),
      block.update_queries(normalizer, largest + jnp.log(total)),
    )

  tokens, heads, _ = query.shape
  zero = jnp.zeros_like(query), jnp.zeros((tokens, heads, 1), jnp.float32)
  gathered, normalizer = _fold_examples(body, zero, query, key, spans)
  return gathered, (query, key, value, bias, spans, gathered, normalizer)


def _backward(residuals, d_gathered):
  query, key, value, bias, spans, gathered, normalizer = residuals
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
      block.update_queries(d_query, of_query),
      block.update_keys(d_key, of_key),
      block.update_keys(d_value, of_value),
      d_bias,
    )

  zero = (
    *(jnp.zeros_like(x) for x in (query, key, value)),
    None if bias is None else jnp.zeros(bias.shape, jnp.float32),
  )
  *gradients, d_bias = _fold_examples(body, zero, query, key, spans)
  if bias is not None:
    d_bias = d_bias.astype(bias.dtype)
  return *gradients, d_bias, None


attend_spans.defvjp(_forward, _backward)


class _Block:
  """A window on the flat arrays that holds one example."""

  def __init__(self, spans: Spans, example, shape, tokens):
    """Places the window; at the arrays' end it begins before its example."""
    self.shape = shape
    self._query_begin, self.is_query = _window(
      spans.query_starts[example],
      spans.query_lengths[example],
      shape[0],
      tokens[0],
    )
    self._key_begin, self.is_key = _window(
      spans.key_starts[example], spans.key_lengths[example], shape[1], tokens[1]
    )

  def queries(self, array):
    """Returns [heads, block, width] of [tokens, heads, width]."""
    return _slice(array, self._query_begin, self.shape[0])

  def keys(self, array):
    """Returns [heads, block, width] of [tokens, heads, width]."""
    return _slice(array, self._key_begin, self.shape[1])

  def update_queries(self, array, of_block):
    """Returns the array with this example's queries replaced."""
    return _update(array, of_block, self._query_begin, self.is_query)

  def update_keys(self, array, of_block):
    """Returns the array with this example's keys replaced."""
    return _update(array, of_block, self._key_begin, self.is_key)

  def logits(self, q_HxTxK, k_HxSxK, bias_HxTxS):
    """Returns float32 logits [heads, query, key], other examples masked."""
    logits = jnp.einsum(
      "htk,hsk->hts", q_HxTxK, k_HxSxK, preferred_element_type=jnp.float32
    )
    if bias_HxTxS is not None:
      logits += bias_HxTxS[:, : self.shape[0], : self.shape[1]]
    return logits + jnp.where(self.is_key, 0, reference.MASKED)


def _window(start, length, block, tokens):
  # A bias depends on differences alone, so both sides may be shifted alike.
  begin = jnp.minimum(start, tokens - block)
  index = jnp.arange(block)
  shift = start - begin
  return begin, (index >= shift) & (index < shift + length)


def _slice(array, begin, block):
  return jnp.moveaxis(jax.lax.dynamic_slice_in_dim(array, begin, block), 1, 0)


def _update(array, of_block, begin, is_own):
  old = jax.lax.dynamic_slice_in_dim(array, begin, len(is_own))
  new = jnp.moveaxis(of_block, 0, 1).astype(array.dtype)
  new = jnp.where(is_own[:, None, None], new, old)
  return jax.lax.dynamic_update_slice_in_dim(array, new, begin, 0)


def _fold_examples(body, carry, query, key, spans: Spans) -> Any:
  """Folds over examples, one block size after the other."""
  tokens = len(query), len(key)
  begin = 0
  for shape, end in zip(spans.block_shapes, spans.block_ends, strict=True):
    step = functools.partial(_step, body, spans, shape, tokens)
    carry = jax.lax.fori_loop(begin, end, step, carry)
    begin = end
  return carry


def _step(body, spans, shape, tokens, example, carry):
  return body(_Block(spans, example, shape, tokens), carry)
