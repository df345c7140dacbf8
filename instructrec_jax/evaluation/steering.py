"""Steering: does a ranking follow what a request says, and by how much?

Each request is asked again with its query changed, and the same candidates are
scored: the target, and titles that share most with it, some with one of its
title's words (a), some with a word that excludes it (b), some with neither. An
instruction that lists its candidates lists these, as many as it did before.

- edited: "QUERY, a" becomes "QUERY, b": titles with b should rise, those with a
  fall;
- negated: "QUERY" becomes "QUERY, not a": titles with a should fall;
- flipped: "QUERY" becomes "anything but QUERY": titles with a word of the query
  should fall;
- paraphrased: "QUERY" becomes a question for it: nothing should move.

A shift is by how much the log-likelihoods of some titles rise, less that of
those with neither word, in nats, so that what all gain alike is none. A ranker
that reads no query shifts nothing.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  bootstrap_means,
  percentile_interval,
)
from instructrec_jax.instructions.recommend import ODDS_OF_DENIAL, denies
from instructrec_jax.instructions.render import SEPARATOR, display_titles
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.records import Ranker, RankingRequest
from instructrec_jax.scoring.stream import average_ranks
from instructrec_jax.tables import Cell, Row, Table

# Rankers whose scores may be asked for any candidates: those that read queries,
# and one that reads none, to compare with.
STEERED = ("popularity", "bm25", "zero_shot", "model")
# Requests that are sampled.
SAMPLE = 200
# Titles with a, with b and with neither, where instructions list none.
_EACH = 10
_FRAMES = ("Do you have this: {query}?", "I am looking for {query}, please")
# Stands for the candidates in an instruction.
_LISTED = "\0"
_NEGATED, _FLIPPED = "{query}, not {a}", "anything but {query}"
# An attribute is a word that so many titles have, and no more than this share.
_FEWEST, _LARGEST_SHARE = 3, 0.5
EDITS = {
  "edited": ("rise", "fall", "rise_ranks", "fall_ranks"),
  "negated": ("fall", "fall_ranks", "violations", "violations_with_rule"),
  "flipped": ("fall", "fall_ranks"),
  "paraphrased": ("moved", "kept"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
  """A request and what is changed of it.

  Attributes:
    request: with the candidates that are scored.
    frame: the instruction before the query, and after it.
    a: the word that is edited or negated.
    b: the word that takes its place.
    with_a: which candidates have a.
    with_b: which have b.
    asked: which have a word of the query.
  """

  request: RankingRequest
  frame: tuple[str, str]
  a: str
  b: str
  with_a: np.ndarray
  with_b: np.ndarray
  asked: np.ndarray

  def variants(self) -> list[RankingRequest]:
    """Returns the request as it is and as `_measures` compares it."""
    query, a, b = self.request.query, self.a, self.b
    before, after = self.frame
    queries = [
      query,
      f"{query}, {a}",
      f"{query}, {b}",
      _NEGATED.format(query=query, a=a),
      _FLIPPED.format(query=query),
      *(frame.format(query=query) for frame in _FRAMES),
    ]
    return [
      dataclasses.replace(
        self.request,
        request_id=f"{self.request.request_id}-{number}",
        instruction=f"{before}{changed}{after}",
        query=changed,
      )
      for number, changed in enumerate(queries)
    ]


def is_steered(scenario: Scenario) -> bool:
  """Whether the scenario's requests quote a query that can be changed."""
  # A tournament's prompts are made as it goes.
  is_one_list = not (scenario.pointwise or scenario.tournament)
  return is_one_list and "query" in scenario.shows


def steer(
  rankers: Mapping[str, Ranker],
  requests: Iterable[RankingRequest],
  folder: DatasetFolder,
  *,
  lists_candidates: bool = False,
  limit: int | None = None,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Measures how rankings follow changes of a request's words.

  Args:
    rankers: by name, whose scores are log-likelihoods, or at least scores.
    requests: of a scenario whose instructions quote a query.
    folder: the dataset.
    lists_candidates: whether instructions list them.
    limit: the most requests that are changed; `SAMPLE` if None.
    resamples: of the bootstrap.
    seed: of the candidates, the words and the bootstrap.

  Returns:
    A row for each ranker, edit and measure: "ranker", "edit", "measure",
    "value", "low", "high" (the 95% interval) and "n" (requests). Measures are
    shifts in nats ("rise", "fall", and "moved", without its sign) and in ranks
    ("rise_ranks", "fall_ranks"); "violations", the share of the best third that
    has the negated word; the same with the rule by which a server has what is
    denied less likely; and "kept", the share of the best third that stays.

  Raises:
    InputError: no request has a query with a word to change.
  """
  cases = list(
    _cases(
      requests,
      folder,
      lists_candidates=lists_candidates,
      limit=limit or SAMPLE,
      seed=seed,
    )
  )
  if not cases:
    raise InputError(
      "--steer changes the words of a query, and no request has one of which a "
      "word of the target's title could be changed: take more requests, or "
      "leave --steer out."
    )
  rows = []
  for name, ranker in rankers.items():
    variants = [case.variants() for case in cases]
    flat = ranker.score([each for of_case in variants for each in of_case])
    count = len(variants[0])
    found: dict[tuple[str, str], list[float]] = {}
    for number, case in enumerate(cases):
      scores = flat[number * count : (number + 1) * count]
      for key, value in _measures(case, np.array(scores, np.float64)):
        found.setdefault(key, []).append(value)
    rows += [
      {"ranker": name, "edit": edit, "measure": measure, **summary}
      for (edit, measure), values in found.items()
      for summary in [_summary(values, resamples=resamples, seed=seed)]
    ]
  return rows


def to_table(
  rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> Table:
  """Returns the rows of `steer` for people, a line a ranker and edit."""
  by = {(r["ranker"], r["edit"], r["measure"]): r for r in rows}
  measures = list(dict.fromkeys(m for of in EDITS.values() for m in of))
  rankers = list(dict.fromkeys(row["ranker"] for row in rows))
  return Table(
    ["ranker", "edit", *(name.replace("_", " ") for name in measures)],
    [
      Row(
        [
          labels.get(ranker, ranker),
          edit,
          *(_cell(by.get((ranker, edit, measure))) for measure in measures),
        ]
      )
      for ranker in rankers
      for edit in EDITS
      if any((ranker, edit, measure) in by for measure in measures)
    ],
    notes=[
      "rise, fall: nats by which titles with the word that is put in, and with "
      "the one that is taken out or denied, gain on the others; ranks: places "
      "gained; each with the 95% interval",
      "violations: the share of the best third that has a denied word; with "
      "rule: "
      f"where a denied word costs a factor of {ODDS_OF_DENIAL:,.0f}, as a "
      "server has it",
      "moved, kept: how far scores move under a paraphrase, in nats, and the "
      "share of the best third that stays",
    ],
  )


def _cell(row: Mapping[str, Any] | None) -> Cell | str:
  if row is None:
    return "-"
  signed = row["measure"] in ("rise", "fall", "rise_ranks", "fall_ranks")
  form = "+.2f" if signed else ".2f"
  ends = f"[{row['low']:{form}}, {row['high']:{form}}]"
  return Cell(f"{row['value']:{form}}", ends)


def _cases(
  requests: Iterable[RankingRequest],
  folder: DatasetFolder,
  *,
  lists_candidates: bool,
  limit: int,
  seed: int,
) -> Iterator[_Case]:
  rng = np.random.default_rng(seed)
  titles = display_titles(folder.items)
  words = [_words(title) for title in titles]
  having: dict[str, set[int]] = collections.defaultdict(set)
  for item, own in enumerate(words):
    for word in own:
      having[word].add(item)
  most = max(_LARGEST_SHARE * len(titles), _FEWEST)
  attributes = {w for w, of in having.items() if _FEWEST <= len(of) <= most}
  made = 0
  for request in requests:
    if made == limit:
      return
    query = request.query
    if request.target is None or not request.candidate_items or not query:
      continue
    listed = SEPARATOR.join(request.candidates) if lists_candidates else ""
    if listed not in request.instruction:
      continue
    frame = request.instruction
    if listed:
      frame = frame.replace(listed, _LISTED)
    # Where titles have the words of the query, those are not what is asked.
    if frame.count(query) != 1:
      continue
    each = max(len(request.candidates) // 3, 1) if listed else _EACH
    target = request.candidate_items[request.target]
    said = _words(query)
    # A word that the query has would be asked for and denied at once.
    own = sorted((words[target] & attributes) - said)
    pairs = [
      (a, b)
      for a in own
      for b in attributes - said
      # As often as they are, chance alone would have had them meet.
      if len(having[a]) * len(having[b]) >= len(titles)
      and having[a].isdisjoint(having[b])
    ]
    if not pairs:
      continue
    a, b = sorted(pairs)[int(rng.integers(len(pairs)))]
    near = _near(words[target] - {a}, words, rng)
    rest = having[a] | having[b]
    groups = [
      [target, *(i for i in near if i in having[a] and i != target)],
      [i for i in near if i in having[b]],
      [i for i in near if i not in rest],
    ]
    items = [item for group in groups for item in group[:each]]
    shown = SEPARATOR.join(titles[item] for item in rng.permutation(items))
    before, after = (
      part.replace(_LISTED, shown) for part in frame.split(query)
    )
    yield _Case(
      request=dataclasses.replace(
        request,
        candidates=tuple(titles[item] for item in items),
        candidate_items=tuple(items),
        target=0,
      ),
      frame=(before, after),
      a=a,
      b=b,
      with_a=np.array([item in having[a] for item in items]),
      with_b=np.array([item in having[b] for item in items]),
      asked=np.array([bool(words[item] & said) for item in items]),
    )
    made += 1


def _near(
  own: set[str], words: Sequence[set[str]], rng: np.random.Generator
) -> list[int]:
  """Returns items by how many words they share, those of most at first."""
  shared = np.array([len(own & other) for other in words])
  drawn = rng.permutation(len(words))
  return drawn[np.argsort(-shared[drawn], kind="stable")].tolist()


def _measures(
  case: _Case, scores: np.ndarray
) -> Iterator[tuple[tuple[str, str], float]]:
  """Yields what `EDITS` names, of the scores of `_Case.variants`."""
  plain, asked_a, asked_b, negated, flipped, *paraphrased = scores
  for name, group in (("rise", case.with_b), ("fall", case.with_a)):
    neither = ~(case.with_a | case.with_b)
    yield from _shifts("edited", name, group, neither, asked_a, asked_b)
  with_a, asked = case.with_a, case.asked
  yield from _shifts("negated", "fall", with_a, ~with_a, plain, negated)
  ruled = negated - np.log(ODDS_OF_DENIAL) * np.array(
    [denies(title, (case.a,)) for title in case.request.candidates]
  )
  for name, of in (("violations", negated), ("violations_with_rule", ruled)):
    yield ("negated", name), _share_of_top(of, case.with_a)
  if asked.any():
    yield from _shifts("flipped", "fall", asked, ~asked, plain, flipped)
  moved, kept = [], []
  for each in paraphrased:
    change = each - plain
    moved.append(np.abs(change - change.mean()).mean())
    # Of what ties, half is in the top: the same half here and there.
    kept.append(_overlap(plain, each))
  yield ("paraphrased", "moved"), float(np.mean(moved))
  yield ("paraphrased", "kept"), float(np.mean(kept))


def _shifts(
  edit: str,
  name: str,
  group: np.ndarray,
  others: np.ndarray,
  before: np.ndarray,
  after: np.ndarray,
) -> Iterator[tuple[tuple[str, str], float]]:
  """Yields by how much a group gains on others, in nats and in ranks."""
  change = after - before
  if not (group.any() and others.any()):
    return
  yield (edit, name), float(change[group].mean() - change[others].mean())
  ranks = average_ranks(before) - average_ranks(after)
  yield (edit, f"{name}_ranks"), float(ranks[group].mean())


def _top(scores: np.ndarray) -> int:
  return max(len(scores) // 3, 1)


def _in_top(scores: np.ndarray) -> np.ndarray:
  """Returns by candidate the chance to be in the top, over orders of ties."""
  ordered = np.sort(-scores)
  first, last = (
    np.searchsorted(ordered, -scores, side=side) for side in ("left", "right")
  )
  return np.clip((_top(scores) - first) / (last - first), 0, 1)


def _share_of_top(scores: np.ndarray, group: np.ndarray) -> float:
  return float(_in_top(scores)[group].sum() / _top(scores))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
  both = np.minimum(_in_top(one), _in_top(other)).sum()
  return float(both / _top(one))


def _summary(
  values: Sequence[float], *, resamples: int, seed: int
) -> dict[str, Any]:
  of_requests = np.array(values)[:, None]
  draws = bootstrap_means(of_requests, seed=seed, resamples=resamples)
  low, high = percentile_interval(draws)
  return {
    "value": float(of_requests.mean()),
    "low": float(low[0]),
    "high": float(high[0]),
    "n": len(values),
  }


def _words(text: str) -> set[str]:
  return {
    w.removesuffix("s") for w in re.findall(r"[^\W\d_]{3,}", text.lower())
  }
