"""What towers are built of: how they read texts, and what they make of it.

B: rows, L: words of a text or the width of its given vector, D: width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

INIT = nn.initializers.normal(0.02)


class Questions(NamedTuple):
  """What is asked, B rows; a tower reads of it what it can.

  Attributes:
    text: the query as a `TextReader` reads it.
    history: item number + 1, padded with 0 on the left.
    user: user number + 1, 0 for nobody.
  """

  text: Num[Array, "B L"]
  history: Int[Array, "B H"]
  user: Int[Array, " B"]


class Sizes(NamedTuple):
  """What a pair of towers has numbers for.

  Attributes:
    items: of the catalogue.
    users: of the dataset.
    words: that a `TextReader` knows.
  """

  items: int
  users: int
  words: int


class TextEncoder(nn.Module):
  """The mean of a text's word vectors, or its given vector in the width.

  Attributes:
    words: how many word numbers there are; 0 if texts are given as vectors.
    width: D.
  """

  words: int
  width: int

  @nn.compact
  def __call__(self, text_BxL: Num[Array, "B L"]) -> Float[Array, "B D"]:
    """Returns a vector a text; of no word, zeros."""
    if not self.words:
      return nn.Dense(self.width, use_bias=False)(text_BxL)
    shape = (self.words + 1, self.width)
    table = self.param("words", nn.initializers.normal(1.0), shape)
    known_BxL = text_BxL > 0
    vectors_BxLxD = jnp.where(known_BxL[..., None], table[text_BxL], 0.0)
    counts_B = known_BxL.sum(1)
    return vectors_BxLxD.sum(1) / jnp.maximum(counts_B, 1)[:, None]


class Perceptron(nn.Module):
  """A hidden layer beside a shortcut; at first, only the shortcut."""

  width: int
  dropout: float

  @nn.compact
  def __call__(
    self, x_BxD: Float[Array, "B D"], *, training: bool
  ) -> Float[Array, "B D"]:
    """Returns what the layer makes of vectors."""
    hidden = nn.Dense(2 * self.width)(nn.LayerNorm()(x_BxD))
    hidden = nn.Dropout(self.dropout, deterministic=not training)(
      jax.nn.gelu(hidden)
    )
    return x_BxD + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(
      hidden
    )


class ItemEncoder(nn.Module):
  """An item is itself, and what its title says: new items have a title.

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
      item_text_IxL: what is read of every title.
      training: drop out.
    """
    rows_B = jnp.maximum(tokens_B - 1, 0)
    # Whatever is less to read: each title of the catalogue, or of the batch.
    if len(item_text_IxL) <= len(tokens_B):
      said_BxD = self._read(item_text_IxL, training)[rows_B]
    else:
      said_BxD = self._read(item_text_IxL[rows_B], training)
    vectors_BxD = self.ids[tokens_B] + said_BxD / self.width**0.5
    there_Bx1 = tokens_B[:, None] > 0
    return jnp.where(there_Bx1, vectors_BxD, 0.0), self.bias[tokens_B]

  def _read(
    self, text_NxL: Num[Array, "N L"], training: bool
  ) -> Float[Array, "N D"]:
    return self.said(self.text(text_NxL), training=training)


def unit(x_BxD: Float[Array, "B D"]) -> Float[Array, "B D"]:
  """Returns vectors of length one; zeros stay zeros."""
  # Under the root: the gradient of a norm at zero is not a number.
  return x_BxD / jnp.sqrt((x_BxD * x_BxD).sum(-1, keepdims=True) + 1e-12)
