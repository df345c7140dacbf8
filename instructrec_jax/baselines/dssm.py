"""DSSM (Huang et al., 2013): a query beside a title, word for word."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from instructrec_jax.baselines.tower_layers import (
  Perceptron,
  Questions,
  Sizes,
  TextEncoder,
  unit,
)
from instructrec_jax.baselines.tower_options import TowerOptions
from instructrec_jax.baselines.tower_ranker import TowerRanker

# What a cosine is multiplied with, DSSM's gamma.
_SCALE = 30.0


class DSSMTowers(nn.Module):
  """Both towers begin with the same words' vectors."""

  words: int
  width: int
  dropout: float

  def setup(self):
    """Declares the parameters."""
    self.text = TextEncoder(self.words, self.width)
    self.asked = Perceptron(self.width, self.dropout)
    self.offered = Perceptron(self.width, self.dropout)

  def questions(
    self,
    questions: Questions,
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> Float[Array, "B D"]:
    """Returns what is asked; see `TowerRanker.towers`."""
    del item_text
    asked_BxD = self.asked(self.text(questions.text), training=training)
    return _SCALE * unit(asked_BxD)

  def items(
    self,
    items: Int[Array, " B"],
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Returns what is offered; see `TowerRanker.towers`."""
    offered_BxD = self.offered(self.text(item_text[items]), training=training)
    return unit(offered_BxD), jnp.zeros(len(items))


class DSSMRanker(TowerRanker):
  """Compares the query with the title: the paper's baseline of Table 8.

  It knows nothing of users, and reads searches alone.
  """

  name = "dssm"

  @staticmethod
  def towers(sizes: Sizes, options: TowerOptions) -> DSSMTowers:
    """Returns the towers; see `TowerRanker.towers`."""
    return DSSMTowers(sizes.words, options.width, options.dropout)
