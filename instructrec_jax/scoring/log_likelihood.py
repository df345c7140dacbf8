"""log P(candidate | instruction), token by token, as a pure function.

Linear layers run on the tokens of all instructions, and of all tries, end to
end, so that only what a bin has left over is padding. Attention is in rows or,
on one CPU device, within each instruction and from each trie row to its own.

Key to shapes. S: shards of the batch, N: tokens of a shard, B: instructions of
a shard, T: length of an instruction, R: trie rows of a shard, U: length of such
a row, E: edges of a shard, D: emb_dim, V: vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from instructrec_jax.kernels.cpu import Spans
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import (
  Examples,
  GatheredTokens,
  Layout,
  Segments,
)
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel
from instructrec_jax.xla_options import exact_products

# Nodes of a shard whose logits are materialised at once: 64 MiB of float32 with
# T5's vocabulary.
_NODES_AT_ONCE = 522
# On one CPU device, nodes and words whose logits are materialised at once:
# 2 MiB, which its caches hold until they are summed.
_IN_CACHE = (256, 2048)
# Block sizes of `Spans`, in eighths: instructions of a shape are about as long,
# and most rows of tries are full.
_INSTRUCTION_BLOCKS = (4, 6, 7, 8)
_TRIE_BLOCKS = ((8,), (4, 6, 8))


def _loops(batch: dict[str, jax.Array], config: T5Config) -> bool:
  return len(batch["encoder_tokens"]) == 1 and config.loops_over_examples()


@exact_products
def encode_instructions(
  params: Any, batch: dict[str, jax.Array], *, config: T5Config
) -> Float[Array, "shards tokens embed"]:
  """Returns the encoder's states of a batch's instructions, end to end.

  Args:
    params: the model's.
    batch: `features` of `batching.Batch`.
    config: the model's sizes.
  """
  layout = _encoder_layout(batch, _loops(batch, config))
  encoded: Any = Transformer(config).apply(
    {"params": params}, batch["encoder_tokens"], layout, method="encode_states"
  )
  return encoded


@exact_products
def edge_log_likelihoods(
  params: Any,
  batch: dict[str, jax.Array],
  encoded_SxNxD: Float[Array, "shards tokens embed"] | None = None,
  *,
  config: T5Config,
) -> Float[Array, "shards edges"]:
  """Returns log P of every edge of the tries, in float32 (paper 2.3.2).

  The encoder reads each instruction once. Candidates with a common prefix share
  its nodes, and do not attend to each other beyond it.

  Args:
    params: the model's.
    batch: `features` of `batching.Batch`.
    encoded_SxNxD: of `encode_instructions`, where they are known.
    config: the model's sizes.

  Returns:
    Log-probabilities; those of padding are undefined.
  """
  if encoded_SxNxD is None:
    encoded_SxNxD = encode_instructions(params, batch, config=config)
  loops = _loops(batch, config)
  decoder_layout, cross_layout = _trie_layouts(batch, loops)
  states: Any = Transformer(config).apply(
    {"params": params},
    batch["trie_tokens"],
    encoded_SxNxD,
    decoder_layout,
    cross_layout,
    method="decode_states",
  )
  return edge_log_probabilities(
    states[0],
    output_kernel(config, params),
    batch["edge_nodes"],
    batch["edge_targets"],
    in_cache=loops,
  )


def _encoder_layout(batch: dict[str, jax.Array], loops: bool) -> Layout:
  """Returns the layout of instructions end to end."""
  rows_SxBxT, lengths_SxB = batch["encoder_rows"], batch["encoder_lengths"]
  length = rows_SxBxT.shape[-1]
  if loops:
    longest = min(length, batch["encoder_tokens"].shape[1])
    return Examples(
      Spans.sort(
        _spans(lengths_SxB[0]),
        longest=(longest, longest),
        eighths=(_INSTRUCTION_BLOCKS, _INSTRUCTION_BLOCKS),
      )
    )
  mask_BxT = jnp.arange(length) < lengths_SxB.reshape(-1, 1)
  return GatheredTokens(
    rows_SxBxT,
    rows_SxBxT,
    batch["encoder_places"],
    mask_BxT[:, None, None],
    segments=Segments(mask_BxT, mask_BxT),
  )


def _trie_layouts(
  batch: dict[str, jax.Array], loops: bool
) -> tuple[Layout, Layout]:
  """Returns the layouts of trie nodes among themselves and to instructions."""
  rows_SxRxU, places_SxN = batch["trie_rows"], batch["trie_places"]
  instructions_SxR = batch["trie_instructions"]
  length, nodes = rows_SxRxU.shape[-1], places_SxN.shape[1]
  index_U = jnp.arange(length)
  # A subtree is an interval: a node sees those whose interval it is in.
  ends_RxU = batch["trie_ends"].reshape(-1, length)
  mask_RxUxU = (index_U <= index_U[:, None]) & (
    index_U[:, None] < ends_RxU[:, None]
  )
  layout = GatheredTokens(
    rows_SxRxU,
    rows_SxRxU,
    places_SxN,
    mask_RxUxU[:, None],
    positions=batch["trie_depths"].reshape(-1, length),
  )
  if loops:
    starts_B, lengths_B = _spans(batch["encoder_lengths"][0])
    longest = min(
      batch["encoder_rows"].shape[-1], batch["encoder_tokens"].shape[1]
    )
    of_R = instructions_SxR[0]
    spans = Spans.sort(
      _spans((ends_RxU > 0).sum(1)),
      (starts_B[of_R], lengths_B[of_R]),
      longest=(min(length, nodes), longest),
      eighths=_TRIE_BLOCKS,
    )
    return layout, Examples(spans)
  keys_SxRxT = jax.vmap(lambda rows, of: rows[of])(
    batch["encoder_rows"], instructions_SxR
  )
  lengths_SxR = jnp.take_along_axis(
    batch["encoder_lengths"], instructions_SxR, axis=1
  )
  key_mask_RxT = jnp.arange(keys_SxRxT.shape[-1]) < lengths_SxR.reshape(-1, 1)
  return layout, GatheredTokens(
    rows_SxRxU,
    keys_SxRxT,
    places_SxN,
    key_mask_RxT[:, None, None],
    segments=Segments(ends_RxU > 0, key_mask_RxT),
  )


def edge_log_probabilities(
  hidden_SxNxD: Float[Array, "shards nodes embed"],
  kernel_DxV: Float[Array, "embed vocab"],
  nodes_SxE: Int[Array, "shards edges"],
  targets_SxE: Int[Array, "shards edges"],
  *,
  in_cache: bool,
) -> Float[Array, "shards edges"]:
  """Returns log softmax at edges, without materialising [nodes, vocab] logits.

  Args:
    hidden_SxNxD: the decoder's states.
    kernel_DxV: of `transformer.output_kernel`.
    nodes_SxE: each edge's node.
    targets_SxE: each edge's token.
    in_cache: take logits in slices that a CPU's caches hold.
  """
  hidden_SxNxD = hidden_SxNxD.astype(jnp.float32)
  normalizer_SxN = _normalizer(hidden_SxNxD, kernel_DxV, in_cache=in_cache)
  hidden_SxExD = jax.vmap(lambda x, index: x[index])(hidden_SxNxD, nodes_SxE)
  logits_SxE = jnp.einsum(
    "sed,dse->se", hidden_SxExD, jnp.take(kernel_DxV, targets_SxE, axis=1)
  )
  return logits_SxE - jnp.take_along_axis(normalizer_SxN, nodes_SxE, axis=1)


def _normalizer(
  hidden_SxNxD: Float[Array, "shards nodes embed"],
  kernel_DxV: Float[Array, "embed vocab"],
  *,
  in_cache: bool,
) -> Float[Array, "shards nodes"]:
  """Returns the log of the sum of exp(logits), slice by slice."""
  shards, nodes, embed = hidden_SxNxD.shape
  vocab = kernel_DxV.shape[1]
  at_most, words = _NODES_AT_ONCE, vocab
  if in_cache:
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


def _spans(lengths_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns starts and lengths of sequences that are stored end to end."""
  return jnp.cumsum(lengths_B) - lengths_B, lengths_B
