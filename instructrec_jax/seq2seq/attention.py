"""Attention of T5 1.1, with its relative-position bias.

Key to shapes. B: batch, T: query length, S: key length, D: emb_dim, H: heads,
K: head_dim, R: relative-position buckets.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning, spmd
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq import segments as segments_lib
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layers import Dense, fan_in_normal

NUM_BUCKETS = 32
MAX_DISTANCE = 128
# Large enough to vanish in a softmax, small enough for bfloat16.
MASKED = -1e10


class Rows(NamedTuple):
  """Where tokens without padding stand while they attend.

  Linear layers may run on the tokens of many sequences end to end, a flat
  batch [shards, tokens]; attention needs queries and keys in rows. Places
  without a token hold any index: the mask hides them.

  Attributes:
    queries: the token at each place of the rows of queries.
    keys: the token at each place of the rows of keys.
    places: where, in its shard's rows of queries end to end, each token is.
  """

  queries: Int[Array, "shards rows query"]
  keys: Int[Array, "shards rows key"]
  places: Int[Array, "shards tokens"]


class RelativePositionBias(nn.Module):
  """Attention bias by bucketed distance between query and key."""

  config: T5Config
  bidirectional: bool

  def setup(self):
    self.rel_embedding = partitioning.param_with_axes(
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (self.config.num_heads, NUM_BUCKETS),
      jnp.float32,
      axes=("heads", "relpos_buckets"),
    )

  def __call__(
    self, query_length: int, key_length: int
  ) -> Float[Array, "1 heads query key"]:
    """Returns the bias for index differences, for all rows of a batch.

    Segments of a packed row are contiguous, so within one of them index
    differences are position differences, and one bias serves every row.
    """
    # Distance d stands at place d modulo the number of places.
    size = query_length + key_length
    place = np.arange(size)
    bucket = relative_position_bucket(
      np.where(place < key_length, place, place - size),
      bidirectional=self.bidirectional,
    )
    # As a product with a constant, since the gradient of a gather would be a
    # scatter-add into 32 rows, which serialises on every backend.
    one_hot_RxN = jnp.asarray(
      bucket == np.arange(NUM_BUCKETS)[:, None], self.config.dtype
    )
    table_HxR = jnp.asarray(self.rel_embedding, self.config.dtype)
    bias_HxN = table_HxR @ one_hot_RxN
    return _shifted_rows(bias_HxN, query_length, key_length)[None]

  def of_positions(
    self,
    query_BxT: Int[Array, "batch query"],
    key_BxS: Int[Array, "batch key"],
  ) -> Float[Array, "batch heads query key"]:
    """Returns the bias where positions are not indices, as in a trie."""
    # All distances from this one on share a bucket.
    reach = 2 * MAX_DISTANCE
    bucket_of = relative_position_bucket(
      np.arange(-reach, reach + 1), bidirectional=self.bidirectional
    )
    distance_BxTxS = key_BxS[:, None, :] - query_BxT[:, :, None]
    bucket_BxTxS = jnp.asarray(bucket_of)[
      jnp.clip(distance_BxTxS, -reach, reach) + reach
    ]
    table_HxR = jnp.asarray(self.rel_embedding, self.config.dtype)
    return jnp.moveaxis(table_HxR[:, bucket_BxTxS], 0, 1)


def _shifted_rows(
  x_HxN: Float[Array, "heads places"], rows: int, columns: int
) -> Float[Array, "heads rows columns"]:
  """Returns y[:, i, j] = x[:, (j - i) % N]; N is rows + columns.

  Copies end to end, read in rows of one fewer, begin one place earlier each: a
  constant of [rows, columns] indices would be compiled into the program.
  """
  heads, size = x_HxN.shape
  copies = jnp.broadcast_to(x_HxN[:, None], (heads, rows, size))
  flat = copies.reshape(heads, -1)[:, : rows * (size - 1)]
  return flat.reshape(heads, rows, size - 1)[..., :columns]


def relative_position_bucket(
  distance: Int[np.ndarray, "..."], *, bidirectional: bool
) -> Int[np.ndarray, "..."]:
  """Buckets signed distances (key minus query), as T5's section 2.1.

  Half the buckets are exact, the rest grow logarithmically up to
  `MAX_DISTANCE`. A bidirectional stack has a half for each direction; in a
  causal one, keys ahead of the query share the bucket of distance 0.
  """
  buckets = NUM_BUCKETS
  offset = np.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    offset = np.where(distance > 0, buckets, 0)
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = buckets // 2
  # float32 and this epsilon, as T5X: bucket edges must fall alike.
  ratio = np.maximum(distance, 1).astype(np.float32) / exact
  logarithmic = exact + (
    np.log(ratio + np.finfo(np.float32).eps)
    / np.log(MAX_DISTANCE / exact)
    * (buckets - exact)
  ).astype(np.int32)
  return offset + np.where(
    distance < exact, distance, np.minimum(logarithmic, buckets - 1)
  )


class Attention(nn.Module):
  """Multi-head attention with an additive bias and an optional cache."""

  config: T5Config
  deterministic: bool
  decode: bool = False

  @nn.compact
  def __call__(
    self,
    x_BxTxD: Float[Array, "batch query embed"],
    memory_BxSxD: Float[Array, "batch key embed"],
    *,
    mask: Array | None = None,
    bias: Float[Array, "#batch heads query key"] | None = None,
    rows: Rows | segments_lib.Segments | None = None,
  ) -> Float[Array, "batch query embed"]:
    """Returns what each query gathers from the memory it may see.

    Args:
      x_BxTxD: where queries come from.
      memory_BxSxD: where keys and values come from.
      mask: broadcastable to [batch, heads, query, key]; 0 hides a key.
      bias: added to the logits.
      rows: given, both are flat batches, and these the rows that mask and bias
        are of, with those of all shards in one axis.
    """
    config = self.config
    query_BxTxHxK = self._project("query", x_BxTxD)
    key_BxSxHxK = self._project("key", memory_BxSxD)
    value_BxSxHxK = self._project("value", memory_BxSxD)
    if isinstance(rows, segments_lib.Segments):
      gathered_BxTxHxK = self._attend_in_segments(
        query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, bias, rows
      )
    elif rows is not None:
      gathered_BxTxHxK = _attend_in_rows(
        config, query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, mask, bias, rows
      )
    else:
      if self.decode:
        key_BxSxHxK, value_BxSxHxK, mask, bias = self._cached(
          key_BxSxHxK, value_BxSxHxK, mask, bias
        )
      gathered_BxTxHxK = _attend_row_by_row(
        config,
        query_BxTxHxK,
        key_BxSxHxK,
        value_BxSxHxK,
        mask,
        bias,
        self._dropout_mask(len(x_BxTxD), key_BxSxHxK.shape[1]),
      )
    return Dense(
      x_BxTxD.shape[-1],
      axes=("joined_kv", "embed"),
      dtype=config.dtype,
      kernel_init=fan_in_normal,
      name="out",
    )(gathered_BxTxHxK.reshape(*x_BxTxD.shape[:2], -1))

  def _project(self, name: str, x: jax.Array) -> jax.Array:
    config = self.config
    scale = config.head_dim**-0.5 if name == "query" else 1.0
    y = Dense(
      config.num_heads * config.head_dim,
      axes=("embed", "joined_kv"),
      dtype=config.dtype,
      kernel_init=lambda *args: fan_in_normal(*args) * scale,
      name=name,
    )(x)
    y = y.reshape(*x.shape[:2], config.num_heads, config.head_dim)
    return spmd.with_logical_constraint(y, ("batch", "length", "heads", "kv"))

  def _attend_in_segments(self, query, key, value, bias, segments):
    """Attends in a flat batch of one shard; `bias` holds the mask as well."""
    keep_RxHx1xS = self._dropout_mask(segments.row_count, segments.key_width)
    if keep_RxHx1xS is not None:
      # To scale a key's weights for all queries is to scale its value. Drawn
      # for rows, it does not depend on how many tokens there is room for.
      keep_RxSxH = jnp.moveaxis(keep_RxHx1xS[:, :, 0], 1, 2)
      keep_NxH = keep_RxSxH.reshape(-1, value.shape[2])[segments.key_places]
      value *= keep_NxH[None, :, :, None]
    if self.config.float32_attention_logits:
      query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    return segments_lib.attend(
      query[0], key[0], value[0], None if bias is None else bias[0], segments
    )[None]

  def _dropout_mask(
    self, batch: int, length: int
  ) -> Float[Array, "batch heads 1 key"] | None:
    """Returns what scales or drops each key for all queries, as in T5X."""
    if self.deterministic:
      return None
    config = self.config
    ones = jnp.ones((batch, config.num_heads, 1, length), config.dtype)
    return nn.Dropout(config.dropout_rate)(ones, deterministic=False)

  def _cached(self, key_BxSxHxK, value_BxSxHxK, mask, bias):
    """One step of decoding: appends to the cache and attends to all of it.

    The first call, on whole sequences, only lays out the cache. Keys and
    values are cached as [batch, heads, head_dim, length], which is what
    T5X's decoding loop expects to expand and reorder for beams.
    """
    ready = self.has_variable("cache", "cached_key")
    cached = [
      self.variable(
        "cache", name, lambda y: jnp.zeros_like(jnp.moveaxis(y, 1, -1)), y
      )
      for name, y in (
        ("cached_key", key_BxSxHxK),
        ("cached_value", value_BxSxHxK),
      )
    ]
    index = self.variable("cache", "cache_index", lambda: jnp.int32(0))
    if not ready:
      return key_BxSxHxK, value_BxSxHxK, mask, bias
    now = index.value
    length = cached[0].value.shape[-1]
    here = jax.nn.one_hot(now, length, dtype=key_BxSxHxK.dtype)
    for variable, y in zip(cached, (key_BxSxHxK, value_BxSxHxK), strict=True):
      variable.value = variable.value + jnp.moveaxis(y, 1, -1) * here
    index.value = now + 1
    seen = (jnp.arange(length) <= now)[None, None, None]
    mask = seen if mask is None else jnp.logical_and(mask, seen)
    if bias is not None:
      bias = jax.lax.dynamic_slice_in_dim(bias, now, 1, axis=2)
    key, value = (jnp.moveaxis(variable.value, -1, 1) for variable in cached)
    return key, value, mask, bias


def _attend(
  config: T5Config,
  query_BxTxHxK,
  key_BxSxHxK,
  value_BxSxHxK,
  mask,
  bias,
  keep_BxHx1xS=None,
) -> Float[Array, "batch query heads head_dim"]:
  """Returns what each query gathers; `keep` scales or drops weights."""
  # A fifth faster than products over interleaved heads.
  query_BxHxTxK, key_BxHxSxK, value_BxHxSxK = (
    jnp.moveaxis(x, 2, 1) for x in (query_BxTxHxK, key_BxSxHxK, value_BxSxHxK)
  )
  if config.float32_attention_logits:
    query_BxHxTxK = query_BxHxTxK.astype(jnp.float32)
    key_BxHxSxK = key_BxHxSxK.astype(jnp.float32)
  logits_BxHxTxS = jnp.einsum("bhtk,bhsk->bhts", query_BxHxTxK, key_BxHxSxK)
  if bias is not None:
    logits_BxHxTxS += bias.astype(logits_BxHxTxS.dtype)
  if mask is not None:
    hidden = jnp.asarray(MASKED, logits_BxHxTxS.dtype)
    logits_BxHxTxS += jnp.where(mask > 0, 0, hidden)
  weights_BxHxTxS = jax.nn.softmax(logits_BxHxTxS).astype(config.dtype)
  if keep_BxHx1xS is not None:
    weights_BxHxTxS *= keep_BxHx1xS
  gathered_BxHxTxK = jnp.einsum(
    "bhts,bhsk->bhtk", weights_BxHxTxS, value_BxHxSxK
  )
  return jnp.moveaxis(gathered_BxHxTxK, 1, 2)


def _attend_row_by_row(
  config: T5Config, query_BxTxHxK, *others
) -> Float[Array, "batch query heads head_dim"]:
  """Attends in one row of the batch after the other, where that is faster."""
  arrays = (query_BxTxHxK, *others)
  batch, length = query_BxTxHxK.shape[:2]
  rows_are_split = jax.sharding.get_abstract_mesh().size > 1
  if batch == 1 or length == 1 or rows_are_split or not row_by_row():
    return _attend(config, *arrays)
  # What all rows share, or none has, is no part of a row.
  own = [x is not None and len(x) > 1 for x in arrays]

  # Weights are computed again for the backward pass: sooner done than fetched.
  @jax.checkpoint
  def attend_row(row):
    row = iter(row)
    return _attend(
      config,
      *(
        next(row)[None] if mine else x
        for x, mine in zip(arrays, own, strict=True)
      ),
    )[0]

  rows = [x for x, mine in zip(arrays, own, strict=True) if mine]
  return jax.lax.map(attend_row, rows)


def _attend_in_rows(
  config: T5Config, query_SxNxHxK, key_SxNxHxK, value_SxNxHxK, mask, bias, rows
) -> Float[Array, "shards tokens heads head_dim"]:
  """Returns what each token of a flat batch gathers; see `Rows`."""
  shards, count = rows.queries.shape[:2]
  take = jax.vmap(lambda tokens, index: tokens[index])

  def by_row(array):
    """From [1 or shards x rows, ...] to [rows, 1 or shards, ...]."""
    if array is None or len(array) == 1:
      return None
    array = array.reshape(shards, count, *array.shape[1:])
    return jnp.moveaxis(array, 1, 0)

  def attend(row):
    queries, keys, mask_of_row, bias_of_row = row
    return _attend(
      config,
      take(query_SxNxHxK, queries),
      take(key_SxNxHxK, keys),
      take(value_SxNxHxK, keys),
      mask if mask_of_row is None else mask_of_row,
      bias if bias_of_row is None else bias_of_row,
    )

  gathered_RxSxT = jax.lax.map(
    attend,
    (
      jnp.moveaxis(rows.queries, 1, 0),
      jnp.moveaxis(rows.keys, 1, 0),
      by_row(mask),
      by_row(bias),
    ),
    batch_size=None if row_by_row() else count,
  )
  gathered_SxRxT = jnp.moveaxis(gathered_RxSxT, 0, 1)
  flat = gathered_SxRxT.reshape(shards, -1, *gathered_SxRxT.shape[3:])
  return take(flat, rows.places)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
  """Traces attention as for accelerators, wherever this runs."""
  token = _for_accelerators.set(True)
  try:
    yield
  finally:
    _for_accelerators.reset(token)


_for_accelerators = contextvars.ContextVar("for_accelerators", default=False)


def row_by_row() -> bool:
  """Whether attention takes its rows, or examples, one after the other."""
  # A processor's caches hold what a row needs, not what all of them do; an
  # accelerator wants them all at once.
  return jax.default_backend() == "cpu" and not _for_accelerators.get()
