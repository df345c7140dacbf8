"""T5 1.1 in flax linen; T5X's trainer can bind this class as it stands.

Parameter tree, `params_axes`, argument names and the methods `encode` and
`decode` are those of T5X's `examples/t5/network.py`. They lead, like training,
scoring and search, to `encode_states` and `decode_states`: one encoder and one
decoder, whatever the layout of their tokens. Both stop before the output layer,
so that losses and scores take the vocabulary in slices. Layers in a loop
(`T5Config.scan_layers`) are for these two alone; T5X's methods have them apart.

Key to shapes. B: batch, T: encoder length, U: decoder length, D: emb_dim,
V: vocabulary. Token 0 is padding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from instructrec_jax.seq2seq import int8, layers, parts, stacking
from instructrec_jax.seq2seq.attention import Attention, RelativePositionBias
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import (
  KeysValues,
  Layout,
  NextToken,
  Tokens,
  padded_rows,
)


@struct.dataclass
class Cache:
  """Keys and values of what the decoder has read, a pair for each layer.

  Attributes:
    tokens: of decoded tokens, shaped as the layout wants.
    memory: of the encoder's states, see `attention.project_memory`; None
      where each call projects them again.
  """

  tokens: tuple[KeysValues, ...]
  memory: tuple[KeysValues, ...] | None = None


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each normed and added back."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD, layout: Layout):
    """Returns the residual stream after one layer."""
    config = self.config
    y = layers.RMSNorm(config.dtype, name="pre_attention_layer_norm")(x_BxTxD)
    y, _ = Attention(config, self.deterministic, name="attention")(y, y, layout)
    x_BxTxD += layers.dropout(y, config, self.deterministic, layout)
    y = layers.RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x_BxTxD)
    y = layers.Mlp(config, self.deterministic, name="mlp")(y, layout)
    return x_BxTxD + layers.dropout(y, config, self.deterministic, layout)


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and feed-forward."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(
    self,
    x_BxUxD,
    encoded_BxTxD,
    layout: Layout,
    cross_layout: Layout,
    cache: KeysValues | None,
    memory: KeysValues | None,
  ):
    """Returns the residual stream after one layer, and its cache."""
    config = self.config
    y = layers.RMSNorm(config.dtype, name="pre_self_attention_layer_norm")(
      x_BxUxD
    )
    y, cache = Attention(config, self.deterministic, name="self_attention")(
      y, y, layout, cache=cache
    )
    x_BxUxD += layers.dropout(y, config, self.deterministic, layout)
    y = layers.RMSNorm(config.dtype, name="pre_cross_attention_layer_norm")(
      x_BxUxD
    )
    y, _ = Attention(
      config, self.deterministic, name="encoder_decoder_attention"
    )(y, encoded_BxTxD, cross_layout, keys_values=memory)
    x_BxUxD += layers.dropout(y, config, self.deterministic, layout)
    y = layers.RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x_BxUxD)
    y = layers.Mlp(config, self.deterministic, name="mlp")(y, layout)
    x_BxUxD += layers.dropout(y, config, self.deterministic, layout)
    return x_BxUxD, cache


class Encoder(nn.Module):
  """The stack that reads the instruction."""

  config: T5Config
  embed: nn.Module

  @nn.compact
  def __call__(
    self, tokens_BxT, layout: Layout, *, deterministic: bool, may_scan: bool
  ):
    """Returns normed states [batch, length, embed]."""
    config = self.config
    layout = layout.with_bias(
      RelativePositionBias(config, bidirectional=True, name="relpos_bias")
    )
    x = layers.dropout(self.embed(tokens_BxT), config, deterministic, layout)
    if may_scan and config.scans_layers():
      x = _scan_layers(self, EncoderLayer, deterministic, x, layout)
    else:
      layer = _with_remat(EncoderLayer, config, "encoder")
      for number in range(config.num_encoder_layers):
        x = layer(config, deterministic, name=f"layers_{number}")(x, layout)
    x = layers.RMSNorm(config.dtype, name="encoder_norm")(x)
    return layers.dropout(x, config, deterministic, layout, shared=False)


class Decoder(nn.Module):
  """The stack that writes the answer."""

  config: T5Config
  embed: nn.Module

  @nn.compact
  def __call__(
    self,
    tokens_BxU,
    encoded_BxTxD,
    layout: Layout,
    cross_layout: Layout,
    cache: Cache | None,
    *,
    deterministic: bool,
    with_logits: bool,
    may_scan: bool,
  ):
    """Returns normed states, or float32 logits, and the cache."""
    config = self.config
    layout = layout.with_bias(
      RelativePositionBias(config, bidirectional=False, name="relpos_bias")
    )
    y = layers.dropout(self.embed(tokens_BxU), config, deterministic, layout)
    cached, count = [], config.num_decoder_layers
    # Not with a cache, each step of which would copy the whole of it.
    if cache is None and may_scan and config.scans_layers():
      inputs = encoded_BxTxD, layout, cross_layout, None, None
      y, count = _scan_layers(self, DecoderLayer, deterministic, y, *inputs), 0
    layer = _with_remat(DecoderLayer, config, "decoder")
    for number in range(count):
      y, of_layer = layer(config, deterministic, name=f"layers_{number}")(
        y,
        encoded_BxTxD,
        layout,
        cross_layout,
        None if cache is None else cache.tokens[number],
        None if cache is None or not cache.memory else cache.memory[number],
      )
      cached.append(of_layer)
    y = layers.RMSNorm(config.dtype, name="decoder_norm")(y)
    y = layers.dropout(y, config, deterministic, layout)
    if cache is not None:
      cache = Cache(tuple(cached), cache.memory)
    if not with_logits:
      return y, cache
    if config.logits_via_embedding:
      table_VxD = int8.matrix(
        self.embed.variables["params"], "embedding", jnp.float32
      )
      return (y.astype(jnp.float32) @ table_VxD.T) * config.emb_dim**-0.5, cache
    logits = layers.Dense(
      config.vocab_size,
      axes=("embed", "vocab"),
      dtype=jnp.float32,
      name="logits_dense",
    )(y)
    return logits, cache


class Transformer(nn.Module):
  """The encoder-decoder."""

  config: T5Config

  def setup(self):
    self.token_embedder = layers.Embed(self.config)
    self.encoder = Encoder(self.config, self.token_embedder)
    self.decoder = Decoder(self.config, self.token_embedder)

  def encode_states(
    self,
    tokens: Tokens,
    layout: Layout,
    *,
    deterministic: bool = True,
    may_scan: bool = True,
  ) -> Float[Array, "batch length embed"]:
    """Returns the encoder's normed states of instructions.

    Args:
      tokens: of instructions.
      layout: of the tokens.
      deterministic: whether there is no dropout, which needs an rng "dropout".
      may_scan: whether the config may have layers in a loop.
    """
    return self.encoder(
      tokens, layout, deterministic=deterministic, may_scan=may_scan
    )

  def decode_states(
    self,
    tokens: Tokens,
    encoded: Float[Array, "batch length embed"] | None,
    layout: Layout,
    cross_layout: Layout,
    cache: Cache | None = None,
    *,
    deterministic: bool = True,
    with_logits: bool = False,
    may_scan: bool = True,
  ) -> tuple[Float[Array, "batch length features"], Cache | None]:
    """Returns the decoder's normed states before the output layer, and a cache.

    Args:
      tokens: of answers, shifted right.
      encoded: of `encode_states`; None where the cache has its keys and values.
      layout: of the tokens.
      cross_layout: of the tokens and the instructions that they attend to.
      cache: of earlier calls, for layouts that decode step by step.
      deterministic: whether there is no dropout.
      with_logits: return float32 logits in place of states.
      may_scan: whether the config may have layers in a loop.
    """
    return self.decoder(
      tokens,
      encoded,
      layout,
      cross_layout,
      cache,
      deterministic=deterministic,
      with_logits=with_logits,
      may_scan=may_scan,
    )

  def __call__(
    self,
    encoder_input_tokens: Tokens,
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    decoder_segment_ids: Tokens | None = None,
    encoder_positions: Tokens | None = None,
    decoder_positions: Tokens | None = None,
    *,
    enable_dropout: bool = True,
    decode: bool = False,
  ) -> Float[Array, "batch length vocab"]:
    """Returns float32 logits of the next token at each decoder position.

    Args:
      encoder_input_tokens: the instructions.
      decoder_input_tokens: the answers, shifted right.
      decoder_target_tokens: the answers; only tells padding from tokens.
      encoder_segment_ids: which example of a packed row each token is of.
      decoder_segment_ids: the same for the decoder.
      encoder_positions: unused: T5's positions are index differences.
      decoder_positions: unused.
      enable_dropout: needs an rng named "dropout".
      decode: a step of autoregressive decoding, with a mutable "cache".
    """
    del encoder_positions, decoder_positions
    encoded = self.encode(
      encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
    )
    return self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      enable_dropout=enable_dropout,
      decode=decode,
    )

  def encode(
    self,
    encoder_input_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    enable_dropout: bool = True,
  ) -> Float[Array, "batch length embed"]:
    """Returns `encode_states` of padded or packed rows, T5X's method."""
    return self.encode_states(
      encoder_input_tokens,
      padded_rows(
        encoder_input_tokens,
        encoder_input_tokens,
        encoder_segment_ids,
        encoder_segment_ids,
      ),
      deterministic=not enable_dropout,
      may_scan=False,
    )

  def decode(
    self,
    encoded: Float[Array, "batch length embed"],
    encoder_input_tokens: Tokens,
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    decoder_segment_ids: Tokens | None = None,
    decoder_positions: Tokens | None = None,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
  ) -> Float[Array, "batch length vocab"]:
    """Returns logits of padded or packed rows, T5X's method.

    With `decoder_segment_ids` alone, each segment of a decoder row attends to
    itself and to the whole encoder row: many answers to one instruction.

    Raises:
      ValueError: packed rows cannot be decoded step by step.
    """
    del decoder_positions, max_decode_length
    if decode and encoder_segment_ids is not None:
      raise ValueError("decode=True takes no packed rows (segment ids).")
    # A step's token is never padding, though the first one is 0.
    is_target = (
      jnp.ones_like(decoder_target_tokens) if decode else decoder_target_tokens
    )
    cross_layout = padded_rows(
      is_target,
      encoder_input_tokens,
      decoder_segment_ids,
      encoder_segment_ids,
    )
    options: Any = dict(
      deterministic=not enable_dropout, with_logits=True, may_scan=False
    )
    # T5X's first call with decode, on whole sequences, only shapes the cache.
    is_step = decode and self.has_variable("cache", "cache_index")
    if decode:
      stored, index = self._stored_cache(decoder_target_tokens)
    if not is_step:
      layout = padded_rows(
        decoder_target_tokens,
        decoder_target_tokens,
        decoder_segment_ids,
        decoder_segment_ids,
        is_causal=True,
      )
      return self.decode_states(
        decoder_input_tokens, encoded, layout, cross_layout, **options
      )[0]
    tokens = tuple(
      (of_layer["key"], of_layer["value"])
      for _, of_layer in sorted(stored.value.items())
    )
    layout = NextToken(index.value, length=tokens[0][0].shape[-1])
    logits, cache = self.decode_states(
      decoder_input_tokens,
      encoded,
      layout,
      cross_layout,
      Cache(tokens),
      **options,
    )
    assert cache is not None
    stored.value = _by_layer(cache.tokens)
    index.value += 1
    return logits

  @nn.compact
  def _stored_cache(self, tokens_BxU) -> tuple[Any, Any]:
    """Returns T5X's "cache" variables: keys and values, and the next index."""
    config, (batch, length) = self.config, tokens_BxU.shape

    def zeros():
      one = jnp.zeros(
        (batch, config.num_heads, config.head_dim, length), config.dtype
      )
      return _by_layer(((one, one),) * config.num_decoder_layers)

    index = self.variable("cache", "cache_index", lambda: jnp.int32(0))
    return self.variable("cache", "layers", zeros), index


def _by_layer(tokens: tuple[KeysValues, ...]) -> dict[str, dict[str, Any]]:
  # T5X expands and reorders the leaves of nested dicts, nothing else.
  return {
    f"{number:03d}": {"key": key, "value": value}
    for number, (key, value) in enumerate(tokens)
  }


def output_kernel(config: T5Config, params: Any) -> Float[Array, "embed vocab"]:
  """Returns the float32 matrix from the decoder's states to logits."""
  if config.logits_via_embedding:
    table_VxD = int8.matrix(params["token_embedder"], "embedding", jnp.float32)
    return table_VxD.T * config.emb_dim**-0.5
  return int8.matrix(params["decoder"]["logits_dense"], "kernel", jnp.float32)


def _scan_layers(
  stack: nn.Module,
  layer: type[nn.Module],
  deterministic: bool,
  x: jax.Array,
  *inputs: Any,
) -> jax.Array:
  """Returns the residual stream after all layers, one compiled for all.

  The stack's parameters are those of its layers apart, or stacked as one.
  """
  config: T5Config = getattr(stack, "config")  # noqa: B009
  params, name = stack.variables["params"], str(stack.name)
  has_parts = parts.are_parts()
  path = (name, stacking.STACKED)
  of_layers = params.get(stacking.STACKED)
  if is_apart := of_layers is None:
    path = (name, "layers_0")
    if not has_parts and not int8.is_int8(params):
      # Every layer casts its weights to it: half the copy is enough.
      params = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
    of_layers = stacking.stack_layers({name: params})[name][stacking.STACKED]
  key = None
  if not deterministic and config.dropout_rate > 0:
    key = stack.make_rng("dropout")
  one = layer(config, deterministic, parent=None)

  def step(x: jax.Array, of_layer: Any) -> tuple[jax.Array, None]:
    part, number = of_layer
    whole = parts.gathered(
      part, *path, dtype=config.dtype, stacked=not is_apart
    )
    rngs = None
    if key is not None:
      rngs = {"dropout": jax.random.fold_in(key, number)}
    y: Any = one.apply({"params": whole}, x, *inputs, rngs=rngs)
    return y[0] if isinstance(y, tuple) else y, None

  if config.remat_policy != "none" or has_parts:
    policy = _policy(config)
    step = jax.checkpoint(step, policy=policy, prevent_cse=False)
  count = len(jax.tree.leaves(of_layers)[0])
  return jax.lax.scan(step, x, (of_layers, jnp.arange(count)))[0]


def _with_remat(
  layer: type[nn.Module], config: T5Config, stack: str
) -> type[nn.Module]:
  """Returns the layer as it is differentiated, of parts where there are."""
  has_parts = parts.are_parts()
  if has_parts:
    layer = nn.map_variables(
      layer,
      "params",
      lambda params: {
        "params": parts.gathered(
          params["params"], stack, "layers_0", dtype=config.dtype
        )
      },
    )
  if config.remat_policy == "none" and not has_parts:
    return layer
  return nn.remat(layer, policy=_policy(config), prevent_cse=True)


def _policy(config: T5Config) -> Any:
  policies = jax.checkpoint_policies
  return {
    # What was gathered is gathered again, not kept.
    "none": policies.save_anything_except_these_names(parts.GATHERED),
    "minimal": policies.checkpoint_dots_with_no_batch_dims,
    "full": None,
  }[config.remat_policy]
