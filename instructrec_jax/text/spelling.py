"""Spelling pieces of several words in single words, at random.

Where whole titles are pieces, words are read and written only in titles that
are new, or in wishes. A model that has met titles in both forms knows how they
go together: subword regularisation, as in Kudo (2018) and BPE-dropout
(Provilkov et al., 2020), for the pieces that cross words alone.
"""

import functools
from collections.abc import Sequence

import numpy as np

from instructrec_jax.errors import check_numbers, check_seed
from instructrec_jax.text.vocabulary import Vocabulary


class Spelling:
  """Spells each piece of several words with a probability."""

  def __init__(self, vocabulary: Vocabulary, *, rate: float, seed: int):
    """Takes the probability, from 0 to 1, and the seed of what is spelled.

    Raises:
      InputError: one of them is no such number.
    """
    check_numbers(most=1, spell=rate)
    check_seed(seed)
    self._vocabulary = vocabulary
    self._rate = rate
    self._rng = np.random.default_rng((seed, 1))
    self._words = functools.lru_cache(maxsize=None)(self._spelled)

  def __call__(self, ids: Sequence[int]) -> list[int]:
    """Returns a text's ids with some of its long pieces spelled."""
    spelled: list[int] = []
    for piece in ids:
      words = self._words(piece)
      is_spelled = len(words) > 1 and self._rng.random() < self._rate
      spelled += words if is_spelled else (piece,)
    return spelled

  def _spelled(self, piece: int) -> tuple[int, ...]:
    """Returns a piece's words' ids; itself if it is no more than one word.

    Or if they are not the same text wherever it stands, as of one that begins
    or ends within a word, or has a letter that is unknown by itself.
    """
    text = self._vocabulary.decode([piece])
    if len(text.split()) < 2:
      return (piece,)
    words = self._vocabulary.spell(text)
    pieces = self._vocabulary.pieces
    return tuple(words) if pieces(words) == pieces([piece]) else (piece,)
