"""The layers of T5 1.1, with T5X's parameter names and logical axes.

T5 in three deviations from the first Transformer: RMS norms before each block
and no biases; a learned bias by bucketed distance, shared by all layers of a
stack, in place of positions; and no 1/sqrt(head_dim) in attention, which the
query's initial scale absorbs.

Key to shapes. B: batch, T: query length, S: key length, D: emb_dim, H: heads,
K: head_dim, F: mlp_dim, V: vocabulary, R: relative-position buckets.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning, spmd
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq.config import T5Config

NUM_BUCKETS = 32
MAX_DISTANCE = 128
# Large enough to vanish in a softmax, small enough for bfloat16.
MASKED = -1e10

_fan_in_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_fan_in_truncated = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


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


class Dense(nn.Module):
  """A linear map without bias, computed in `dtype` from float32 weights."""

  features: int
  axes: tuple[str, str]
  dtype: Any
  kernel_init: Callable[..., jax.Array] = _fan_in_truncated

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch inputs"]
  ) -> Float[Array, "*batch features"]:
    """Returns x @ kernel."""
    kernel = partitioning.param_with_axes(
      "kernel",
      self.kernel_init,
      (x.shape[-1], self.features),
      jnp.float32,
      axes=self.axes,
    )
    return jnp.asarray(x, self.dtype) @ jnp.asarray(kernel, self.dtype)


class RMSNorm(nn.Module):
  """T5's layer norm: scales by the root mean square, subtracts nothing."""

  dtype: Any
  epsilon: float = 1e-6

  @nn.compact
  def __call__(
    self, x: Float[Array, "*batch embed"]
  ) -> Float[Array, "*batch embed"]:
    """Returns x normalised in float32, then scaled in `dtype`."""
    x = jnp.asarray(x, jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = partitioning.param_with_axes(
      "scale",
      nn.initializers.ones,
      (x.shape[-1],),
      jnp.float32,
      axes=("embed",),
    )
    x = x * jax.lax.rsqrt(mean_square + self.epsilon)
    return jnp.asarray(x, self.dtype) * jnp.asarray(scale, self.dtype)


class Embed(nn.Module):
  """The token embedding that encoder and decoder share."""

  config: T5Config

  def setup(self):
    self.embedding = partitioning.param_with_axes(
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (self.config.vocab_size, self.config.emb_dim),
      jnp.float32,
      axes=("vocab", "embed"),
    )

  def __call__(
    self, tokens_BxT: Int[Array, "batch length"]
  ) -> Float[Array, "batch length embed"]:
    """Returns the rows of the table for these tokens."""
    # A gather where T5X multiplies by a one-hot: the same values, and on CPU
    # and GPU without [tokens, vocab] arrays. It is cast after the gather, so
    # that a frequent token's gradient is summed in float32: a bfloat16 sum
    # stops growing after a few hundred terms.
    embedded_BxTxD = jnp.take(self.embedding, tokens_BxT, axis=0)
    return spmd.with_logical_constraint(
      embedded_BxTxD.astype(self.config.dtype), ("batch", "length", "embed")
    )


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
    distance_TxS = np.arange(key_length) - np.arange(query_length)[:, None]
    bucket_TxS = relative_position_bucket(
      distance_TxS, bidirectional=self.bidirectional
    )
    # As a product with a constant, since the gradient of a gather would be a
    # scatter-add into 32 rows, which serialises on every backend.
    one_hot_RxTxS = jnp.asarray(
      bucket_TxS == np.arange(NUM_BUCKETS)[:, None, None], self.config.dtype
    )
    table_HxR = jnp.asarray(self.rel_embedding, self.config.dtype)
    return jnp.einsum("hr,rts->hts", table_HxR, one_hot_RxTxS)[None]

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
    rows: Rows | None = None,
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
    if rows is not None:
      gathered_BxTxHxK = _attend_in_rows(
        config, query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, mask, bias, rows
      )
    else:
      if self.decode:
        key_BxSxHxK, value_BxSxHxK, mask, bias = self._cached(
          key_BxSxHxK, value_BxSxHxK, mask, bias
        )
      # The same positions are dropped for every query, as T5X does.
      keep_BxHx1xS = nn.Dropout(config.dropout_rate)(
        jnp.ones(
          (len(x_BxTxD), config.num_heads, 1, key_BxSxHxK.shape[1]),
          config.dtype,
        ),
        deterministic=self.deterministic,
      )
      gathered_BxTxHxK = _attend(
        config,
        query_BxTxHxK,
        key_BxSxHxK,
        value_BxSxHxK,
        mask,
        bias,
        None if self.deterministic else keep_BxHx1xS,
      )
    return Dense(
      x_BxTxD.shape[-1],
      axes=("joined_kv", "embed"),
      dtype=config.dtype,
      kernel_init=_fan_in_normal,
      name="out",
    )(gathered_BxTxHxK.reshape(*x_BxTxD.shape[:2], -1))

  def _project(self, name: str, x: jax.Array) -> jax.Array:
    config = self.config
    scale = config.head_dim**-0.5 if name == "query" else 1.0
    y = Dense(
      config.num_heads * config.head_dim,
      axes=("embed", "joined_kv"),
      dtype=config.dtype,
      kernel_init=lambda *args: _fan_in_normal(*args) * scale,
      name=name,
    )(x)
    y = y.reshape(*x.shape[:2], config.num_heads, config.head_dim)
    return spmd.with_logical_constraint(y, ("batch", "length", "heads", "kv"))

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


def _attention_weights(
  config: T5Config, query_BxHxTxK, key_BxHxSxK, mask, bias
) -> Float[Array, "batch heads query key"]:
  """Returns how much each query takes of each key."""
  if config.float32_attention_logits:
    query_BxHxTxK = query_BxHxTxK.astype(jnp.float32)
    key_BxHxSxK = key_BxHxSxK.astype(jnp.float32)
  logits_BxHxTxS = jnp.einsum("bhtk,bhsk->bhts", query_BxHxTxK, key_BxHxSxK)
  if bias is not None:
    logits_BxHxTxS += bias.astype(logits_BxHxTxS.dtype)
  if mask is not None:
    hidden = jnp.asarray(MASKED, logits_BxHxTxS.dtype)
    logits_BxHxTxS += jnp.where(mask > 0, 0, hidden)
  return jax.nn.softmax(logits_BxHxTxS).astype(config.dtype)


def _attend(
  config: T5Config,
  query_BxTxHxK,
  key_BxSxHxK,
  value_BxSxHxK,
  mask,
  bias,
  keep_BxHx1xS,
) -> Float[Array, "batch query heads head_dim"]:
  """Returns what each query gathers; `keep` scales or drops weights."""

  def attend(query, key, value, mask, bias, keep):
    query, key, value = (jnp.moveaxis(x, 2, 1) for x in (query, key, value))
    weights = _attention_weights(config, query, key, mask, bias)
    if keep is not None:
      weights *= keep
    gathered = jnp.einsum("bhts,bhsk->bhtk", weights, value)
    return jnp.moveaxis(gathered, 1, 2)

  arrays = (query_BxTxHxK, key_BxSxHxK, value_BxSxHxK, mask, bias, keep_BxHx1xS)
  batch, length = query_BxTxHxK.shape[:2]
  rows_are_split = jax.sharding.get_abstract_mesh().size > 1
  if batch == 1 or length == 1 or rows_are_split or not _row_by_row():
    return attend(*arrays)
  # What all rows share, or none has, is no part of a row.
  own = [x is not None and len(x) > 1 for x in arrays]

  # Weights are computed again for the backward pass: sooner done than fetched.
  @jax.checkpoint
  def attend_row(row):
    row = iter(row)
    return attend(
      *(
        next(row)[None] if mine else x
        for x, mine in zip(arrays, own, strict=True)
      )
    )[0]

  rows = [x for x, mine in zip(arrays, own, strict=True) if mine]
  return jax.lax.map(attend_row, rows)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
  """Traces attention as for accelerators, wherever this runs."""
  token = _for_accelerators.set(True)
  try:
    yield
  finally:
    _for_accelerators.reset(token)


_for_accelerators = contextvars.ContextVar("for_accelerators", default=False)


def _row_by_row() -> bool:
  # A processor's caches hold what a row needs, not what all of them do; an
  # accelerator wants them all at once.
  return jax.default_backend() == "cpu" and not _for_accelerators.get()


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

  def by_head(array, index):
    # A fifth faster than products over interleaved heads.
    return jnp.moveaxis(take(array, index), 2, 1)

  def attend(row):
    queries, keys, mask_of_row, bias_of_row = row
    weights = _attention_weights(
      config,
      by_head(query_SxNxHxK, queries),
      by_head(key_SxNxHxK, keys),
      mask if mask_of_row is None else mask_of_row,
      bias if bias_of_row is None else bias_of_row,
    )
    gathered = jnp.einsum(
      "shtu,shuk->shtk", weights, by_head(value_SxNxHxK, keys)
    )
    return jnp.moveaxis(gathered, 1, 2)

  gathered_RxSxT = jax.lax.map(
    attend,
    (
      jnp.moveaxis(rows.queries, 1, 0),
      jnp.moveaxis(rows.keys, 1, 0),
      by_row(mask),
      by_row(bias),
    ),
    batch_size=None if _row_by_row() else count,
  )
  gathered_SxRxT = jnp.moveaxis(gathered_RxSxT, 0, 1)
  flat = gathered_SxRxT.reshape(shards, -1, *gathered_SxRxT.shape[3:])
  return take(flat, rows.places)


class Mlp(nn.Module):
  """The gated feed-forward layer: wo(act(wi_0 x) * wi_1 x) in T5 1.1."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch length embed"]
  ) -> Float[Array, "batch length embed"]:
    """Returns the transformed residual branch."""
    config = self.config
    gated = config.mlp_activations
    hidden = None
    for number, activation in enumerate(gated):
      branch = Dense(
        config.mlp_dim,
        axes=("embed", "mlp"),
        dtype=config.dtype,
        name="wi" if len(gated) == 1 else f"wi_{number}",
      )(x)
      if activation != "linear":
        branch = getattr(nn, activation)(branch)
      hidden = branch if hidden is None else hidden * branch
    hidden = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))(
      hidden, deterministic=self.deterministic
    )
    hidden = spmd.with_logical_constraint(hidden, ("batch", "length", "mlp"))
    return Dense(
      x.shape[-1], axes=("mlp", "embed"), dtype=config.dtype, name="wo"
    )(hidden)
