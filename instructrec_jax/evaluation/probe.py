"""The contamination probe: has a model seen the data that it is tested on?

A completion's log-likelihood after its own beginning is compared with that
after others, so that what is likely by itself cancels:

- titles: the second half of a title, after its first half or those of others;
- histories: the item that a user bought next, after the user's last items or
  those of other users;
- orders: the same, after these items in their order or in random ones.

What a model knows of the world makes the first two positive for data that it
has never seen. What tells of contamination is a difference between groups: of
purchases before and after the day that a model's training data end, or, of a
model that was tuned on a dataset, between training targets and held-out ones.
Golchin and Surdeanu (2024, arXiv 2308.08493) complete instances; Oren et al.
(2024, arXiv 2310.17623) compare orders.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  bootstrap_means,
  percentile_interval,
)
from instructrec_jax.instructions.material import is_date
from instructrec_jax.instructions.render import SEPARATOR, display_titles
from instructrec_jax.records import Ranker, RankingRequest
from instructrec_jax.tables import Cell, Row, Table

# Users, and items, that a group is sampled from.
SAMPLE = 500
# Other beginnings that each is compared with.
_OTHERS = 4
# Items of a history that are shown.
_SHOWN = 5

Pair = tuple[str, str]
"""A beginning and its completion."""


def parse_cutoff(text: str) -> int:
  """Returns the first second after a day such as "2021-09-30", in UTC.

  Raises:
    InputError: it is no day.
  """
  try:
    day = datetime.date.fromisoformat(text)
  except ValueError:
    raise InputError(
      f"--cutoff is {text!r:.80}: a day such as 2021-09-30 is needed."
    ) from None
  midnight = datetime.datetime(
    day.year, day.month, day.day, tzinfo=datetime.UTC
  )
  return int(midnight.timestamp()) + 86_400


def probe(
  rankers: Mapping[str, Ranker],
  folder: DatasetFolder,
  *,
  split: str,
  cutoff: str | None = None,
  limit: int | None = None,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Probes models.

  Args:
    rankers: models by name, whose scores are log-likelihoods.
    folder: the dataset.
    split: whose targets are the held-out ones.
    cutoff: the last day of the models' training data. Groups are of before it
      and after; without it, training targets and the split's. An item is of
      the time when it was first bought, a history of that of its last item.
    limit: of each group, a random sample of so many; `SAMPLE` if None.
    resamples: of the bootstrap.
    seed: of the samples, the other beginnings and the bootstrap.

  Returns:
    A row for each model, probe and group, and for the difference of the two:
    "ranker", "probe", "group", "value" (nats), "low", "high" (the 95%
    interval) and "n". A group of less than two is left out.

  Raises:
    InputError: with a cut-off, the dataset's times are no dates.
  """
  groups = _groups(folder, split=split, cutoff=cutoff)
  rng = np.random.default_rng(seed)
  titles = display_titles(folder.items)
  asked: dict[str, dict[str, list[list[Pair]]]] = {
    "titles": {},
    "histories": {},
    "orders": {},
  }
  for name, (items, targets) in groups.items():
    halves = [_halves(titles[item]) for item in _some(items, limit, rng)]
    halves = [pair for pair in halves if all(pair)]
    asked["titles"][name] = _with_others(halves, rng)
    chosen = _some(np.arange(len(targets)), limit, rng)
    rows = [
      [titles[item] for item in _window(folder, *targets[row])]
      for row in chosen
    ]
    rows = [row for row in rows if len(row) > 1]
    pairs = [(_history(row[:-1]), row[-1]) for row in rows]
    asked["histories"][name] = _with_others(pairs, rng)
    asked["orders"][name] = [
      [pair, *_shuffled(row, rng)]
      for row, pair in zip(rows, pairs, strict=True)
      if len(set(row[:-1])) > 1
    ]
  found = []
  for ranker, model in rankers.items():
    for kind, by_group in asked.items():
      values = {
        group: _contrasts(model, sets)
        for group, sets in by_group.items()
        if len(sets) > 1
      }
      found += [
        {"ranker": ranker, "probe": kind, **row}
        for row in _rows(values, resamples=resamples, seed=seed)
      ]
  return found


def to_table(
  rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> Table:
  """Returns the rows of `probe` for people, a line a model and probe."""
  groups = list(dict.fromkeys(row["group"] for row in rows))
  lines: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
  for row in rows:
    lines.setdefault((row["ranker"], row["probe"]), {})[row["group"]] = row
  return Table(
    ["model", "probe", *groups],
    [
      Row(
        [
          labels.get(ranker, ranker),
          kind,
          *(_cell(of_groups.get(group)) for group in groups),
        ]
      )
      for (ranker, kind), of_groups in lines.items()
    ],
    notes=[
      "nats by which a completion is likelier after its own beginning than "
      "after others (titles, histories) or after its own in another order "
      "(orders), and the 95% interval",
      "knowledge of the world is in both groups; a difference above zero says "
      "that the first has been seen in training, one of zero proves nothing",
    ],
  )


def _cell(row: Mapping[str, Any] | None) -> Cell | str:
  if row is None:
    return "-"
  ends = f"[{row['low']:+.2f}, {row['high']:+.2f}]"
  return Cell(f"{row['value']:+.2f}", ends)


def _groups(
  folder: DatasetFolder, *, split: str, cutoff: str | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns item numbers, and users with positions of targets, by group."""
  sequences, splits = folder.sequences, folder.splits
  held_out = getattr(splits, split)
  held_out = np.stack([held_out.users, held_out.positions], axis=1)
  if cutoff is None:
    # The last of each user.
    users, positions = splits.training.users, splits.training.positions
    of_users = dict(zip(users.tolist(), positions.tolist(), strict=True))
    training = np.array([*of_users.items()], np.int64).reshape(-1, 2)
    seen = sequences.items[splits.training_mask(sequences)]
    held_out_items = np.setdiff1d(
      sequences.items[sequences.offsets[held_out[:, 0]] + held_out[:, 1]], seen
    )
    return {
      "training": (np.unique(seen), training),
      split: (held_out_items, held_out),
    }
  end, times = parse_cutoff(cutoff), folder.timestamps
  if not all(map(is_date, (int(times.min()), int(times.max())))):
    raise InputError(
      f"{folder.path}: its times are no dates in seconds, so nothing is before "
      "or after --cutoff: leave it out."
    )
  first = np.full(len(folder.items), np.iinfo(np.int64).max)
  np.minimum.at(first, sequences.items, times)
  items = np.unique(sequences.items)
  late = times[sequences.offsets[held_out[:, 0]] + held_out[:, 1]] >= end
  return {
    "before": (items[first[items] < end], held_out[~late]),
    "after": (items[first[items] >= end], held_out[late]),
  }


def _some(
  values: np.ndarray, limit: int | None, rng: np.random.Generator
) -> list[int]:
  return rng.permutation(values)[: limit or SAMPLE].tolist()


def _window(folder: DatasetFolder, user: int, position: int) -> list[int]:
  items = folder.sequences.user(user)
  return items[max(0, position - _SHOWN) : position + 1].tolist()


def _halves(title: str) -> Pair:
  words = title.split()
  middle = len(words) // 2
  beginning = " ".join(words[:middle])
  return (
    beginning and f"The title of a product begins: {beginning}",
    " ".join(words[middle:]),
  )


def _history(titles: Sequence[str]) -> str:
  return (
    f"A customer bought these, one after the other: {SEPARATOR.join(titles)}. "
    "What the same customer bought next:"
  )


def _with_others(
  pairs: Sequence[Pair], rng: np.random.Generator
) -> list[list[Pair]]:
  """Returns each pair, and its completion after other pairs' beginnings."""
  sets = []
  for beginning, completion in pairs:
    others = [b for b, c in pairs if b != beginning and c != completion]
    if not others:
      continue
    drawn = rng.permutation(len(others))[:_OTHERS]
    sets.append(
      [(beginning, completion), *((others[o], completion) for o in drawn)]
    )
  return sets


def _shuffled(row: Sequence[str], rng: np.random.Generator) -> list[Pair]:
  """Returns what a history ends in, after orders that are not its own."""
  *history, last = row
  orders: set[tuple[str, ...]] = set()
  # Two items have one other order.
  for _ in range(4 * _OTHERS):
    order = tuple(history[place] for place in rng.permutation(len(history)))
    if order != tuple(history) and len(orders) < _OTHERS:
      orders.add(order)
  return [(_history(order), last) for order in sorted(orders)]


def _contrasts(model: Ranker, sets: Sequence[Sequence[Pair]]) -> np.ndarray:
  """Returns by how much the first of each set is likelier than the others."""
  requests = [
    RankingRequest(f"{number}-{place}", beginning, (completion,))
    for number, pairs in enumerate(sets)
    for place, (beginning, completion) in enumerate(pairs)
  ]
  scores = np.concatenate(model.score(requests)).astype(np.float64)
  ends = np.cumsum([len(pairs) for pairs in sets])
  return np.array(
    [part[0] - part[1:].mean() for part in np.split(scores, ends[:-1])]
  )


def _rows(
  values: Mapping[str, np.ndarray], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
  """Returns the means of groups and of their difference, with intervals."""
  rows, draws = [], {}
  for number, (group, of_group) in enumerate(values.items()):
    draws[group] = bootstrap_means(
      # Groups are independent samples.
      of_group[:, None],
      seed=seed + number,
      resamples=resamples,
    )
    rows.append(_row(group, of_group.mean(), draws[group], len(of_group)))
  if len(values) == 2:
    (first, one), (second, other) = values.items()
    rows.append(
      _row(
        f"{first} - {second}",
        one.mean() - other.mean(),
        draws[first] - draws[second],
        len(one) + len(other),
      )
    )
  return rows


def _row(group: str, value: float, draws: np.ndarray, n: int) -> dict[str, Any]:
  low, high = percentile_interval(draws)
  ends = {"low": float(low[0]), "high": float(high[0])}
  return {"group": group, "value": float(value), **ends, "n": n}
