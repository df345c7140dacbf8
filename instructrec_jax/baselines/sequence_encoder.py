"""The transformer over item tokens that SASRec and BERT4Rec share.

B: rows, L: tokens a row, D: width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

_INIT = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """An encoder's sizes.

  Attributes:
    tokens: size of the table: padding, the items, and a mask if there is one.
    max_length: the longest history.
    causal: tokens attend to earlier ones only.
    width: of the tokens, D.
    layers: of attention and feed-forward.
    heads: of the attention; they divide the width.
    dropout: rate after every layer, in training.
  """

  tokens: int
  max_length: int
  causal: bool
  width: int = 64
  layers: int = 2
  heads: int = 2
  dropout: float = 0.5


class SequenceEncoder(nn.Module):
  """Encodes histories; the embedding table is also the output layer.

  Positions (the parameter `places`) are counted from a history's end, so that
  the length of the row makes no difference.
  """

  config: EncoderConfig

  def setup(self):
    """Declares the parameters."""
    config = self.config
    self.table = self.param("table", _INIT, (config.tokens, config.width))
    self.bias = self.param("bias", nn.initializers.zeros, (config.tokens,))
    self.places = self.param("places", _INIT, (config.max_length, config.width))
    self.blocks = [Block(config) for _ in range(config.layers)]
    self.first_norm = nn.LayerNorm()
    self.last_norm = nn.LayerNorm()
    self.dropout = nn.Dropout(config.dropout)

  def __call__(
    self,
    tokens_BxL: Int[Array, "B L"],
    segments_BxL: Int[Array, "B L"],
    distances_BxL: Int[Array, "B L"],
    *,
    training: bool = False,
  ) -> Float[Array, "B L D"]:
    """Returns each position's hidden state.

    Args:
      tokens_BxL: item number + 1, 0 for padding.
      segments_BxL: tokens attend to those of the same number only.
      distances_BxL: how many tokens of the same history follow.
      training: apply dropout; needs the random stream "dropout".
    """
    fixed = not training
    x_BxLxD = self.table[tokens_BxL] + self.places[distances_BxL]
    x_BxLxD = self.dropout(self.first_norm(x_BxLxD), deterministic=fixed)
    mask_BxLxL = segments_BxL[:, :, None] == segments_BxL[:, None, :]
    if self.config.causal:
      mask_BxLxL &= jnp.tri(tokens_BxL.shape[1], dtype=bool)
    for block in self.blocks:
      x_BxLxD = block(x_BxLxD, mask_BxLxL[:, None], fixed=fixed)
    return self.last_norm(x_BxLxD)

  def last(self, tokens_BxL: Int[Array, "B L"]) -> Float[Array, "B D"]:
    """Returns the hidden state at the end of left-padded rows.

    Args:
      tokens_BxL: one history a row.
    """
    length = tokens_BxL.shape[1]
    distances_BxL = jnp.broadcast_to(jnp.arange(length)[::-1], tokens_BxL.shape)
    segments_BxL = (tokens_BxL > 0).astype(jnp.int32)
    return self(tokens_BxL, segments_BxL, distances_BxL)[:, -1]


class Block(nn.Module):
  """Self-attention and feed-forward with residual connections."""

  config: EncoderConfig

  @nn.compact
  def __call__(
    self,
    x_BxLxD: Float[Array, "B L D"],
    mask_Bx1xLxL: Array,
    *,
    fixed: bool,
  ) -> Float[Array, "B L D"]:
    config = self.config
    dropout = nn.Dropout(config.dropout, deterministic=fixed)
    attention = nn.MultiHeadDotProductAttention(
      config.heads,
      dropout_rate=config.dropout,
      deterministic=fixed,
      kernel_init=_INIT,
    )
    normed = nn.LayerNorm()(x_BxLxD)
    x_BxLxD += dropout(attention(normed, mask=mask_Bx1xLxL))
    hidden = nn.Dense(4 * config.width, kernel_init=_INIT)(
      nn.LayerNorm()(x_BxLxD)
    )
    out = nn.Dense(config.width, kernel_init=_INIT)(jax.nn.gelu(hidden))
    return x_BxLxD + dropout(out)
