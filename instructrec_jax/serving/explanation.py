"""Feature attribution by occlusion: the words and titles that weigh most.

Each part of the user's input (a word of a text, a title of the history) is left
out in turn, the same template is filled with the rest, and all candidates are
scored again. A part's weight is the drop in the best candidate's log-odds
against the other candidates, in nats: positive if the part speaks for it,
negative if against. It describes the model's output, not its reasons: redundant
words each get little weight, and a text's only word cannot be left out.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.instructions.compose import Composed
from instructrec_jax.instructions.recommend import (
  Ranked,
  Recommendation,
  ranked,
  ranking_request,
)
from instructrec_jax.instructions.render import (
  SEPARATOR,
  Slots,
  plain_words,
  render,
)
from instructrec_jax.records import Ranker

# Parts to leave out, about: each costs another scoring of all candidates, so
# longer inputs lose several neighbouring words at a time.
MAX_PARTS = 24
_TEXTS = ("query", "preference", "context")


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
  """The effect of a part of the instruction on the best candidate.

  Attributes:
    slot: of the template: "query", "preference", "context" or "history".
    text: the word or title, or several neighbours.
    weight: log-odds, in nats, that the best candidate loses without it.
  """

  slot: str
  text: str
  weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
  """A ranking, and the parts of the instruction that it depends on most.

  Attributes:
    recommendation: the instruction, its template and every candidate's score.
    weights: the parts of the largest absolute weight, in decreasing order.
  """

  recommendation: Recommendation
  weights: tuple[Weight, ...]

  @property
  def ranking(self) -> tuple[Ranked, ...]:
    """The candidates, the best first."""
    return self.recommendation.ranking

  def to_json(self) -> dict[str, Any]:
    """Returns it in JSON's types."""
    weights = [dataclasses.asdict(weight) for weight in self.weights]
    return {**self.recommendation.to_json(), "weights": weights}


def explain(
  composed: Composed,
  ranker: Ranker,
  *,
  count_tokens: Callable[[str], int],
  budget: int = 512,
  words: int = 8,
) -> Explanation:
  """Ranks the candidates with and without each part of the instruction.

  Args:
    composed: an instruction with candidates.
    ranker: one whose scores are log-likelihoods.
    count_tokens: counts with the ranker's vocabulary.
    budget: the encoder's length in tokens.
    words: how many parts to return.

  Raises:
    InputError: fewer than two candidates, or `words` is below 1.
  """
  titles = composed.candidates
  if len(titles) < 2:
    raise InputError(
      f"there are {len(titles)} candidates to explain a choice among: at "
      "least 2 are needed."
    )
  check_counts(words=words)
  parts = list(_parts(composed))
  without = []
  for part in parts:
    rendered = render(
      composed.form, part.rest, count_tokens=count_tokens, budget=budget
    )
    without.append(dataclasses.replace(composed, instruction=rendered.text))
  requests = [ranking_request(each, titles) for each in (composed, *without)]
  scores, *others = ranker.score(requests)
  ranking = ranked(titles, scores, denied=composed.denied)
  best = titles.index(ranking[0].title)
  weights = [
    Weight(part.slot, part.text, _log_odds(scores, best) - _log_odds(o, best))
    for part, o in zip(parts, others, strict=True)
  ]
  weights.sort(key=lambda each: -abs(each.weight))
  recommendation = Recommendation(composed, ranking)
  return Explanation(recommendation, tuple(weights[:words]))


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
  """A part of the slots, and the slots without it."""

  slot: str
  text: str
  rest: Slots


def _parts(composed: Composed) -> Iterator[_Part]:
  """Yields the parts that the instruction shows; never all of a slot."""
  slots = composed.slots
  shown = composed.form.slots
  texts = {
    name: str(getattr(slots, name) or "").split()
    for name in _TEXTS
    if name in shown
  }
  # Items dropped from a long history are not shown, and stay out.
  history = list(slots.history[composed.items_dropped :])
  slots = dataclasses.replace(slots, history=history)
  count = sum(map(len, texts.values())) + len(history)
  width = -(-count // MAX_PARTS)
  for name, members in texts.items():
    for part, rest in _left_out(members, width):
      yield _Part(
        name,
        " ".join(part),
        dataclasses.replace(slots, **{name: " ".join(rest)}),
      )
  if "history" in shown:
    for part, rest in _left_out(history, width):
      yield _Part(
        "history",
        SEPARATOR.join(part),
        dataclasses.replace(slots, history=rest),
      )


def _left_out(
  members: Sequence[str], width: int
) -> Iterator[tuple[list[str], list[str]]]:
  """Yields each run of neighbours and the rest, where a rest remains."""
  for start in range(0, len(members), max(width, 1)):
    part = list(members[start : start + width])
    rest = [*members[:start], *members[start + width :]]
    # Punctuation alone cannot fill a slot.
    if plain_words(" ".join(rest)):
      yield part, rest


def _log_odds(scores: np.ndarray, best: int) -> float:
  """Returns log P(best) - log P(any other), among the candidates."""
  others = np.delete(np.asarray(scores, np.float64), best)
  return float(scores[best]) - float(np.logaddexp.reduce(others))
