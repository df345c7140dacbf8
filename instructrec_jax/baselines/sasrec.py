"""SASRec (Kang and McAuley, 2018): each item of a history tells the next."""

import numpy as np

from instructrec_jax.baselines.sequence_batches import Example
from instructrec_jax.baselines.sequence_ranker import SequenceRanker


class SASRecRanker(SequenceRanker):
  """A causal transformer over item numbers.

  Its loss is cross-entropy over all items, with which it is far better than
  with one negative an item, as published; `loss="bce"` is that.
  """

  name = "sasrec"
  causal = True

  def question(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the history: its last token tells what follows."""
    return tokens

  def example(self, tokens: np.ndarray, rng: np.random.Generator) -> Example:
    """Returns all but the last token, each of which tells the next."""
    recent = tokens[-self.length - 1 :]
    return Example(recent[:-1], recent[1:])
