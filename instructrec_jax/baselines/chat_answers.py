"""What a chat model's list of titles says, read strictly.

A line counts if it is a candidate's title, but for case, white space and a
number or bullet in front. Nothing is guessed: similar titles are as often two
products as one.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from instructrec_jax.teacher.chat import Status

# "1. ", "2) ", "[3] ", "- " and the like.
_NUMBERING = re.compile(r"(?:[-*•]|[(\[]?\d{1,3}[.):\]]+)\s+")


@dataclasses.dataclass(frozen=True)
class RankedAnswer:
  """An answer, as far as it ranks.

  Attributes:
    scores: of the candidates; those that are not named tie below the others.
    status: what came of the request.
    lines: that the answer has.
    illegal: lines that name no candidate.
    duplicates: lines that name a candidate again.
    complete: whether all candidates are named.
  """

  scores: Float[np.ndarray, " candidates"]
  status: Status
  lines: int
  illegal: int
  duplicates: int
  complete: bool


def read_ranking(
  text: str, titles: Sequence[str], *, status: Status
) -> RankedAnswer:
  """Reads an answer; candidates of one title share its place.

  Args:
    text: one title a line, the best first.
    titles: of the candidates.
    status: a refusal names nothing, whatever it says; of an answer that was
      cut off the last line is left out.
  """
  lines = [line for line in map(normalised, text.splitlines()) if line]
  if status is Status.TRUNCATED:
    lines = lines[:-1]
  elif status is not Status.ANSWERED:
    lines = []
  known = [normalised(title) for title in titles]
  places: dict[str, int] = {}
  illegal = duplicates = 0
  for line in lines:
    # As it stands first: titles may begin with a number.
    named = line if line in known else _NUMBERING.sub("", line, count=1)
    if named not in known:
      illegal += 1
    elif named in places:
      duplicates += 1
    else:
      places[named] = len(places)
  scores = [-float(places.get(title, len(titles))) for title in known]
  return RankedAnswer(
    scores=np.array(scores),
    status=status,
    lines=len(lines),
    illegal=illegal,
    duplicates=duplicates,
    complete=len(places) == len(set(known)),
  )


def normalised(title: str) -> str:
  """Returns a title without differences of case and white space."""
  return " ".join(title.split()).casefold()
