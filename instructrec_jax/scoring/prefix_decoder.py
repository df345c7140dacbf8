"""The decoder, a few trie nodes at a time, as a search comes to them.

Each node's keys and values are kept; a node attends to those of the nodes on
its path, and to the instruction.

Key to shapes. B: instructions, T: their length, M: nodes of an instruction in
this step, P: nodes of a path, C: nodes that are kept, H: heads, K: head_dim,
D: emb_dim, V: vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from instructrec_jax.seq2seq import layers
from instructrec_jax.seq2seq.attention import MASKED, RelativePositionBias
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer, output_kernel
from instructrec_jax.xla_options import exact_products

KeysAndValues = tuple[jax.Array, jax.Array]


class Instructions(NamedTuple):
  """What is computed once an instruction.

  Attributes:
    by_layer: keys and values [B, T, H, K] of each decoder layer.
    mask: [B, T] where tokens are.
  """

  by_layer: tuple[KeysAndValues, ...]
  mask: Bool[Array, "batch length"]


@exact_products
def read_instructions(
  params: Any, tokens_BxT: Int[Array, "batch length"], *, config: T5Config
) -> Instructions:
  """Encodes instructions, padded with 0, for all steps of a search."""
  encoded: Any = Transformer(config).apply(
    {"params": params}, tokens_BxT, enable_dropout=False, method="encode"
  )
  return Instructions(
    tuple(
      (
        _heads(encoded, of_layer["key"], config),
        _heads(encoded, of_layer["value"], config),
      )
      for of_layer in (
        params["decoder"][f"layers_{number}"]["encoder_decoder_attention"]
        for number in range(config.num_decoder_layers)
      )
    ),
    tokens_BxT > 0,
  )


def empty_cache(config: T5Config, batch: int, nodes: int) -> Any:
  """Returns room for keys and values [B, C, H, K] of each decoder layer."""
  # Of NumPy, so that it may go to the devices of any mesh.
  room = np.zeros((batch, nodes, config.num_heads, config.head_dim))
  room = room.astype(config.dtype)
  return tuple((room, room) for _ in range(config.num_decoder_layers))


@exact_products
def read_nodes(
  params: Any,
  instructions: Instructions,
  cache: tuple[KeysAndValues, ...],
  tokens_BxM: Int[Array, "batch nodes"],
  depths_BxM: Int[Array, "batch nodes"],
  slots_BxM: Int[Array, "batch nodes"],
  paths_BxMxP: Int[Array, "batch nodes path"],
  *,
  config: T5Config,
) -> tuple[tuple[KeysAndValues, ...], Float[Array, "batch nodes vocab"]]:
  """Returns the cache with these nodes in it, and log P of what follows each.

  Args:
    params: the model's.
    instructions: of `read_instructions`.
    cache: of `empty_cache`, or of the step before.
    tokens_BxM: what is read last at each node.
    depths_BxM: how many nodes are before it on its path.
    slots_BxM: where in the cache it is to be kept.
    paths_BxMxP: where the nodes of its path are, from the root to itself.
    config: the model's sizes.
  """
  stack = params["decoder"]
  path = jnp.arange(paths_BxMxP.shape[-1])
  on_path = path <= depths_BxM[..., None]
  flat_depths = depths_BxM.reshape(-1, 1)
  of_decoder = RelativePositionBias(config, bidirectional=False)
  bias = _bound(of_decoder, stack["relpos_bias"]).of_positions(
    flat_depths, jnp.broadcast_to(path, (len(flat_depths), len(path)))
  )
  bias_BxMxHxP = bias.reshape(*depths_BxM.shape, -1, len(path))
  batch = jnp.arange(len(tokens_BxM))[:, None]
  x = _bound(layers.Embed(config), params["token_embedder"])(tokens_BxM)
  after = []
  for number, ((kept_keys, kept_values), (keys, values)) in enumerate(
    zip(cache, instructions.by_layer, strict=True)
  ):
    layer = stack[f"layers_{number}"]
    attention = layer["self_attention"]
    y = _norm(config, layer["pre_self_attention_layer_norm"], x)
    kept_keys = kept_keys.at[batch, slots_BxM].set(
      _heads(y, attention["key"], config)
    )
    kept_values = kept_values.at[batch, slots_BxM].set(
      _heads(y, attention["value"], config)
    )
    after.append((kept_keys, kept_values))
    logits_BxMxHxP = jnp.einsum(
      "bmhk,bmphk->bmhp",
      _heads(y, attention["query"], config),
      kept_keys[batch[..., None], paths_BxMxP],
    )
    weights = _softmax(logits_BxMxHxP + bias_BxMxHxP, on_path[:, :, None])
    x += _out(
      jnp.einsum(
        "bmhp,bmphk->bmhk", weights, kept_values[batch[..., None], paths_BxMxP]
      ),
      attention,
      config,
    )
    attention = layer["encoder_decoder_attention"]
    y = _norm(config, layer["pre_cross_attention_layer_norm"], x)
    logits_BxHxMxT = jnp.einsum(
      "bmhk,bthk->bhmt", _heads(y, attention["query"], config), keys
    )
    weights = _softmax(logits_BxHxMxT, instructions.mask[:, None, None])
    x += _out(jnp.einsum("bhmt,bthk->bmhk", weights, values), attention, config)
    y = _norm(config, layer["pre_mlp_layer_norm"], x)
    x += _bound(layers.Mlp(config, True), layer["mlp"])(y)
  hidden = _norm(config, stack["decoder_norm"], x).astype(jnp.float32)
  logits_BxMxV = hidden @ output_kernel(config, params)
  return tuple(after), jax.nn.log_softmax(logits_BxMxV)


def _bound(module: nn.Module, params: Any) -> Any:
  return module.bind({"params": params})


def _norm(config: T5Config, params: Any, x: jax.Array) -> jax.Array:
  return _bound(layers.RMSNorm(config.dtype), params)(x)


def _heads(x: jax.Array, params: Any, config: T5Config) -> jax.Array:
  """Projects [..., D] to [..., H, K]."""
  y = x.astype(config.dtype) @ params["kernel"].astype(config.dtype)
  return y.reshape(*x.shape[:-1], config.num_heads, config.head_dim)


def _out(gathered: jax.Array, params: Any, config: T5Config) -> jax.Array:
  """Projects [..., H, K] to [..., D]."""
  flat = gathered.reshape(*gathered.shape[:-2], -1)
  return flat @ params["out"]["kernel"].astype(config.dtype)


def _softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
  weights = jax.nn.softmax(jnp.where(mask, logits.astype(jnp.float32), MASKED))
  return weights.astype(logits.dtype)
