"""The two-tower baselines: DSSM, TEM and a matcher of histories and items.

The names of submodules and parameters are those of kept weights, and part of
what flax derives initial values from.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from instructrec_jax.baselines.searches import Searches
from instructrec_jax.baselines.tower_layers import (
  INIT,
  ItemEncoder,
  Perceptron,
  Queries,
  SequenceTower,
  Sizes,
  TextEncoder,
  unit,
)
from instructrec_jax.baselines.tower_ranker import TowerOptions, TowerRanker
from instructrec_jax.data.folder import DatasetFolder

# DSSM's gamma, by which the cosine is multiplied.
_SCALE = 30.0


class DSSMTowers(nn.Module):
  """Query and title, compared by cosine; both towers share word vectors."""

  sizes: Sizes
  options: TowerOptions

  def setup(self):
    """Declares the parameters."""
    width, dropout = self.options.width, self.options.dropout
    self.text = TextEncoder(self.sizes.words, width)
    self.asked = Perceptron(width, dropout)
    self.offered = Perceptron(width, dropout)

  def queries(
    self, queries: Queries, item_text: Num[Array, "I L"], training: bool = False
  ) -> Float[Array, "B D"]:
    """Encodes queries; see `TowerRanker.towers`."""
    del item_text
    vectors_BxD = self.asked(self.text(queries.text), training=training)
    return _SCALE * unit(vectors_BxD)

  def items(
    self,
    items: Int[Array, " B"],
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Encodes items; see `TowerRanker.towers`."""
    vectors_BxD = self.offered(self.text(item_text[items]), training=training)
    return unit(vectors_BxD), jnp.zeros(len(items))


class DSSMRanker(TowerRanker):
  """DSSM (Huang et al., 2013), the paper's baseline of Table 8.

  It compares the query with the title, and reads nothing of the user.
  """

  name = "dssm"
  towers = DSSMTowers


class TEMTowers(nn.Module):
  """Attends from the query to the history, as far as it is relevant."""

  sizes: Sizes
  options: TowerOptions

  def setup(self):
    """Declares the parameters."""
    sizes, options = self.sizes, self.options
    width = options.width
    self.text = TextEncoder(sizes.words, width)
    self.asked = Perceptron(width, options.dropout)
    self.offered = ItemEncoder(self.text, sizes.items, width, options.dropout)
    self.ordered = SequenceTower(
      options.history + 1, width, options.layers, options.dropout
    )

  def queries(
    self, queries: Queries, item_text: Num[Array, "I L"], training: bool = False
  ) -> Float[Array, "B D"]:
    """Encodes queries; see `TowerRanker.towers`."""
    asked_BxD = self.asked(self.text(queries.text), training=training)
    history_BxH = queries.history
    bought, _ = self.offered(
      history_BxH.reshape(-1), item_text, training=training
    )
    bought_BxHxD = bought.reshape(*history_BxH.shape, -1)
    x_BxLxD = jnp.concatenate([bought_BxHxD, asked_BxD[:, None]], axis=1)
    mask_BxL = jnp.pad(history_BxH > 0, ((0, 0), (0, 1)), constant_values=True)
    return self.ordered(x_BxLxD, mask_BxL, training=training)

  def items(
    self,
    items: Int[Array, " B"],
    item_text: Num[Array, "I L"],
    training: bool = False,
  ) -> tuple[Float[Array, "B D"], Float[Array, " B"]]:
    """Encodes items; see `TowerRanker.towers`."""
    return self.offered(items + 1, item_text, training=training)


class TEMRanker(TowerRanker):
  """TEM (Bi et al., 2020), the paper's baseline of Table 7.

  A transformer over the query and the history. As published, items are learned
  from their reviews' words as well; here from their titles', which is what the
  other rankers read of them.
  """

  name = "tem"
  towers = TEMTowers


class TwoTowers(nn.Module):
  """User and history against item and title.

  A history is what a transformer makes of its items' numbers, and the mean of
  the items with their titles, weighted by recency (paper section 3.3.1).
  """

  sizes: Sizes
  options: TowerOptions

  def setup(self):
    """Declares the parameters."""
    sizes, options = self.sizes, self.options
    width = options.width
    self.offered = ItemEncoder(
      TextEncoder(sizes.words, width), sizes.items, width, options.dropout
    )
    self.ordered = SequenceTower(
      options.history, width, options.layers, options.dropout
    )
    self.joined = nn.Dense(width)
    self.asked = Perceptron(width, options.dropout)
    # User 0 is unknown.
    self.user_ids = self.param("user_ids", INIT, (sizes.users + 1, width))
    self.ages = self.param("ages", nn.initializers.zeros, (options.history,))

  def queries(
    self, queries: Queries, item_text: Num[Array, "I L"], training: bool = False
  ) -> Float[Array, "B D"]:
    """Encodes queries; see `TowerRanker.towers`."""
    history_BxH = queries.history
    mask_BxH = history_BxH > 0
    bought, _ = self.offered(
      history_BxH.reshape(-1), item_text, training=training
    )
    bought_BxHxD = bought.reshape(*history_BxH.shape, -1)
    weights_BxH = jnp.where(mask_BxH, jnp.exp(self.ages), 0.0)
    weights_BxH /= weights_BxH.sum(1, keepdims=True) + 1e-6
    joined_BxD = self.joined(
      jnp.concatenate(
        [
          self.user_ids[queries.user],
          self.ordered(
            self.offered.ids[history_BxH], mask_BxH, training=training
          ),
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
    """Encodes items; see `TowerRanker.towers`."""
    return self.offered(items + 1, item_text, training=training)


class TwoTowerRanker(TowerRanker):
  """The matcher of the paper's hard negatives (section 3.3.1).

  It learns which item users bought next, after histories of any length.
  """

  name = "two_tower"
  towers = TwoTowers

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
