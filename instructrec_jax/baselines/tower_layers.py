"""The layers of towers: encoders of texts and items.

B: rows, L: words of a text or the width of its given vector, H: items of a
history, D: width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Num

from instructrec_jax.baselines.sequence_encoder import Block, EncoderConfig

INIT = nn.initializers.normal(0.02)


class Queries(NamedTuple):
  """A batch of B queries; a tower reads those fields that it uses.

  Attributes:
    text: the query as a `TextReader` reads it.
    history: item number + 1, padded with 0 on the left.
    user: user number + 1, 0 if unknown.
  """

  text: Num[Array, "B L"]
  history: Int[Array, "B H"]
  user: Int[Array, " B"]


class Sizes(NamedTuple):
  """The sizes of embedding tables.

  Attributes:
    items: of the catalogue.
    users: of the dataset.
    words: of a `TextReader`'s vocabulary; 0 if it gives vectors.
  """

  items: int
  users: int
  words: int


class TextEncoder(nn.Module):
  """The mean of a text's word vectors, or its given vector projected to D.

  Attributes:
    words: size of the vocabulary; 0 if texts are given as vectors.
    width: D.
  """

  words: int
  width: int

  @nn.compact
  def __call__(self, text_BxL: Num[Array, "B L"]) -> Float[Array, "B D"]:
    """Returns a vector a text; zeros for a text of no known word."""
    if not self.words:
      return nn.Dense(self.width, use_bias=False)(text_BxL)
    shape = (self.words + 1, self.width)
    table = self.param("words", nn.initializers.normal(1.0), shape)
    known_BxL = text_BxL > 0
    vectors_BxLxD = jnp.where(known_BxL[..., None], table[text_BxL], 0.0)
    counts_B = known_BxL.sum(1)
    return vectors_BxLxD.sum(1) / jnp.maximum(counts_B, 1)[:, None]


class Perceptron(nn.Module):
  """A residual hidden layer, initially the identity."""

  width: int
  dropout: float

  @nn.compact
  def __call__(
    self, x_BxD: Float[Array, "B D"], *, training: bool
  ) -> Float[Array, "B D"]:
    """Applies the layer."""
    hidden = nn.Dense(2 * self.width)(nn.LayerNorm()(x_BxD))
    hidden = nn.Dropout(self.dropout, deterministic=not training)(
      jax.nn.gelu(hidden)
    )
    return x_BxD + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(
      hidden
    )


class ItemEncoder(nn.Module):
  """Sums an item's embedding and its title's; new items have a title.

  Attributes:
    text: reads titles.
    items: how many there are; number 0 is padding.
    width: D.
    dropout: in training.
  """

  text: TextEncoder
  items: int
  width: int
  dropout: float

  def setup(self):
    """Declares the parameters."""
    self.said = Perceptron(self.width, self.dropout)
    self.ids = self.param("ids", INIT, (self.items + 1, self.width))
    self.bias = self.param("bias", nn.initializers.zeros, (self.items + 1,))

  def __call__(
    self,
    tokens_B: Int[Array, " B"],
    item_text_IxL: Num[Array, "I L"],
    *,
    training: bool,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Returns the items' vectors and biases.

    Args:
      tokens_B: item number + 1, 0 for padding, whose vector is zeros.
      item_text_IxL: of every title, as a `TextReader` reads it.
      training: apply dropout.
    """
    rows_B = jnp.maximum(tokens_B - 1, 0)
    # Encode the fewer of two: the catalogue's titles, or the batch's.
    if len(item_text_IxL) <= len(tokens_B):
      title_BxD = self._encode(item_text_IxL, training)[rows_B]
    else:
      title_BxD = self._encode(item_text_IxL[rows_B], training)
    vectors_BxD = self.ids[tokens_B] + title_BxD / self.width**0.5
    mask_Bx1 = tokens_B[:, None] > 0
    return jnp.where(mask_Bx1, vectors_BxD, 0.0), self.bias[tokens_B]

  def _encode(
    self, text_NxL: Num[Array, "N L"], training: bool
  ) -> Float[Array, "N D"]:
    return self.said(self.text(text_NxL), training=training)


class SequenceTower(nn.Module):
  """A transformer over a row's vectors; the state of the last one.

  Attributes:
    length: of rows, padding included.
    width: D.
    layers: of attention and feed-forward.
    dropout: in training.
  """

  length: int
  width: int
  layers: int
  dropout: float

  def setup(self):
    """Declares the parameters."""
    self.places = self.param("places", INIT, (self.length, self.width))
    config = EncoderConfig(
      tokens=0,
      max_length=self.length,
      causal=False,
      width=self.width,
      layers=self.layers,
      dropout=self.dropout,
    )
    self.blocks = [Block(config) for _ in range(self.layers)]
    self.first_norm = nn.LayerNorm()
    self.last_norm = nn.LayerNorm()

  def __call__(
    self,
    x_BxLxD: Float[Array, "B L D"],
    mask_BxL: Bool[Array, "B L"],
    *,
    training: bool,
  ) -> Float[Array, "B D"]:
    """Returns the last position's state; the mask is of what is no padding."""
    x_BxLxD = self.first_norm(x_BxLxD + self.places)
    mask_Bx1x1xL = mask_BxL[:, None, None, :]
    for block in self.blocks:
      x_BxLxD = block(x_BxLxD, mask_Bx1x1xL, fixed=not training)
    return self.last_norm(x_BxLxD[:, -1])


def unit(x_BxD: Float[Array, "B D"]) -> Float[Array, "B D"]:
  """Returns vectors of length one; zeros stay zeros."""
  # Under the root: the gradient of a norm at zero is not a number.
  return x_BxD / jnp.sqrt((x_BxD * x_BxD).sum(-1, keepdims=True) + 1e-12)
