"""A user's own words -> a recommendation (paper section 2.3.2, "Inference").

`instructrec ask` prints the result; the server composes instructions by the
same function.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.instructions.compose import (
  Composed,
  compose,
  shown_titles,
)
from instructrec_jax.instructions.reasoning import Write, reason, said
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.progress import progress
from instructrec_jax.records import Ranker, RankingRequest
from instructrec_jax.text.vocabulary import UNK_ID, Vocabulary

if TYPE_CHECKING:
  import polars

# Candidates that a recommendation prints.
_SHOWN = 10
# Titles scored per step of the progress bar.
_CHUNK = 512
# "Not orange" is said so much more often by those who want nothing orange: a
# small model reads the word, but not the not.
ODDS_OF_DENIAL = 1000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Ranked:
  """A candidate's title, as instructions show it, and the model's scores.

  Attributes:
    log_likelihood: of the title as the answer and, if the user denied one of
      its words, of that denial by somebody who wants it: 1 in 1,000.
  """

  title: str
  log_likelihood: float
  # Softmax of the log-likelihoods of all candidates.
  probability: float
  # Of the catalogue's items with this title, where it is known.
  item_ids: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Recommendation:
  """An instruction and all candidates, best first; none without a ranker.

  Iterating goes through the candidates, from the best down.

  Attributes:
    reasoning: what the model said of the user's taste before, if it was asked
      to reason.
  """

  composed: Composed
  ranking: tuple[Ranked, ...]
  reasoning: str = ""

  def __iter__(self) -> Iterator[Ranked]:
    return iter(self.ranking)

  def __len__(self) -> int:
    return len(self.ranking)

  @overload
  def __getitem__(self, place: int) -> Ranked: ...
  @overload
  def __getitem__(self, place: slice) -> tuple[Ranked, ...]: ...
  def __getitem__(self, place: int | slice) -> Ranked | tuple[Ranked, ...]:
    return self.ranking[place]

  def __repr__(self) -> str:
    """Shows the instruction and the first ten, a line each."""
    lines = [
      f"{rank:3}  {each.probability:6.1%}  {each.title}"
      for rank, each in enumerate(self.ranking[:_SHOWN], start=1)
    ]
    if (more := len(self) - _SHOWN) > 0:
      lines.append(f"     and {more:,} more")
    told = [self.reasoning] if self.reasoning else []
    return "\n".join([self.composed.instruction, *told, *lines])

  @property
  def titles(self) -> list[str]:
    """The candidates' titles, the best first."""
    return [each.title for each in self.ranking]

  @property
  def item_ids(self) -> list[str]:
    """The candidates' item ids, the best first; of each the first."""
    return [each.item_ids[0] for each in self.ranking if each.item_ids]

  def to_polars(self) -> "polars.DataFrame":
    """Returns a frame of rank, title, item_ids, log_likelihood, probability."""
    # Imported late: a slim install has none.
    import polars

    columns = ("title", "item_ids", "log_likelihood", "probability")
    return polars.DataFrame(
      {
        "rank": list(range(1, len(self) + 1)),
        **{c: [getattr(each, c) for each in self.ranking] for c in columns},
      },
      schema={
        "rank": polars.Int64,
        "title": polars.String,
        "item_ids": polars.List(polars.String),
        "log_likelihood": polars.Float64,
        "probability": polars.Float64,
      },
    )

  def to_json(self, *, top: int | None = None) -> dict[str, Any]:
    """Returns a JSON object, with the first `top` of the ranking."""
    told = {"reasoning": self.reasoning} if self.reasoning else {}
    return {
      **self.composed.to_json(),
      **told,
      "ranking": [
        {"rank": rank, **_without_empty(dataclasses.asdict(ranked))}
        for rank, ranked in enumerate(self.ranking[:top], start=1)
      ],
    }


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
  """Leaves out ids where none are known."""
  return {k: v for k, v in fields.items() if k != "item_ids" or v}


def recommend(
  words: str = "",
  *,
  ranker: Ranker | None = None,
  write: Write | None = None,
  vocabulary: Vocabulary | None = None,
  history: Sequence[str] = (),
  candidates: Sequence[str] = (),
  catalogue: Sequence[str] = (),
  preference: str | None = None,
  context: str | None = None,
  kind: str = "auto",
  template: str | None = None,
  templates: Sequence[Template] | None = None,
  budget: int = 512,
) -> Recommendation:
  """Composes a model instruction and ranks candidates for it.

  What is not named here is as in `compose`.

  Args:
    words: the user's own.
    ranker: such as `scoring.reranker.T5Ranker`, whose scores are
      log-likelihoods; None for the instruction alone.
    write: the model, if it is to reason first; see `reasoning.reason`.
    vocabulary: of the ranker; None for an estimate of the instruction's
      length.
    catalogue: without candidates, all titles to rank but for the history.
    templates: to choose from; the package's if None.

  Raises:
    InputError: as `compose`, or there is nothing to rank.
  """

  def prints(character: str) -> bool:
    return not vocabulary or UNK_ID not in vocabulary.encode_one(character)

  def count_tokens(text: str) -> int:
    # Without a vocabulary, a high estimate for English in T5's.
    return vocabulary.count_tokens(text) if vocabulary else len(text) // 3

  composing: dict[str, Any] = {
    "history": history,
    "candidates": candidates,
    "preference": preference,
    "context": context,
    "kind": kind,
    "template": template,
    "templates": load_templates() if templates is None else templates,
    "count_tokens": count_tokens,
    "prints": prints,
    "budget": budget,
  }
  if write is None:
    composed, taste = compose(words, **composing), ""
  else:
    composed, taste = reason(words, write=write, **composing)
  if ranker is None:
    return Recommendation(composed, (), taste)
  titles = composed.candidates
  if not titles:
    had = set(shown_titles(history, name="history"))
    every = dict.fromkeys(shown_titles(catalogue, name="catalogue"))
    titles = tuple(title for title in every if title not in had)
  if not titles:
    raise InputError(
      "there is nothing to rank: give candidates, or a catalogue with more "
      "than the history."
    )
  scores: list[float] = []
  starts = range(0, len(titles), _CHUNK)
  for start in progress(starts, "rank", leave=False):
    chunk = titles[start : start + _CHUNK]
    request = ranking_request(composed, chunk, taste)
    scores += ranker.score([request])[0].tolist()
  ranking = ranked(titles, scores, denied=composed.denied)
  return Recommendation(composed, ranking, taste)


def ranking_request(
  composed: Composed, titles: Sequence[str], taste: str = ""
) -> RankingRequest:
  """Returns the request to rank these titles for an instruction.

  `taste` is what the model has said of it; see `reasoning.reason`.
  """
  return RankingRequest(
    request_id="ask",
    instruction=composed.instruction,
    candidates=tuple(titles),
    query=composed.query,
    said=said(composed, taste),
  )


def denies(title: str, denied: Sequence[str]) -> bool:
  """Whether a title has one of the words that a user denied."""
  words = {w.removesuffix("s") for w in re.findall(r"\w+", title.casefold())}
  return any(word.removesuffix("s") in words for word in denied)


def ranked(
  titles: Sequence[str],
  log_likelihoods: Sequence[float] | np.ndarray,
  *,
  denied: Sequence[str] = (),
) -> tuple[Ranked, ...]:
  """Returns titles sorted by score, best first; see `Ranked`."""
  scores = np.array(log_likelihoods, np.float64)
  scores -= [np.log(ODDS_OF_DENIAL) * denies(title, denied) for title in titles]
  odds = np.exp(scores - scores.max()) if len(scores) else scores
  shares = odds / odds.sum()
  ranking = sorted(
    map(Ranked, titles, scores.tolist(), shares.tolist()),
    key=lambda each: -each.log_likelihood,
  )
  return tuple(ranking)
