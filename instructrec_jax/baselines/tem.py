"""TEM (Bi et al., 2020): a transformer over the query and the history."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from instructrec_jax.baselines.sequence_encoder import Block, EncoderConfig
from instructrec_jax.baselines.tower_layers import (
  INIT,
  ItemEncoder,
  Perceptron,
  Questions,
  Sizes,
  TextEncoder,
)
from instructrec_jax.baselines.tower_options import TowerOptions
from instructrec_jax.baselines.tower_ranker import TowerRanker


class TEMTowers(nn.Module):
  """How much of the history matters is for the query to tell."""

  sizes: Sizes
  options: TowerOptions

  def setup(self):
    """Declares the parameters."""
    sizes, options = self.sizes, self.options
    width = options.width
    self.text = TextEncoder(sizes.words, width)
    self.asked = Perceptron(width, options.dropout)
    self.offered = ItemEncoder(self.text, sizes.items, width, options.dropout)
    self.places = self.param("places", INIT, (options.history + 1, width))
    config = EncoderConfig(
      tokens=sizes.items + 1,
      max_length=options.history + 1,
      causal=False,
      width=width,
      dropout=options.dropout,
    )
    self.blocks = [Block(config) for _ in range(config.layers)]
    self.first_norm = nn.LayerNorm()
    self.last_norm = nn.LayerNorm()

  def questions(
    self,
    questions: Questions,
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> Float[Array, "B D"]:
    """Returns what is asked; see `TowerRanker.towers`."""
    asked_BxD = self.asked(self.text(questions.text), training=training)
    history_BxH = questions.history
    bought, _ = self.offered(
      history_BxH.reshape(-1), item_text, training=training
    )
    bought_BxHxD = bought.reshape(*history_BxH.shape, -1)
    x_BxLxD = jnp.concatenate([bought_BxHxD, asked_BxD[:, None]], axis=1)
    there_BxL = jnp.pad(history_BxH > 0, ((0, 0), (0, 1)), constant_values=True)
    x_BxLxD = self.first_norm(x_BxLxD + self.places)
    sees_BxLxL = there_BxL[:, None, None, :]
    for block in self.blocks:
      x_BxLxD = block(x_BxLxD, sees_BxLxL, fixed=not training)
    return self.last_norm(x_BxLxD[:, -1])

  def items(
    self,
    items: Int[Array, " B"],
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Returns what is offered; see `TowerRanker.towers`."""
    return self.offered(items + 1, item_text, training=training)


class TEMRanker(TowerRanker):
  """Personalises a search by the history: the paper's baseline of Table 7.

  As published, items are learned from their reviews' words as well; here, from
  their titles', which is what the other rankers see of them.
  """

  name = "tem"

  @staticmethod
  def towers(sizes: Sizes, options: TowerOptions) -> TEMTowers:
    """Returns the towers; see `TowerRanker.towers`."""
    return TEMTowers(sizes, options)
