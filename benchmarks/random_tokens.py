"""Texts of random tokens: no dataset and no vocabulary are needed."""

import numpy as np
from sizes import VOCABULARY

from instructrec_jax.records import RankingRequest


class Numbers:
  """A vocabulary whose texts are their ids."""

  path = "numbers"
  model_vocab_size = VOCABULARY

  def encode_one(self, text: str) -> list[int]:
    """Returns the ids that a text spells."""
    return list(map(int, text.split()))


def draw_requests(
  count: int, candidates: int, seed: int
) -> list[RankingRequest]:
  """Draws instructions of 108 to 400 tokens and titles of 5 to 24."""
  rng = np.random.default_rng(seed)

  def text(length: int) -> str:
    return " ".join(map(str, rng.integers(3, VOCABULARY, length)))

  # Without the end of sequence.
  titles = rng.normal(12, 4, (count, candidates)).round().clip(4, 23)
  return [
    RankingRequest(
      request_id=str(number),
      instruction=text(int(rng.integers(107, 400))),
      candidates=tuple(text(int(n)) for n in titles[number]),
    )
    for number in range(count)
  ]
