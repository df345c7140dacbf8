"""Candidate lists of a dataset folder: stored, read by scenario, and checked.

Each file is drawn from its own random stream, seeded by seed, negatives, split
and kind, so no file depends on another.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl
from jaxtyping import Int8, Int32, Int64

from instructrec_jax import parquet, storage, workers
from instructrec_jax.data.candidates import Candidates, draw_candidates
from instructrec_jax.data.cleaning import specific_intentions
from instructrec_jax.data.folder import DatasetFolder, candidates_file
from instructrec_jax.data.splits import SPLITS, Sequences, Splits
from instructrec_jax.errors import InputError
from instructrec_jax.progress import progress
from instructrec_jax.records import Item, RankingRequest

_REMEDY = "build the folder again"

# Negatives beside the target: the paper's sections 3.2 and 3.3.
NEGATIVES = (9, 99)
HARD_NEGATIVES = 9
# Lists that are drawn at once.
_LIST_BYTES = 1 << 29


class Scenario(Protocol):
  """What decides which lists are ranked; see `instructions.scenarios`."""

  @property
  def candidates(self) -> str:
    """ "users", "items", "hard" or "catalogue"."""
    ...

  @property
  def negatives(self) -> int:
    """Candidates beside the target; 0 for the catalogue."""
    ...

  @property
  def pointwise(self) -> bool:
    """Whether a single item is judged."""
    ...


def write_candidates(
  folder: pathlib.Path,
  *,
  splits: Splits,
  item_split: Int8[np.ndarray, " items"],
  sequences: Sequences,
  owned: Sequences,
  items: Sequence[Item],
  title_groups: Int64[np.ndarray, " items"],
  seed: int,
) -> list[str]:
  """Writes the sampled candidates; returns notes on what is left out."""
  searched = np.array([bool(text) for text in specific_intentions(items)], bool)

  def draw(kind: str, split: str, count: int) -> Candidates:
    seeds = [seed, count, split == "test"]
    if kind == "users":
      owners = splits.known_items(split, sequences=sequences, owned=owned)
      users = getattr(splits, split).users
      wanted = getattr(splits, split).items(sequences)
    else:
      # Anybody may search: one user, who owns nothing.
      owners = Sequences(np.zeros(0, np.int32), np.zeros(2, np.int64))
      seeds.append(1)
      in_split = searched & (item_split == SPLITS.index(split))
      wanted = np.flatnonzero(in_split).astype(np.int32)
      users = np.zeros(len(wanted), np.int32)
      if not len(wanted):
        raise InputError(f"no {split} item has categories.")
    drawn = draw_candidates(
      owned=owners,
      title_groups=title_groups,
      users=users,
      targets=wanted,
      negatives=count,
      rng=np.random.default_rng(seeds),
    )
    keys = users if kind == "users" else wanted
    return dataclasses.replace(drawn, keys=keys)

  def write(wanted: tuple[str, int, str]) -> str:
    """Writes a file; returns a note if it cannot be."""
    kind, count, split = wanted
    name = candidates_file(split, count, kind)
    (folder / name).parent.mkdir(exist_ok=True)
    try:
      frame = _frame(kind.removesuffix("s"), draw(kind, split, count))
    except InputError as error:
      return f"no {name}: {error}"
    frame.write_parquet(folder / name, metadata={"seed": str(seed)})
    return ""

  files = list(
    itertools.product(("users", "items"), NEGATIVES, ("validation", "test"))
  )
  # Of lists of millions of users, one file at a time is held.
  largest = len(sequences) * (1 + max(NEGATIVES)) * np.int32().nbytes
  threads = max(1, min(workers.cores(), _LIST_BYTES // max(largest, 1)))
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    written = progress(
      pool.map(write, files), desc="candidates", total=len(files)
    )
    notes = [note for note in written if note]
  lost = [int((item_split[~searched] == n).sum()) for n in range(len(SPLITS))]
  if sum(lost[1:]):
    notes.append(
      f"product search leaves out {lost[1]:,} validation and {lost[2]:,} test "
      "items, which have no categories."
    )
  return notes


def store_hard_candidates(
  folder: DatasetFolder,
  drawn: Candidates,
  *,
  ranks: Int32[np.ndarray, " n"],
  split: str,
  matcher: str,
  recall: dict[int, float],
  text_encoder: str = "",
  seed: int,
) -> None:
  """Writes a split's hard candidates.

  `ranks` are the targets' from 0 in the matcher's own list, -1 beyond it;
  `recall` is the matcher's by K, `text_encoder` the hash of the weights that it
  reads titles with, if any, `seed` of the order in lists.
  """
  path = folder.path / candidates_file(split, HARD_NEGATIVES, "hard")
  metadata = {"seed": str(seed), "matcher": matcher, "reads": "titles"}
  metadata |= {"text_encoder": text_encoder}
  with storage.staged_file(path) as partial:
    _frame("user", drawn).with_columns(matched_at=ranks).write_parquet(
      partial, metadata=metadata | {"recall": json.dumps(recall)}
    )


def has_hard_candidates(
  folder: DatasetFolder, *, split: str, matcher: str, text_encoder: str = ""
) -> bool:
  """Whether a split's hard candidates are this matcher's, with its recall."""
  path = folder.path / candidates_file(split, HARD_NEGATIVES, "hard")
  if not path.exists():
    return False
  metadata = parquet.metadata(path, remedy=_REMEDY)
  # Older builds did not write down what they read, and two towers had no
  # transformer then.
  return (
    {"recall", "reads"} <= metadata.keys()
    and metadata["matcher"] == matcher
    and metadata.get("text_encoder", "") == text_encoder
  )


def candidates_path(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> pathlib.Path:
  """Returns the file with a scenario's candidates, or at least its users."""
  kind = "users" if scenario.candidates == "catalogue" else scenario.candidates
  return folder.path / candidates_file(split, scenario.negatives or 9, kind)


def stored_candidates(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> Candidates:
  """Reads a scenario's lists: only the target where the catalogue is ranked.

  Raises:
    InputError: the folder has none.
  """
  if scenario.candidates != "catalogue":
    return folder.candidates(split, scenario.negatives, scenario.candidates)
  targets = getattr(folder.splits, split)
  items = targets.items(folder.sequences)
  return Candidates(
    targets.users, items[:, None], np.zeros(len(items), np.int32)
  )


def matcher(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> dict[str, Any] | None:
  """Returns the "name" of a scenario's matcher, and its "recall" by K.

  Raises:
    InputError: the candidates were written by an older build.
  """
  if scenario.candidates != "hard":
    return None
  metadata = _matched(scenario, folder=folder, split=split)[1]
  return {
    "name": _matcher_name(metadata),
    "recall": json.loads(metadata["recall"]),
  }


def retrieved(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> dict[int, bool] | None:
  """Returns by user whether the matcher retrieved the target by itself.

  Raises:
    InputError: the candidates were written by an older build.
  """
  if scenario.candidates != "hard":
    return None
  frame, _ = _matched(scenario, folder=folder, split=split)
  unforced = frame["matched_at"].is_between(0, scenario.negatives)
  return dict(zip(frame["user"].to_list(), unforced.to_list(), strict=True))


def candidate_bytes(requests: Sequence[RankingRequest]) -> bytes:
  """Returns the bytes that candidate lists are hashed by.

  Per request, as int32: user (-1 for none), target, and the candidates' item
  numbers.
  """
  return b"".join(
    np.array(
      [-1 if r.user is None else r.user, r.target, *r.candidate_items], np.int32
    ).tobytes()
    for r in requests
  )


def with_catalogue(
  requests: Iterator[RankingRequest],
  folder: DatasetFolder,
  titles: Sequence[str],
  *,
  split: str,
) -> Iterator[RankingRequest]:
  """Replaces candidates by the catalogue.

  Left out are the user's own items that the split's phase knows, and those with
  the target's title. `titles` are the items', as candidates are shown.
  """
  known = folder.known_items(split)
  shown = np.array(titles, object)
  groups = folder.title_groups
  for request in requests:
    assert request.user is not None and request.target is not None
    target = request.candidate_items[request.target]
    keep = groups != groups[target]
    keep[known.user(request.user)] = False
    keep[target] = True
    items = np.flatnonzero(keep)
    yield dataclasses.replace(
      request,
      candidates=tuple(shown[items]),
      candidate_items=tuple(items.tolist()),
      target=int(np.searchsorted(items, target)),
    )


def checked(
  requests: Iterator[RankingRequest],
  scenario: Scenario,
  stored: Candidates,
  path: pathlib.Path,
) -> Iterator[RankingRequest]:
  """Yields the requests.

  Raises:
    InputError: a request's candidates differ from the stored ones.
  """
  row_of_key = {int(key): row for row, key in enumerate(stored.keys)}
  for request in requests:
    key = request.user
    if scenario.candidates == "items" and request.target is not None:
      key = request.candidate_items[request.target]
    row = row_of_key.get(-1 if key is None else key)
    items = list(request.candidate_items)
    if row is None or (
      items[0] not in stored.candidates[row]
      if scenario.pointwise
      else request.target != stored.target[row]
      or not np.array_equal(items, stored.candidates[row])
    ):
      raise InputError(
        f"{path}, request {request.request_id}: its candidates are not those "
        "in candidates/; run `instructrec build --force` again."
      )
    yield request


def without_text(
  folder: DatasetFolder,
  stored: Candidates,
  *,
  name: str,
  split: str,
  rows: np.ndarray,
) -> Iterator[RankingRequest]:
  """Yields requests with an empty instruction, for rankers that read none.

  Their ids begin with the scenario's `name`, as those that `build` writes.
  """
  titles = [item.title for item in folder.items]
  targets = getattr(folder.splits, split)
  for row in rows:
    user, position = int(targets.users[row]), int(targets.positions[row])
    items = stored.candidates[row].tolist()
    yield RankingRequest(
      request_id=f"{name}-{user}",
      instruction="",
      candidates=tuple(titles[item] for item in items),
      target=int(stored.target[row]),
      user=user,
      history_items=tuple(folder.sequences.user(user)[:position].tolist()),
      candidate_items=tuple(items),
    )


def _frame(key: str, lists: Candidates) -> pl.DataFrame:
  rows = pl.Series(lists.candidates).cast(pl.List(pl.Int32))
  return pl.DataFrame(
    {key: lists.keys, "candidates": rows, "target": lists.target}
  )


def _matcher_name(metadata: Mapping[str, str]) -> str:
  """Returns whose the hard negatives are, as the row of a table is called."""
  name = metadata["matcher"]
  # Before it was written down what they read, they also read categories.
  is_older = "reads" not in metadata and name in ("bm25", "tfidf")
  return f"{name}_categories" if is_older else name


def _matched(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> tuple[pl.DataFrame, dict[str, str]]:
  path = candidates_path(scenario, folder=folder, split=split)
  metadata = parquet.metadata(path, remedy=_REMEDY)
  if "recall" not in metadata:
    raise InputError(
      f"{path}: an older build wrote it, without the matcher's recall; run "
      "`instructrec build --force` again."
    )
  columns = {"user": int, "matched_at": int}
  return parquet.read(path, columns, remedy=_REMEDY), metadata
