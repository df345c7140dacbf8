"""The matcher whose items are the paper's hard negatives (section 3.3.1).

One tower has the user, the items of the history and their titles, the other the
item and its title.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from instructrec_jax.baselines.searches import Searches
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
from instructrec_jax.data.folder import DatasetFolder


class TwoTowers(nn.Module):
  """A history is a mean of its items, weighted by how long ago they were."""

  sizes: Sizes
  options: TowerOptions

  def setup(self):
    """Declares the parameters."""
    sizes, options = self.sizes, self.options
    width = options.width
    self.offered = ItemEncoder(
      TextEncoder(sizes.words, width), sizes.items, width, options.dropout
    )
    self.joined = nn.Dense(width)
    self.asked = Perceptron(width, options.dropout)
    # User 0 is nobody.
    self.user_ids = self.param("user_ids", INIT, (sizes.users + 1, width))
    self.ages = self.param("ages", nn.initializers.zeros, (options.history,))

  def questions(
    self,
    questions: Questions,
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> Float[Array, "B D"]:
    """Returns what is asked; see `TowerRanker.towers`."""
    history_BxH = questions.history
    there_BxH = history_BxH > 0
    bought, _ = self.offered(
      history_BxH.reshape(-1), item_text, training=training
    )
    bought_BxHxD = bought.reshape(*history_BxH.shape, -1)
    weights_BxH = jnp.where(there_BxH, jnp.exp(self.ages), 0.0)
    weights_BxH /= weights_BxH.sum(1, keepdims=True) + 1e-6
    joined_BxD = self.joined(
      jnp.concatenate(
        [
          self.user_ids[questions.user],
          jnp.einsum("bh,bhd->bd", weights_BxH, bought_BxHxD),
          bought_BxHxD[:, -1],
        ],
        axis=1,
      )
    )
    return self.asked(joined_BxD, training=training)

  def items(
    self,
    items: Int[Array, " B"],
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Returns what is offered; see `TowerRanker.towers`."""
    return self.offered(items + 1, item_text, training=training)


class TwoTowerRanker(TowerRanker):
  """Learns what users bought next, of any length of history."""

  name = "two_tower"

  @classmethod
  def fit(
    cls, folder: DatasetFolder, options: TowerOptions | None = None
  ) -> "TwoTowerRanker":
    """Returns a ranker trained on a folder's training interactions.

    Raises:
      InputError: there is nothing to train or to validate on.
    """
    splits, sequences = folder.splits, folder.sequences
    return cls.fit_searches(
      folder,
      training=Searches.of_targets(splits.training, sequences),
      validation=Searches.of_targets(splits.validation, sequences),
      options=options,
    )

  @staticmethod
  def towers(sizes: Sizes, options: TowerOptions) -> TwoTowers:
    """Returns the towers; see `TowerRanker.towers`."""
    return TwoTowers(sizes, options)
