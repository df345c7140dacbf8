"""How tokens are laid out while they attend: one class, one `attend`, each.

Linear layers do not care which sequence a token belongs to; attention does. A
layout knows it, with the mask and the bias that follow from it, and chooses the
kernel. It is a pytree, made once a stack and shared by all of its layers.

| layout           | tokens            | used by                             |
| ---------------- | ----------------- | ----------------------------------- |
| `PaddedRows`     | [rows, length]    | T5X; training on accelerators       |
| `Examples`       | [1, tokens], flat | training and scoring on one CPU     |
| `GatheredTokens` | [shards, tokens]  | scoring                             |
| `TriePaths`      | [batch, nodes]    | catalogue search, with a cache      |
| `NextToken`      | [rows, sequences] | generation and T5X, with a cache    |
| `Memory`         | [rows, length]    | what generation has read            |

Key to shapes. B: batch, T: query length, S: key length, H: heads, K: head_dim.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from instructrec_jax.kernels import cpu, cudnn, flash, reference
from instructrec_jax.seq2seq.config import T5Config

KeysValues = tuple[jax.Array, jax.Array]
Tokens = Int[Array, "batch length"]


class Layout:
  """What all layouts do alike: dropout, and no cache."""

  def with_bias(self, relative: Any) -> Any:
    """Returns the layout with a stack's `attention.RelativePositionBias`."""
    raise NotImplementedError

  def attend(
    self,
    config: T5Config,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keep: jax.Array | None,
    cache: KeysValues | None,
  ) -> tuple[jax.Array, KeysValues | None]:
    """Returns what each query gathers, and the cache after it.

    Args:
      config: of the model.
      query: [..., heads, head_dim], laid out as the layout says.
      key: the same.
      value: the same.
      keep: dropout's factor of each key, [rows, heads, 1, key]; None: 1.
      cache: keys and values of earlier tokens, where the layout has them.
    """
    raise NotImplementedError

  def dropout(self, x: jax.Array, rate: float, *, shared: bool) -> jax.Array:
    """Drops features, of a whole row alike if `shared`, as T5X does."""
    broadcast = (-2,) if shared else ()
    return nn.Dropout(rate, broadcast_dims=broadcast)(x, deterministic=False)

  def key_rows(self, key: jax.Array) -> tuple[int, int]:
    """Returns rows and length of the keys, for the dropout of attention."""
    return key.shape[0], key.shape[1]


@struct.dataclass
class Segments:
  """Who sees whom in rows, as `flash` takes it.

  Attributes:
    queries: the segment of each query; 0 is padding.
    keys: likewise; a query sees those of its own.
    distances: the bias by distance, of `RelativePositionBias.of_distances`.
    is_causal: whether queries see no later key.
  """

  queries: Int[Array, "rows query"]
  keys: Int[Array, "rows key"]
  distances: Float[Array, "heads distances"] | None = None
  is_causal: bool = struct.field(pytree_node=False, default=False)

  def attend(
    self, query: jax.Array, key: jax.Array, value: jax.Array
  ) -> jax.Array:
    """Returns what queries gather, rows and heads split as the mesh is."""
    attend = functools.partial(flash.attend_segments, is_causal=self.is_causal)
    mesh = jax.sharding.get_abstract_mesh()
    # Training has split the rows already.
    free = {
      name
      for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
      if kind != AxisType.Manual
    }
    if mesh.size > 1 and free:
      data, model = (
        name if name in free else None for name in ("data", "model")
      )
      rows, split = PartitionSpec(data), PartitionSpec(data, None, model)
      attend = jax.shard_map(
        attend,
        in_specs=(*[split] * 3, rows, rows, PartitionSpec(model)),
        out_specs=split,
        axis_names=free,
        # The kernel does not tell how its results vary.
        check_vma=False,
      )
    return attend(query, key, value, self.queries, self.keys, self.distances)


@struct.dataclass
class PaddedRows(Layout):
  """Rows of tokens, padded or packed; the mask says who sees whom.

  Attributes:
    mask: broadcastable to [batch, heads, query, key]; 0 masks a key.
    bias: [1, heads, query, key], the same for all rows.
    segments: what the mask says, where segments can.
  """

  mask: Array | None
  bias: Float[Array, "1 heads query key"] | None = None
  segments: Segments | None = None

  def with_bias(self, relative: Any) -> "PaddedRows":
    """See `Layout`. Segments of a packed row are contiguous, so indices do."""
    assert self.mask is not None
    if relative.config.attention == "pallas" and self.segments is not None:
      segments = dataclasses.replace(
        self.segments, distances=relative.of_distances()
      )
      return dataclasses.replace(self, segments=segments)
    return dataclasses.replace(self, bias=relative(*self.mask.shape[-2:]))

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    if config.attention != "xla" and self.segments is not None:
      if keep is not None:
        # To scale a key's weights for all queries is to scale its value.
        value *= jnp.moveaxis(keep[:, :, 0], 1, 2)[..., None]
      if config.attention == "pallas":
        return self.segments.attend(query, key, value), cache
      return cudnn.attend(query, key, value, self.mask, self.bias), cache
    attend = reference.attend
    if len(query) > 1 and query.shape[1] > 1 and config.loops_over_examples():
      attend = cpu.attend_rows
    gathered = attend(
      query,
      key,
      value,
      self.mask,
      self.bias,
      keep,
      float32_logits=config.float32_attention_logits,
    )
    return gathered, cache


def padded_rows(
  queries: Tokens,
  keys: Tokens,
  query_segments: Tokens | None = None,
  key_segments: Tokens | None = None,
  *,
  is_causal: bool = False,
) -> PaddedRows:
  """Returns the layout of rows of tokens, in which 0 is padding.

  Args:
    queries: where queries come from.
    keys: where keys come from: the same tokens, or the encoder's.
    query_segments: of packed rows; a query sees keys of its own segment.
    key_segments: likewise. With segments of queries alone, all of them see the
      whole row of keys: many answers to one instruction.
    is_causal: whether queries see no later key.
  """
  mask = nn.make_attention_mask(queries > 0, keys > 0)
  if is_causal:
    mask *= nn.make_causal_mask(queries)
  if key_segments is not None:
    mask *= nn.make_attention_mask(query_segments, key_segments, jnp.equal)
  own, others = queries > 0, keys > 0
  if query_segments is not None and key_segments is not None:
    own, others = own * query_segments, others * key_segments
  segments = Segments(own, others, is_causal=is_causal)
  return PaddedRows(mask, segments=segments)


@struct.dataclass
class Examples(Layout):
  """Examples end to end in one flat batch, attended to one at a time.

  Attributes:
    spans: where each is.
    bias: [heads, query, key] of the longest example.
    is_causal: whether queries see no later key.
    query_rows: [tokens] the row that each query came from, for dropout.
    key_places: [tokens] where each key was in rows end to end, for dropout.
    row_count: the number of rows, for dropout.
    row_length: the length of a row of keys, for dropout.
  """

  spans: cpu.Spans
  bias: Float[Array, "heads query key"] | None = None
  query_rows: Int[Array, " queries"] | None = None
  key_places: Int[Array, " keys"] | None = None
  is_causal: bool = struct.field(pytree_node=False, default=False)
  row_count: int = struct.field(pytree_node=False, default=0)
  row_length: int = struct.field(pytree_node=False, default=0)

  def with_bias(self, relative: Any) -> "Examples":
    """See `Layout`; a causal mask is added to the bias."""
    length = self.spans.block_shapes[-1][0]
    bias = relative(length, length)[0]
    if self.is_causal:
      later = jnp.triu(jnp.ones((length, length), bool), 1)
      bias += jnp.where(later, jnp.asarray(reference.MASKED, bias.dtype), 0)
    return dataclasses.replace(self, bias=bias)

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    if keep is not None:
      # To scale a key's weights for all queries is to scale its value. Drawn
      # for rows, it does not depend on the capacity of the flat batch.
      keep_RxSxH = jnp.moveaxis(keep[:, :, 0], 1, 2)
      keep_NxH = keep_RxSxH.reshape(-1, value.shape[2])[self.key_places]
      value *= keep_NxH[None, :, :, None]
    if config.float32_attention_logits:
      query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    gathered = cpu.attend_spans(
      query[0], key[0], value[0], self.bias, self.spans
    )
    return gathered[None], cache

  def dropout(self, x: jax.Array, rate: float, *, shared: bool) -> jax.Array:
    """See `Layout`: drops what would be dropped in padded rows."""
    width = 1 if shared else self.row_length
    ones_RxTxD = jnp.ones((self.row_count, width, x.shape[-1]), x.dtype)
    keep_RxTxD = nn.Dropout(rate)(ones_RxTxD, deterministic=False)
    keep_PxD = keep_RxTxD.reshape(-1, x.shape[-1])
    return x * keep_PxD[self.query_rows if shared else self.key_places]

  def key_rows(self, key: jax.Array) -> tuple[int, int]:
    """See `Layout`."""
    return self.row_count, self.row_length


@struct.dataclass
class GatheredTokens(Layout):
  """Flat batches without padding, gathered into rows while they attend.

  Places of a row without a token hold any index: the mask hides them.

  Attributes:
    queries: the token at each place of the rows of queries.
    keys: the token at each place of the rows of keys.
    places: where, in its shard's rows of queries end to end, each token is.
    mask: [shards x rows, 1, query, key].
    positions: [shards x rows, query] where positions are not indices.
    bias: [1 or shards x rows, heads, query, key].
    segments: what the mask says, where segments can.
  """

  queries: Int[Array, "shards rows query"]
  keys: Int[Array, "shards rows key"]
  places: Int[Array, "shards tokens"]
  mask: Bool[Array, "rows 1 query key"]
  positions: Int[Array, "rows query"] | None = None
  bias: Float[Array, "rows heads query key"] | None = None
  segments: Segments | None = None

  def with_bias(self, relative: Any) -> "GatheredTokens":
    """See `Layout`."""
    if relative.config.attention == "pallas" and self.segments is not None:
      segments = dataclasses.replace(
        self.segments, distances=relative.of_distances()
      )
      return dataclasses.replace(self, segments=segments)
    if self.positions is None:
      return dataclasses.replace(
        self, bias=relative(self.queries.shape[-1], self.keys.shape[-1])
      )
    bias = relative.of_positions(self.positions, self.positions)
    return dataclasses.replace(self, bias=bias)

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    assert keep is None, "scoring has no dropout"
    shards, count = self.queries.shape[:2]
    take = jax.vmap(lambda tokens, index: tokens[index])
    if config.attention == "pallas" and self.segments is not None:
      query, key, value = (
        take(x, index).reshape(-1, index.shape[-1], *x.shape[2:])
        for x, index in (
          (query, self.queries),
          (key, self.keys),
          (value, self.keys),
        )
      )
      gathered = self.segments.attend(query, key, value)
      flat = gathered.reshape(shards, -1, *gathered.shape[2:])
      return take(flat, self.places), cache

    def by_row(array):
      """From [1 or shards x rows, ...] to [rows, 1 or shards, ...]."""
      if array is None or len(array) == 1:
        return None
      return jnp.moveaxis(array.reshape(shards, count, *array.shape[1:]), 1, 0)

    def attend_row(row):
      queries, keys, row_mask, row_bias = row
      return reference.attend(
        take(query, queries),
        take(key, keys),
        take(value, keys),
        self.mask if row_mask is None else row_mask,
        self.bias if row_bias is None else row_bias,
        float32_logits=config.float32_attention_logits,
      )

    gathered_RxSxT = jax.lax.map(
      attend_row,
      (
        jnp.moveaxis(self.queries, 1, 0),
        jnp.moveaxis(self.keys, 1, 0),
        by_row(self.mask),
        by_row(self.bias),
      ),
      batch_size=None if config.loops_over_examples() else count,
    )
    gathered_SxRxT = jnp.moveaxis(gathered_RxSxT, 0, 1)
    flat = gathered_SxRxT.reshape(shards, -1, *gathered_SxRxT.shape[3:])
    return take(flat, self.places), cache


@struct.dataclass
class TriePaths(Layout):
  """Nodes of a trie; each sees the cached nodes on its path from the root.

  Attributes:
    slots: where in the cache [batch, slots, heads, head_dim] to write a node.
    paths: the slots of its path, from the root to itself.
    depths: how many nodes precede it on its path.
    bias: [batch x nodes, heads, 1, path].
  """

  slots: Int[Array, "batch nodes"]
  paths: Int[Array, "batch nodes path"]
  depths: Int[Array, "batch nodes"]
  bias: Float[Array, "rows heads 1 path"] | None = None

  def with_bias(self, relative: Any) -> "TriePaths":
    """See `Layout`."""
    depths_Rx1 = self.depths.reshape(-1, 1)
    path = jnp.arange(self.paths.shape[-1])
    path_RxP = jnp.broadcast_to(path, (len(depths_Rx1), len(path)))
    return dataclasses.replace(
      self, bias=relative.of_positions(depths_Rx1, path_RxP)
    )

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    assert keep is None and cache is not None, "search decodes with a cache"
    # By instruction, so that each one's stay on its device.
    write = jax.vmap(lambda cached, slots, new: cached.at[slots].set(new))
    read = jax.vmap(lambda cached, paths: cached[paths])
    keys, values = (
      write(cached, self.slots, new)
      for cached, new in zip(cache, (key, value), strict=True)
    )
    # A row for each node: one query, and the keys of its path.
    query_Rx1xHxK = query.reshape(-1, 1, *query.shape[2:])
    shape = (len(query_Rx1xHxK), -1, *query.shape[2:])
    on_path = jnp.arange(self.paths.shape[-1]) <= self.depths.reshape(-1, 1)
    gathered = reference.attend(
      query_Rx1xHxK,
      read(keys, self.paths).reshape(shape),
      read(values, self.paths).reshape(shape),
      on_path[:, None, None],
      self.bias,
      float32_logits=config.float32_attention_logits,
    )
    return gathered.reshape(query.shape), (keys, values)


@struct.dataclass
class NextToken(Layout):
  """The next token of each sequence, which sees all decoded before it.

  The cache is [sequences, heads, head_dim, length], which is what T5X's
  decoding loop expects to expand and reorder for beams. A row may hold several
  sequences of one instruction: row by row, they are those of the cache.

  Attributes:
    index: the token's position.
    bias: [1, heads, 1, length].
    length: of the cache.
  """

  index: Int[Array, ""]
  bias: Float[Array, "1 heads 1 length"] | None = None
  length: int = struct.field(pytree_node=False, default=0)

  def with_bias(self, relative: Any) -> "NextToken":
    """See `Layout`."""
    positions = jnp.arange(self.length)[None]
    bias = relative.of_positions(self.index[None, None], positions)
    return dataclasses.replace(self, bias=bias)

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    assert keep is None and cache is not None, "decoding has a cache"
    one = (-1, 1, *query.shape[2:])
    keys, values = (
      jax.lax.dynamic_update_index_in_dim(
        cached, jnp.moveaxis(new.reshape(one), 1, -1), self.index, axis=-1
      )
      for cached, new in zip(cache, (key, value), strict=True)
    )
    gathered = reference.attend_cached(
      query.reshape(one),
      keys,
      values,
      jnp.arange(self.length) <= self.index,
      self.bias,
      float32_logits=config.float32_attention_logits,
    )
    return gathered.reshape(query.shape), (keys, values)


@struct.dataclass
class Memory(Layout):
  """Instructions, whose keys and values are [rows, heads, head_dim, length].

  Attributes:
    mask: [rows, 1, 1, length] which of their tokens are not padding.
  """

  mask: Bool[Array, "rows 1 1 length"]

  def attend(self, config, query, key, value, keep, cache):
    """See `Layout`."""
    assert keep is None, "decoding has no dropout"
    gathered = reference.attend_cached(
      query,
      key,
      value,
      self.mask,
      None,
      float32_logits=config.float32_attention_logits,
    )
    return gathered, cache
