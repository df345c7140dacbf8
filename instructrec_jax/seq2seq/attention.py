"""Attention of T5 1.1, with its relative-position bias.

Key to shapes. B: batch, T: query length, S: key length, D: emb_dim, H: heads,
K: head_dim, R: relative-position buckets.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning, spmd
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq import int8
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layers import Dense, fan_in_normal
from instructrec_jax.seq2seq.layouts import KeysValues, Layout

NUM_BUCKETS = 32
MAX_DISTANCE = 128


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
    # Index d modulo the number of places is of distance d.
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

  def of_distances(self) -> Float[Array, "heads distances"]:
    """Returns the float32 bias by distance, up to where all share a bucket."""
    bucket = relative_position_bucket(
      np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1),
      bidirectional=self.bidirectional,
    )
    return self.rel_embedding[:, bucket]

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
  """Multi-head attention; the layout says which keys a query sees."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(
    self,
    x_BxTxD: Float[Array, "batch query embed"],
    memory_BxSxD: Float[Array, "batch key embed"] | None,
    layout: Layout,
    *,
    keys_values: KeysValues | None = None,
    cache: KeysValues | None = None,
  ) -> tuple[Float[Array, "batch query embed"], KeysValues | None]:
    """Returns what each query gathers, and the cache with this call's tokens.

    Args:
      x_BxTxD: where queries come from.
      memory_BxSxD: where keys and values come from.
      layout: of both.
      keys_values: the memory's, of `project_memory`, where they are cached.
      cache: keys and values of earlier tokens, for layouts that have them.
    """
    config = self.config
    query = self._project("query", x_BxTxD)
    if keys_values is None:
      keys_values = (
        self._project("key", memory_BxSxD),
        self._project("value", memory_BxSxD),
      )
    key, value = keys_values
    keep = None
    if not self.deterministic and config.dropout_rate > 0:
      # As T5X: a key's weights are dropped for all queries alike.
      rows, length = layout.key_rows(key)
      ones = jnp.ones((rows, config.num_heads, 1, length), config.dtype)
      keep = nn.Dropout(config.dropout_rate)(ones, deterministic=False)
    gathered, cache = layout.attend(config, query, key, value, keep, cache)
    out_BxTxD = Dense(
      x_BxTxD.shape[-1],
      axes=("joined_kv", "embed"),
      dtype=config.dtype,
      kernel_init=fan_in_normal,
      lora_rank=config.lora_rank,
      lora_alpha=config.lora_alpha,
      name="out",
    )(gathered.reshape(*x_BxTxD.shape[:2], -1))
    return out_BxTxD, cache

  def _project(self, name: str, x: Any) -> jax.Array:
    config = self.config
    scale = config.head_dim**-0.5 if name == "query" else 1.0
    y = Dense(
      config.num_heads * config.head_dim,
      axes=("embed", "joined_kv"),
      dtype=config.dtype,
      kernel_init=lambda *args: fan_in_normal(*args) * scale,
      lora_rank=config.lora_rank,
      lora_alpha=config.lora_alpha,
      name=name,
    )(x)
    y = y.reshape(*x.shape[:2], config.num_heads, config.head_dim)
    return spmd.with_logical_constraint(y, ("batch", "length", "heads", "kv"))


def project_memory(
  config: T5Config, params: Any, encoded_BxSxD: Float[Array, "batch key embed"]
) -> tuple[KeysValues, ...]:
  """Returns keys and values [B, S, H, K] of the encoder's states, by layer.

  For decoding that takes many calls over the same instructions.
  """

  def project(layer: int, name: str) -> jax.Array:
    attention = params["decoder"][f"layers_{layer}"][
      "encoder_decoder_attention"
    ]
    kernel = int8.matrix(attention[name], "kernel", config.dtype)
    y = encoded_BxSxD.astype(config.dtype) @ kernel.astype(config.dtype)
    return y.reshape(*y.shape[:2], config.num_heads, config.head_dim)

  return tuple(
    (project(layer, "key"), project(layer, "value"))
    for layer in range(config.num_decoder_layers)
  )
