"""Feature attribution by occlusion: the words and titles that weigh most.

Each part of the user's input (a word of a text, a title of the history) is left
out in turn, the same template is filled with the rest, and all is scored again.
A part's weight is what a title's log-odds lose without it, in nats: against the
whole catalogue, or against another title; positive if the part speaks for it,
negative if against. Against candidates of one kind alone, the word that has
found that kind would weigh nothing.

It describes the model's output, not its reasons: redundant words each get
little weight. So the parts that are named are also left out together, beside as
many others: a named part that decides nothing would show there.
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
  plain_words,
  render,
)
from instructrec_jax.records import Ranker

# Parts to leave out, about: each costs another scoring of all candidates, so
# longer inputs lose several neighbouring words at a time.
MAX_PARTS = 24
# Titles that stand for a larger catalogue, beside the candidates.
MAX_OTHERS = 256
_TEXTS = ("query", "preference", "context")
# What is asked where a query's only word is left out.
_NOTHING = "something"


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
class Deletion:
  """What a title's log-odds lose, in nats, where several parts are left out.

  Attributes:
    named: where the parts that speak for it most are, together.
    others: where as many of the other parts are; None if there are none.
  """

  named: float
  others: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
  """A ranking, and the parts of the instruction that it depends on most.

  Attributes:
    recommendation: the instruction, its template and every candidate's score.
    title: the one that weights are of.
    against: the one that it is compared with; None: the whole catalogue, or
      all other candidates if there is none.
    weights: the parts of the largest absolute weight, in decreasing order.
    deletion: of the weights that are positive; None if none is.
  """

  recommendation: Recommendation
  title: str
  against: str | None
  weights: tuple[Weight, ...]
  deletion: Deletion | None

  @property
  def ranking(self) -> tuple[Ranked, ...]:
    """The candidates, the best first."""
    return self.recommendation.ranking

  def to_json(self) -> dict[str, Any]:
    """Returns it in JSON's types."""
    deletion = self.deletion and dataclasses.asdict(self.deletion)
    return {
      **self.recommendation.to_json(),
      "title": self.title,
      "against": self.against,
      "weights": [dataclasses.asdict(weight) for weight in self.weights],
      "deletion": deletion,
    }


def explain(
  composed: Composed,
  ranker: Ranker,
  *,
  count_tokens: Callable[[str], int],
  budget: int = 512,
  words: int = 8,
  titles: Sequence[str] | None = None,
  catalogue: Sequence[str] = (),
  title: str | None = None,
  against: str | None = None,
) -> Explanation:
  """Ranks titles with and without each part of the instruction.

  Args:
    composed: an instruction.
    ranker: one whose scores are log-likelihoods.
    count_tokens: counts with the ranker's vocabulary.
    budget: the encoder's length in tokens.
    words: how many parts to return.
    titles: to rank, as instructions show them; the instruction's candidates if
      None.
    catalogue: all that might have been found; of a large one, every n-th title
      stands for n.
    title: the one to explain; the best if None.
    against: the title to compare it with, not all.

  Raises:
    InputError: fewer than two titles, one that is named is not among them, or
      `words` is below 1.
  """
  titles = composed.candidates if titles is None else tuple(titles)
  if len(titles) + len(catalogue) < 2:
    raise InputError(
      f"there are {len(titles)} candidates to explain a choice among: at "
      "least 2 are needed."
    )
  check_counts(words=words)
  for name, one in (("title", title), ("against", against)):
    if one is not None and one not in titles:
      raise InputError(f"{name}: {one!r:.80} is none of the titles to rank.")
  if title is not None and title == against:
    raise InputError("a title cannot be explained against itself.")
  # What the user has is no answer.
  apart = {*titles, *composed.slots.history}
  others = [each for each in catalogue if each not in apart]
  step = -(-len(others) // MAX_OTHERS) or 1
  others = others[::step]
  parts = list(_parts(composed))
  requests = [ranking_request(composed, (*titles, *others))]
  requests += [
    ranking_request(
      _without(composed, [part], count_tokens, budget), (*titles, *others)
    )
    for part in parts
  ]
  scores, *without = ranker.score(requests)
  # A title that stands for n is as likely as n.
  standing = np.repeat([0.0, np.log(step)], [len(titles), len(others)])
  ranking = ranked(titles, scores[: len(titles)], denied=composed.denied)
  chosen = title or next(e.title for e in ranking if e.title != against)
  place = titles.index(chosen)
  rival = None if against is None else titles.index(against)

  def odds(values: np.ndarray) -> float:
    return _log_odds(np.asarray(values, np.float64), standing, place, rival)

  full = odds(scores)
  weighed = [
    (Weight(part.slot, part.text, full - odds(values)), part)
    for part, values in zip(parts, without, strict=True)
  ]
  weighed.sort(key=lambda each: -abs(each[0].weight))
  named = [part for weight, part in weighed[:words] if weight.weight > 0]
  left = [part for _, part in reversed(weighed) if part not in named]
  deletion = None
  if named:
    # As many others, the lightest of all.
    pairs = [named, left[: len(named)]]
    losses = ranker.score(
      [
        ranking_request(
          _without(composed, of, count_tokens, budget), (*titles, *others)
        )
        for of in pairs
        if of
      ]
    )
    found = [full - odds(values) for values in losses]
    deletion = Deletion(found[0], found[1] if len(found) > 1 else None)
  return Explanation(
    Recommendation(composed, ranking),
    chosen,
    against,
    tuple(weight for weight, _ in weighed[:words]),
    deletion,
  )


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
  """Neighbours of a slot, by their places in it."""

  slot: str
  text: str
  first: int
  last: int


def _members(composed: Composed) -> dict[str, list[str]]:
  """Returns the words, and titles, of the slots that the instruction shows."""
  slots, shown = composed.slots, composed.form.slots
  found = {
    name: str(getattr(slots, name) or "").split()
    for name in _TEXTS
    if name in shown
  }
  if "history" in shown:
    # Items dropped from a long history are not shown, and stay out.
    found["history"] = list(slots.history[composed.items_dropped :])
  return found


def _parts(composed: Composed) -> Iterator[_Part]:
  """Yields the parts that the instruction shows; see `_rest`."""
  members = _members(composed)
  width = -(-sum(map(len, members.values())) // MAX_PARTS)
  for slot, of_slot in members.items():
    for first in range(0, len(of_slot), max(width, 1)):
      last = min(first + width, len(of_slot))
      separator = SEPARATOR if slot == "history" else " "
      part = _Part(slot, separator.join(of_slot[first:last]), first, last)
      # Punctuation alone says nothing, whether it is left out or left.
      if plain_words(part.text) and _rest(slot, of_slot, [part]):
        yield part


def _rest(
  slot: str, members: Sequence[str], parts: Sequence[_Part]
) -> list[str]:
  """Returns a slot without parts; never nothing, but for what shows nothing."""
  gone = {n for part in parts for n in range(part.first, part.last)}
  rest = [each for n, each in enumerate(members) if n not in gone]
  if plain_words(" ".join(rest)):
    return rest
  return [_NOTHING] if slot == "query" else []


def _without(
  composed: Composed,
  parts: Sequence[_Part],
  count_tokens: Callable[[str], int],
  budget: int,
) -> Composed:
  """Returns an instruction without parts, of each slot as many as can be."""
  members = _members(composed)
  slots = dataclasses.replace(
    composed.slots, history=members.get("history", composed.slots.history)
  )
  for slot, of_slot in members.items():
    own = [part for part in parts if part.slot == slot]
    # The lightest of them stay where all of the slot would go.
    while own and not (rest := _rest(slot, of_slot, own)):
      own.pop()
    if own:
      kept = rest if slot == "history" else " ".join(rest)
      slots = dataclasses.replace(slots, **{slot: kept})
  rendered = render(
    composed.form, slots, count_tokens=count_tokens, budget=budget
  )
  return dataclasses.replace(composed, instruction=rendered.text)


def _log_odds(
  scores: np.ndarray, standing: np.ndarray, place: int, rival: int | None
) -> float:
  """Returns log P(title) - log P(its rival, or any other)."""
  if rival is not None:
    return float(scores[place] - scores[rival])
  others = np.delete(scores + standing, place)
  return float(scores[place] - np.logaddexp.reduce(others))
