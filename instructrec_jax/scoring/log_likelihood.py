"""log P(candidate | instruction), token by token, as a pure function.

Linear layers run on the tokens of all instructions, and of all tries, end to
end, so that only what a bin has left over is padding; attention is in rows or,
on one processor, within each instruction and from each trie's row to its own.

Key to shapes. S: shards of the batch, N: tokens of a shard, B: instructions of
a shard, T: length of an instruction, R: trie rows of a shard, U: length of such
a row, E: edges of a shard, D: emb_dim, V: vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq import layers
from instructrec_jax.seq2seq.attention import (
  RelativePositionBias,
  Rows,
  row_by_row,
)
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.segments import segments_of
from instructrec_jax.seq2seq.transformer import (
  DecoderLayer,
  EncoderLayer,
  output_kernel,
)
from instructrec_jax.xla_options import exact_products

# Nodes of a shard whose logits stand at once: 64 MiB of float32 with T5's
# vocabulary.
_NODES_AT_ONCE = 522
# On one processor, nodes and words whose logits stand at once: 2 MiB, which its
# caches hold until they are summed.
_IN_CACHE = (256, 2048)
# Of `segments_of`: instructions of a shape are about as long, and most rows of
# tries are full.
_INSTRUCTIONS = (4, 6, 7, 8)
_TRIES = ((8,), (4, 6, 8))


@exact_products
def edge_log_likelihoods(
  params: Any, batch: dict[str, jax.Array], *, config: T5Config
) -> Float[Array, "shards edges"]:
  """Returns log P of every edge of the tries, in float32 (paper 2.3.2).

  The encoder reads each instruction once. Candidates that begin alike share
  their beginning, and see nothing of each other beyond it.

  Args:
    params: the model's.
    batch: features of `packing.to_batch`.
    config: the model's sizes.

  Returns:
    Log-probabilities; those of padding have no meaning.
  """
  encoded_SxNxD = encode(
    params,
    batch["encoder_tokens"],
    batch["encoder_rows"],
    batch["encoder_places"],
    batch["encoder_lengths"],
    config=config,
  )
  hidden_SxNxD = _read_tries(params, encoded_SxNxD, batch, config=config)
  return edge_log_probabilities(
    hidden_SxNxD,
    output_kernel(config, params),
    batch["edge_nodes"],
    batch["edge_targets"],
  )


def encode(
  params: Any,
  tokens_SxN: Int[Array, "shards tokens"],
  rows_SxBxT: Int[Array, "shards instructions length"],
  places_SxN: Int[Array, "shards tokens"],
  lengths_SxB: Int[Array, "shards instructions"],
  *,
  config: T5Config,
) -> Float[Array, "shards tokens embed"]:
  """Returns the encoder's states of instructions end to end."""
  stack = params["encoder"]
  length = rows_SxBxT.shape[-1]
  mask_BxT = jnp.arange(length) < lengths_SxB.reshape(-1, 1)
  bias = _bound(
    RelativePositionBias(config, bidirectional=True),
    stack["relpos_bias"],
  )(length, length)
  rows = Rows(rows_SxBxT, rows_SxBxT, places_SxN)
  if _on_one_processor(len(tokens_SxN)):
    longest = min(length, tokens_SxN.shape[1])
    rows = segments_of(
      _spans(lengths_SxB[0]),
      longest=(longest, longest),
      eighths=(_INSTRUCTIONS, _INSTRUCTIONS),
    )
  x = _bound(layers.Embed(config), params["token_embedder"])(tokens_SxN)
  for number in range(config.num_encoder_layers):
    layer = _bound(EncoderLayer(config, True), stack[f"layers_{number}"])
    x = layer(x, mask_BxT[:, None, None], bias, rows)
  return _bound(layers.RMSNorm(config.dtype), stack["encoder_norm"])(x)


def _read_tries(
  params: Any,
  encoded_SxNxD: jax.Array,
  batch: dict[str, jax.Array],
  *,
  config: T5Config,
) -> Float[Array, "shards nodes embed"]:
  """Returns the decoder's states at the nodes of tries."""
  stack = params["decoder"]
  rows_SxRxU, of_SxR = batch["trie_rows"], batch["trie_instructions"]
  places = batch["trie_places"]
  keys_SxRxT = jax.vmap(lambda rows, of: rows[of])(
    batch["encoder_rows"], of_SxR
  )
  lengths_SxR = jnp.take_along_axis(batch["encoder_lengths"], of_SxR, axis=1)
  length, of_keys = rows_SxRxU.shape[-1], keys_SxRxT.shape[-1]
  index_U = jnp.arange(length)
  # A subtree is an interval: whoever's holds the query is before it, or is it.
  ends_RxU = batch["trie_ends"].reshape(-1, length)
  mask_RxUxU = (index_U <= index_U[:, None]) & (
    index_U[:, None] < ends_RxU[:, None]
  )
  cross_mask_RxT = jnp.arange(of_keys) < lengths_SxR.reshape(-1, 1)
  depths_RxU = batch["trie_depths"].reshape(-1, length)
  of_decoder = RelativePositionBias(config, bidirectional=False)
  bias = _bound(of_decoder, stack["relpos_bias"]).of_positions(
    depths_RxU, depths_RxU
  )
  rows = Rows(rows_SxRxU, rows_SxRxU, places)
  cross_rows = Rows(rows_SxRxU, keys_SxRxT, places)
  if _on_one_processor(len(places)):
    starts_B, lengths_B = _spans(batch["encoder_lengths"][0])
    cross_rows = segments_of(
      _spans((ends_RxU > 0).sum(1)),
      (starts_B[of_SxR[0]], lengths_B[of_SxR[0]]),
      longest=(
        min(length, places.shape[1]),
        min(of_keys, encoded_SxNxD.shape[1]),
      ),
      eighths=_TRIES,
    )
  x = _bound(layers.Embed(config), params["token_embedder"])(
    batch["trie_tokens"]
  )
  for number in range(config.num_decoder_layers):
    layer = _bound(DecoderLayer(config, True, False), stack[f"layers_{number}"])
    x = layer(
      x,
      encoded_SxNxD,
      mask_RxUxU[:, None],
      bias,
      cross_mask_RxT[:, None, None],
      rows,
      cross_rows,
    )
  return _bound(layers.RMSNorm(config.dtype), stack["decoder_norm"])(x)


def edge_log_probabilities(
  hidden_SxNxD: Float[Array, "shards nodes embed"],
  kernel_DxV: Float[Array, "embed vocab"],
  nodes_SxE: Int[Array, "shards edges"],
  targets_SxE: Int[Array, "shards edges"],
) -> Float[Array, "shards edges"]:
  """Returns log softmax at the edges' targets; logits never stand whole."""
  hidden_SxNxD = hidden_SxNxD.astype(jnp.float32)
  normalizer_SxN = _normalizer(hidden_SxNxD, kernel_DxV)
  hidden_SxExD = jax.vmap(lambda x, index: x[index])(hidden_SxNxD, nodes_SxE)
  logits_SxE = jnp.einsum(
    "sed,dse->se", hidden_SxExD, jnp.take(kernel_DxV, targets_SxE, axis=1)
  )
  return logits_SxE - jnp.take_along_axis(normalizer_SxN, nodes_SxE, axis=1)


def _normalizer(
  hidden_SxNxD: Float[Array, "shards nodes embed"],
  kernel_DxV: Float[Array, "embed vocab"],
) -> Float[Array, "shards nodes"]:
  """Returns the log of the sum of exp(logits), slice by slice."""
  shards, nodes, embed = hidden_SxNxD.shape
  vocab = kernel_DxV.shape[1]
  at_most, words = _NODES_AT_ONCE, vocab
  if _on_one_processor(shards):
    at_most, words = _IN_CACHE[0], _largest_divisor(vocab, _IN_CACHE[1])
  slices = -(-nodes // at_most)
  at_once = -(-nodes // slices)
  padded = jnp.pad(
    hidden_SxNxD, ((0, 0), (0, slices * at_once - nodes), (0, 0))
  )
  hidden_IxSxWxD = jnp.moveaxis(
    padded.reshape(shards, slices, at_once, embed), 1, 0
  )

  def add_words(carry, kernel_DxW):
    def of_nodes(slice_):
      hidden, most, total = slice_
      logits = hidden @ kernel_DxW
      larger = jnp.maximum(most, logits.max(-1))
      sums = jnp.exp(logits - larger[..., None]).sum(-1)
      return larger, total * jnp.exp(most - larger) + sums

    return jax.lax.map(of_nodes, (hidden_IxSxWxD, *carry))

  zeros = jnp.zeros(hidden_IxSxWxD.shape[:-1])
  carry = zeros - jnp.inf, zeros
  if words == vocab:
    carry = add_words(carry, kernel_DxV)
  else:
    carry = jax.lax.fori_loop(
      0,
      vocab // words,
      lambda number, carry: add_words(
        carry,
        jax.lax.dynamic_slice_in_dim(kernel_DxV, number * words, words, axis=1),
      ),
      carry,
    )
  most_IxSxW, total_IxSxW = carry
  log_z = most_IxSxW + jnp.log(total_IxSxW)
  return jnp.moveaxis(log_z, 0, 1).reshape(shards, -1)


def _largest_divisor(number: int, at_most: int) -> int:
  return max(d for d in range(1, at_most + 1) if number % d == 0)


def _on_one_processor(shards: int) -> bool:
  """Whether attention takes one instruction at a time, as long as it is."""
  devices = jax.sharding.get_abstract_mesh().size
  return row_by_row() and max(shards, devices) == 1


def _spans(lengths_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns starts and lengths of what stands end to end."""
  return jnp.cumsum(lengths_B) - lengths_B, lengths_B


def _bound(module: nn.Module, params: Any) -> Any:
  return module.bind({"params": params})
