"""Candidates by letter: the answer is one token, not a title.

The instruction's list of candidates is lettered and the letters are scored. For
models that were taught so, such as Flan-T5 on multiple choice; a model of this
package's templates answers with titles.
"""

import dataclasses
import string
from collections.abc import Sequence

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.records import Ranker, RankingRequest

LABELS = string.ascii_uppercase


class LabelRanker:
  """Scores the letters of candidates in place of their titles."""

  def __init__(self, ranker: Ranker):
    """Takes the ranker that scores letters, as `T5Ranker`."""
    self._ranker = ranker

  @property
  def name(self) -> str:
    """How tables call this ranker."""
    return f"{self._ranker.name} (labels)"

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns the log-likelihood of each candidate's letter.

    Raises:
      InputError: a request's instruction does not list its candidates, or has
        more of them than there are letters.
    """
    return self._ranker.score(list(map(lettered, requests)))


def lettered(request: RankingRequest) -> RankingRequest:
  """Returns the request with letters as its candidates.

  Raises:
    InputError: see `LabelRanker.score`.
  """
  titles = request.candidates
  if len(titles) > len(LABELS):
    raise InputError(
      f"request {request.request_id}: {len(titles)} candidates; there are "
      f"letters for {len(LABELS)}."
    )
  before, found, after = request.instruction.partition(SEPARATOR.join(titles))
  if not found:
    raise InputError(
      f"request {request.request_id}: its instruction does not list its "
      "candidates, so that they cannot be lettered: ask with a T3 template."
    )
  labels = tuple(LABELS[: len(titles)])
  listed = SEPARATOR.join(map(": ".join, zip(labels, titles, strict=True)))
  return dataclasses.replace(
    request, instruction=before + listed + after, candidates=labels
  )
