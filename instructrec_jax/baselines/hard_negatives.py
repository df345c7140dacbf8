"""Hard negatives: the items that a matcher retrieves beside the target.

The paper's section 3.3.1 (Table 9) reranks the items that a matching module
retrieves, with the target forced among them.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int, Int32

from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.held_out import (
  HARD_NEGATIVES,
  has_hard_candidates,
  store_hard_candidates,
)
from instructrec_jax.data.splits import Sequences, Targets
from instructrec_jax.errors import InputError
from instructrec_jax.progress import progress

# Targets between two steps of the progress bar.
_BLOCK = 2048
# Rank in a matcher's list down to which a target is looked for.
_DEPTH = 100
# A target that is not among the retrieved items.
NOT_FOUND = -1


class Matcher(Protocol):
  """Retrieves from the whole catalogue."""

  def retrieve(
    self,
    histories: Sequence[np.ndarray],
    *,
    users: Int32[np.ndarray, " n"],
    count: int,
    exclude: Sequence[np.ndarray],
  ) -> Int32[np.ndarray, "n count"]:
    """Returns the best items for each history, best first.

    Args:
      histories: item numbers, oldest first.
      users: whose they are, for a matcher that knows its users.
      count: items to return for each; ties are in the order of their numbers.
      exclude: for each history, item numbers not to return.

    Raises:
      InputError: the catalogue has fewer items that are not excluded.
    """
    ...


def hard_candidates(
  matcher: Matcher,
  *,
  sequences: Sequences,
  owned: Sequences,
  title_groups: Int[np.ndarray, " items"],
  targets: Targets,
  count: int = 9,
  rng: np.random.Generator,
) -> tuple[Candidates, Int32[np.ndarray, " n"]]:
  """Puts each target among the matcher's best items for what came before it.

  As with random negatives, the user's own items, as far as the targets' split
  knows them, and items that share the target's title are left out. Each list is
  shuffled: the matcher's order would reveal the negatives' ranks.

  Args:
    matcher: sees the items before the target.
    sequences: what the targets' positions refer to.
    owned: the items that are not retrieved for each user.
    title_groups: a number for each item; items with equal titles share it.
    targets: the items to rank.
    count: negatives for each target.
    rng: the only source of randomness.

  Returns:
    The candidates, and the target's rank in the matcher's list, from 0, or
    `NOT_FOUND`; targets of a rank above `count` are forced into the list. Ranks
    are found among the best 100 at least, if the catalogue has as many.

  Raises:
    InputError: the catalogue is too small.
  """
  wanted_N = targets.items(sequences)
  # The items of each title; every group has at least one.
  by_group = np.split(
    np.argsort(title_groups, kind="stable"),
    np.cumsum(np.bincount(title_groups))[:-1],
  )
  most_forbidden = max(map(len, map(owned.user, targets.users)), default=0)
  most_forbidden += max(map(len, by_group), default=0)
  depth = max(count + 1, min(_DEPTH, len(title_groups) - most_forbidden))
  found = [np.empty((0, depth), np.int32)]
  with progress(
    total=len(wanted_N), desc="hard negatives", unit="target"
  ) as bar:
    for start in range(0, len(wanted_N), _BLOCK):
      users = targets.users[start : start + _BLOCK]
      positions = targets.positions[start : start + _BLOCK]
      wanted = wanted_N[start : start + _BLOCK]
      forbidden = [
        np.append(owned.user(user), by_group[title_groups[item]])
        for user, item in zip(users, wanted, strict=True)
      ]
      found.append(
        matcher.retrieve(
          [
            sequences.user(user)[:position]
            for user, position in zip(users, positions, strict=True)
          ],
          users=users,
          count=depth,
          exclude=[
            items[items != item]
            for items, item in zip(forbidden, wanted, strict=True)
          ],
        )
      )
      bar.update(len(users))
  found_NxD = np.concatenate(found)
  is_target_NxD = found_NxD == wanted_N[:, None]
  ranks_N = np.where(
    is_target_NxD.any(axis=1), is_target_NxD.argmax(axis=1), NOT_FOUND
  ).astype(np.int32)
  candidates = _force_targets(
    found_NxD[:, : count + 1], users=targets.users, wanted_N=wanted_N, rng=rng
  )
  return candidates, ranks_N


def write_hard_candidates(
  folder: DatasetFolder,
  *,
  matcher: str,
  text_encoder: str | None = None,
  seed: int,
) -> None:
  """Retrieves and stores the hard candidates of both splits.

  What this matcher retrieved before is kept. A catalogue that is too small gets
  none.

  Args:
    folder: the dataset.
    matcher: one of `instructions.build.MATCHERS`.
    text_encoder: see `instructions.build.Options`.
    seed: of the order in lists.

  Raises:
    InputError: there is no such text encoder.
  """
  encoder = ""
  if text_encoder is not None:
    from instructrec_jax.baselines.text_reader import SentenceReader

    encoder = SentenceReader(text_encoder).sha256
  fitted = None
  for split in ("validation", "test"):
    if has_hard_candidates(
      folder, split=split, matcher=matcher, text_encoder=encoder
    ):
      continue
    fitted = fitted or _fit(matcher, folder, text_encoder)
    try:
      drawn, ranks = hard_candidates(
        fitted,
        sequences=folder.sequences,
        owned=folder.known_items(split),
        title_groups=folder.title_groups,
        targets=getattr(folder.splits, split),
        count=HARD_NEGATIVES,
        rng=np.random.default_rng([seed, split == "test"]),
      )
    except InputError:
      return
    store_hard_candidates(
      folder,
      drawn,
      ranks=ranks,
      split=split,
      matcher=matcher,
      recall=recall(ranks),
      text_encoder=encoder,
      seed=seed,
    )


def recall(
  ranks_N: Int32[np.ndarray, " n"], cutoffs: Sequence[int] = (10, 20, 50, 100)
) -> dict[int, float]:
  """Returns recall@K of the targets for each K.

  Args:
    ranks_N: of `hard_candidates`.
    cutoffs: K.
  """
  found_N = ranks_N != NOT_FOUND
  count = max(len(ranks_N), 1)
  return {k: float((found_N & (ranks_N < k)).sum() / count) for k in cutoffs}


def top_items(
  scores: Float[np.ndarray, "n items"],
  *,
  count: int,
  exclude: Sequence[np.ndarray],
) -> Int32[np.ndarray, "n count"]:
  """Returns each row's best items; see `Matcher.retrieve`.

  Args:
    scores: finite; overwritten.
    count: items to return for each row.
    exclude: item numbers to leave out of each row.

  Raises:
    InputError: a row has fewer items left.
  """
  num_items = scores.shape[1]
  left = min((num_items - len(np.unique(e)) for e in exclude), default=count)
  if left < count:
    raise InputError(
      f"the catalogue of {num_items} items leaves a history with only {left} "
      f"to retrieve {count} from: ask for fewer, or keep more items with a "
      "lower --min-count."
    )
  for row, items in zip(scores, exclude, strict=True):
    row[items] = -np.inf
  if not scores.size:
    return np.empty((len(scores), count), np.int32)
  last = num_items - count
  worst = np.partition(scores, last, axis=1)[:, last, None]
  # At least `count` in each row; more where items equal the last.
  rows, items = np.nonzero(scores >= worst)
  # A stable sort: equal items stay in the order of their numbers.
  order = np.lexsort((-scores[rows, items], rows))
  starts = np.searchsorted(rows, np.arange(len(scores)))
  return items[order][starts[:, None] + np.arange(count)].astype(np.int32)


def _force_targets(
  found_NxC: Int32[np.ndarray, "n candidates"],
  *,
  users: Int32[np.ndarray, " n"],
  wanted_N: Int32[np.ndarray, " n"],
  rng: np.random.Generator,
) -> Candidates:
  """Replaces the last of each list by a target it lacks, and shuffles."""
  retrieved_N = (found_NxC == wanted_N[:, None]).any(axis=1)
  found_NxC[~retrieved_N, -1] = wanted_N[~retrieved_N]
  shuffled_NxC = rng.permuted(found_NxC, axis=1)
  slot_N = (shuffled_NxC == wanted_N[:, None]).argmax(axis=1)
  return Candidates(
    keys=users, candidates=shuffled_NxC, target=slot_N.astype(np.int32)
  )


def _fit(name: str, folder: DatasetFolder, text_encoder: str | None) -> Matcher:
  # Imported here, as both import `top_items`, and the second also jax.
  if name == "two_tower":
    from instructrec_jax.baselines.tower_ranker import TowerOptions
    from instructrec_jax.baselines.towers import TwoTowerRanker

    return TwoTowerRanker.fit(folder, TowerOptions(text_encoder=text_encoder))
  from instructrec_jax.baselines.lexical import LexicalRanker

  return LexicalRanker.fit(
    folder.items, kind="bm25" if name == "bm25" else "tfidf"
  )
