"""T5 1.1 in flax linen; T5X's trainer can bind this class as it stands.

Parameter tree, `params_axes`, argument names and the methods `encode` and
`decode` are those of T5X's `examples/t5/network.py`. Beyond it there is
`decode_hidden`, which stops before the output layer, so that losses and scores
can go through the vocabulary in chunks.

Key to shapes. B: batch, T: encoder length, U: decoder length, D: emb_dim,
V: vocabulary. Token 0 is padding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from instructrec_jax.seq2seq import layers
from instructrec_jax.seq2seq.attention import (
  MASKED,
  Attention,
  RelativePositionBias,
)
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.segments import Segments

Tokens = Int[Array, "batch length"]


class EncoderLayer(nn.Module):
  """Self-attention and feed-forward, each normed and added back."""

  config: T5Config
  deterministic: bool

  @nn.compact
  def __call__(self, x_BxTxD, mask, bias, rows=None):
    """Returns the residual stream after one layer; see `Attention` of rows."""
    config = self.config
    y = layers.RMSNorm(config.dtype, name="pre_attention_layer_norm")(x_BxTxD)
    y = Attention(config, self.deterministic, name="attention")(
      y, y, mask=mask, bias=bias, rows=rows
    )
    x_BxTxD += _dropout(config, y, self.deterministic, rows)
    y = layers.RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x_BxTxD)
    y = layers.Mlp(config, self.deterministic, name="mlp")(y, rows)
    return x_BxTxD + _dropout(config, y, self.deterministic, rows)


class DecoderLayer(nn.Module):
  """Causal self-attention, attention to the encoder, and feed-forward."""

  config: T5Config
  deterministic: bool
  decode: bool

  @nn.compact
  def __call__(
    self,
    x_BxUxD,
    encoded_BxTxD,
    mask,
    bias,
    cross_mask,
    rows=None,
    cross_rows=None,
  ):
    """Returns the residual stream after one layer; see `Attention` of rows."""
    config = self.config
    y = layers.RMSNorm(config.dtype, name="pre_self_attention_layer_norm")(
      x_BxUxD
    )
    y = Attention(
      config, self.deterministic, self.decode, name="self_attention"
    )(y, y, mask=mask, bias=bias, rows=rows)
    x_BxUxD += _dropout(config, y, self.deterministic, rows)
    y = layers.RMSNorm(config.dtype, name="pre_cross_attention_layer_norm")(
      x_BxUxD
    )
    y = Attention(config, self.deterministic, name="encoder_decoder_attention")(
      y, encoded_BxTxD, mask=cross_mask, rows=cross_rows
    )
    x_BxUxD += _dropout(config, y, self.deterministic, rows)
    y = layers.RMSNorm(config.dtype, name="pre_mlp_layer_norm")(x_BxUxD)
    y = layers.Mlp(config, self.deterministic, name="mlp")(y, rows)
    return x_BxUxD + _dropout(config, y, self.deterministic, rows)


class Encoder(nn.Module):
  """The stack that reads the instruction."""

  config: T5Config
  embed: nn.Module

  @nn.compact
  def __call__(
    self,
    tokens_BxT,
    mask,
    *,
    deterministic: bool,
    segments: Segments | None = None,
  ):
    """Returns normed states [batch, length, embed]."""
    config = self.config
    length = tokens_BxT.shape[-1]
    if segments is not None:
      length = segments.blocks[-1][0]
    bias = RelativePositionBias(config, bidirectional=True, name="relpos_bias")(
      length, length
    )
    x = _dropout(config, self.embed(tokens_BxT), deterministic, segments)
    layer = _with_remat(EncoderLayer, config)
    for number in range(config.num_encoder_layers):
      x = layer(config, deterministic, name=f"layers_{number}")(
        x, mask, bias, segments
      )
    x = layers.RMSNorm(config.dtype, name="encoder_norm")(x)
    return layers.dropout(
      x, config.dropout_rate, deterministic, segments, shared=False
    )


class Decoder(nn.Module):
  """The stack that writes the answer."""

  config: T5Config
  embed: nn.Module

  @nn.compact
  def __call__(
    self,
    encoded_BxTxD,
    tokens_BxU,
    mask,
    cross_mask,
    *,
    deterministic: bool,
    decode: bool,
    max_decode_length: int | None,
    return_hidden: bool,
    segments: Segments | None = None,
    cross_segments: Segments | None = None,
  ):
    """Returns logits in float32, or the normed states before them."""
    config = self.config
    length = tokens_BxU.shape[-1]
    if decode and max_decode_length:
      length = max_decode_length
    if segments is not None:
      length = segments.blocks[-1][0]
    bias = RelativePositionBias(
      config, bidirectional=False, name="relpos_bias"
    )(length, length)
    if segments is not None:
      ahead = jnp.triu(jnp.ones((length, length), bool), 1)
      bias += jnp.where(ahead, jnp.asarray(MASKED, bias.dtype), 0)
    y = _dropout(config, self.embed(tokens_BxU), deterministic, segments)
    layer = _with_remat(DecoderLayer, config)
    for number in range(config.num_decoder_layers):
      y = layer(config, deterministic, decode, name=f"layers_{number}")(
        y, encoded_BxTxD, mask, bias, cross_mask, segments, cross_segments
      )
    y = layers.RMSNorm(config.dtype, name="decoder_norm")(y)
    y = _dropout(config, y, deterministic, segments)
    if return_hidden:
      return y
    if config.logits_via_embedding:
      table_VxD = self.embed.embedding
      return (y.astype(jnp.float32) @ table_VxD.T) * config.emb_dim**-0.5
    return layers.Dense(
      config.vocab_size,
      axes=("embed", "vocab"),
      dtype=jnp.float32,
      name="logits_dense",
    )(y)


class Transformer(nn.Module):
  """The encoder-decoder."""

  config: T5Config

  def setup(self):
    self.token_embedder = layers.Embed(self.config)
    self.encoder = Encoder(self.config, self.token_embedder)
    self.decoder = Decoder(self.config, self.token_embedder)

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
    """Returns the encoder's states of the instructions."""
    real = encoder_input_tokens > 0
    mask = nn.make_attention_mask(real, real)
    if encoder_segment_ids is not None:
      mask *= _same_segment(encoder_segment_ids, encoder_segment_ids)
    return self.encoder(
      encoder_input_tokens, mask, deterministic=not enable_dropout
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
    return_hidden: bool = False,
  ) -> Float[Array, "batch length features"]:
    """Returns logits of the answers, given encoded instructions.

    With `decoder_segment_ids` alone, each segment of a decoder row attends to
    itself and to the whole encoder row: many answers to one instruction.

    Raises:
      ValueError: packed rows cannot be decoded step by step.
    """
    del decoder_positions
    if decode and encoder_segment_ids is not None:
      raise ValueError("decode=True takes no packed rows (segment ids).")
    source = encoder_input_tokens > 0
    if decode:
      mask = None
      cross_mask = nn.make_attention_mask(
        jnp.ones_like(decoder_target_tokens), source
      )
    else:
      real = decoder_target_tokens > 0
      mask = nn.make_causal_mask(decoder_target_tokens)
      mask *= nn.make_attention_mask(real, real)
      cross_mask = nn.make_attention_mask(real, source)
    if decoder_segment_ids is not None and mask is not None:
      mask *= _same_segment(decoder_segment_ids, decoder_segment_ids)
    if encoder_segment_ids is not None:
      cross_mask *= _same_segment(decoder_segment_ids, encoder_segment_ids)
    return self.decoder(
      encoded,
      decoder_input_tokens,
      mask,
      cross_mask,
      deterministic=not enable_dropout,
      decode=decode,
      max_decode_length=max_decode_length,
      return_hidden=return_hidden,
    )

  def decode_hidden(
    self, *args: Any, **kwargs: Any
  ) -> Float[Array, "batch length embed"]:
    """Returns `decode`'s states before the output layer; same arguments."""
    return self.decode(*args, **kwargs, return_hidden=True)

  def hidden(
    self,
    encoder_input_tokens: Tokens,
    decoder_input_tokens: Tokens,
    decoder_target_tokens: Tokens,
    encoder_segment_ids: Tokens | None = None,
    decoder_segment_ids: Tokens | None = None,
    *,
    enable_dropout: bool = True,
  ) -> Float[Array, "batch length embed"]:
    """Returns `__call__`'s states before the output layer."""
    encoded = self.encode(
      encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
    )
    return self.decode_hidden(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      enable_dropout=enable_dropout,
    )

  def hidden_of_flat(
    self,
    encoder_tokens_1xN: Tokens,
    decoder_tokens_1xM: Tokens,
    of_encoder: Segments,
    of_decoder: Segments,
    of_both: Segments,
    *,
    enable_dropout: bool = True,
  ) -> Float[Array, "1 tokens embed"]:
    """Returns `hidden` for the tokens of all rows, end to end."""
    encoded_1xNxD = self.encoder(
      encoder_tokens_1xN,
      None,
      deterministic=not enable_dropout,
      segments=of_encoder,
    )
    return self.decoder(
      encoded_1xNxD,
      decoder_tokens_1xM,
      None,
      None,
      deterministic=not enable_dropout,
      decode=False,
      max_decode_length=None,
      return_hidden=True,
      segments=of_decoder,
      cross_segments=of_both,
    )


def output_kernel(config: T5Config, params: Any) -> Float[Array, "embed vocab"]:
  """Returns the float32 matrix from the decoder's states to logits."""
  if config.logits_via_embedding:
    return params["token_embedder"]["embedding"].T * config.emb_dim**-0.5
  return params["decoder"]["logits_dense"]["kernel"]


def _same_segment(query_BxT, key_BxS):
  return nn.make_attention_mask(query_BxT, key_BxS, jnp.equal)


def _dropout(config: T5Config, x, deterministic: bool, rows=None):
  """Dropout of a residual branch: one mask for all positions, as T5X's."""
  x = layers.dropout(x, config.dropout_rate, deterministic, rows)
  return x.astype(config.dtype)


def _with_remat(layer: type[nn.Module], config: T5Config) -> type[nn.Module]:
  if config.remat_policy == "none":
    return layer
  policy = None
  if config.remat_policy == "minimal":
    policy = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
  return nn.remat(layer, policy=policy, prevent_cse=True)
