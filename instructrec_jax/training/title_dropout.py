"""Leaving titles out of histories at random, anew each time a row is read.

Who reads the same history twice learns it by heart. A recommender is better
kept from it by dropping what it reads (Liang et al., "Variational autoencoders
for collaborative filtering", 2018) than by dropping activations: any part of a
history then has to tell what follows. Left-out tokens are not computed.

Key to shapes. B: rows of a batch, T: tokens of a row.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool

from instructrec_jax.errors import InputError, check_numbers
from instructrec_jax.text.features import positions
from instructrec_jax.text.packed_dataset import SEPARATOR_KEY, PackedDataset
from instructrec_jax.text.vocabulary import EOS_ID, UNK_ID


@dataclasses.dataclass(frozen=True)
class TitleDropout:
  """Drops each title of a batch's instructions with a probability.

  Of rows that are histories alone, whatever stands between separators is a
  title. Of others it is a piece of several words wherever it is shown: in a
  history, or in a list of candidates.

  Attributes:
    rate: the probability.
    separator: the token between titles, of histories alone.
    is_title_V: which tokens are titles, of other rows.
    seed: with the step's number, of what is dropped.
  """

  rate: float
  separator: int | None
  is_title_V: Bool[np.ndarray, " vocab"] | None
  seed: int

  @classmethod
  def of(
    cls, data: PackedDataset, *, rate: float, seed: int
  ) -> "TitleDropout | None":
    """Returns the dropout for packed rows; none for a rate of 0.

    Raises:
      InputError: the rate is not from 0 to below 1, or the rows' vocabulary
        has no token between titles, or, unless they are histories alone, no
        titles that are one piece.
    """
    check_numbers(most=1 - 1e-6, title_dropout=rate)
    if not rate:
      return None
    vocabulary = data.vocabulary
    separator = data.manifest.get(SEPARATOR_KEY)
    if not isinstance(separator, str):
      is_title = vocabulary.is_phrase_V
      if not is_title.any():
        raise InputError(
          f"{data.path}: TITLE_DROPOUT leaves titles out, and these rows are "
          "neither known to be histories alone nor have titles that are one "
          "piece: run `instructrec build --pieces whole-titles`, or bind "
          "TITLE_DROPOUT to 0."
        )
      return cls(rate, None, is_title, seed)
    alone, followed = (
      vocabulary.encode_one(text) for text in ("a", f"a{separator}a")
    )
    is_alone = len(followed) == 2 * len(alone) + 1
    if not is_alone or UNK_ID in followed:
      raise InputError(
        f"{data.path}: TITLE_DROPOUT needs a vocabulary with {separator!r} as "
        "a token of its own: build it with --pieces titles, or bind "
        "TITLE_DROPOUT to 0."
      )
    return cls(rate, followed[len(alone)], None, seed)

  def batch(
    self, batch: dict[str, np.ndarray], *, step: int, rows: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns T5X's features of a batch with fewer tokens in the encoder.

    Args:
      batch: of `PackedDataset.batch`, [B, T] each.
      step: of training.
      rows: [B], each one's place in the batch of all processes.
    """
    tokens_BxT = batch["encoder_input_tokens"]
    segments_BxT = batch["encoder_segment_ids"]
    begins_BxT = np.ones(tokens_BxT.shape, bool)
    may_go_BxT = tokens_BxT != EOS_ID
    if self.is_title_V is not None:
      may_go_BxT = self.is_title_V[tokens_BxT]
    else:
      begins_BxT[:, 1:] = (tokens_BxT[:, :-1] == self.separator) | (
        segments_BxT[:, 1:] != segments_BxT[:, :-1]
      )
    title_BxT = begins_BxT.cumsum(axis=1) - 1
    # For all rows of the step, so that processes agree whoever reads which.
    rng = np.random.default_rng((self.seed, step))
    draws = rng.random((rows.max() + 1, tokens_BxT.shape[1]))[rows]
    is_kept_BxT = np.take_along_axis(draws >= self.rate, title_BxT, axis=1)
    is_kept_BxT |= ~may_go_BxT
    # Padding stays behind what is left.
    order_BxT = np.argsort(~is_kept_BxT | (tokens_BxT == 0), 1, kind="stable")
    is_kept_BxT = np.take_along_axis(is_kept_BxT, order_BxT, axis=1)
    kept = {}
    for name in ("encoder_input_tokens", "encoder_segment_ids"):
      kept[name] = np.take_along_axis(batch[name], order_BxT, axis=1)
      kept[name] = np.where(is_kept_BxT, kept[name], 0)
    kept["encoder_positions"] = positions(kept["encoder_segment_ids"])
    return batch | kept
