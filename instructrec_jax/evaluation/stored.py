"""Candidates that a dataset folder stores, and requests with just those."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.instructions.requests import (
  StoredCandidates,
  candidates_path,
  stored_candidates,
)
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.records import RankingRequest

__all__ = ["StoredCandidates", "candidates_path", "stored_candidates"]


def matcher(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> dict[str, Any] | None:
  """Returns who retrieved a scenario's hard negatives.

  Its "name", and as "recall" by K the share of targets that are among its best
  K items.

  Raises:
    InputError: the candidates were written by an older build.
  """
  if scenario.candidates != "hard":
    return None
  metadata = _matched(scenario, folder=folder, split=split)[1]
  return {"name": metadata["matcher"], "recall": json.loads(metadata["recall"])}


def retrieved(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> dict[int, bool] | None:
  """Returns by user whether the target was a hard candidate unforced.

  Raises:
    InputError: the candidates were written by an older build.
  """
  if scenario.candidates != "hard":
    return None
  frame, _ = _matched(scenario, folder=folder, split=split)
  unforced = frame["matched_at"].is_between(0, scenario.negatives)
  return dict(zip(frame["user"].to_list(), unforced.to_list(), strict=True))


def _matched(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> tuple[pl.DataFrame, dict[str, str]]:
  path = candidates_path(scenario, folder=folder, split=split)
  metadata = pl.read_parquet_metadata(path)
  if "recall" not in metadata:
    raise InputError(
      f"{path}: an older build wrote it, without the matcher's recall; run "
      "`instructrec build --force` again."
    )
  return pl.read_parquet(path, columns=["user", "matched_at"]), metadata


def candidate_bytes(requests: Sequence[RankingRequest]) -> bytes:
  """Returns what the hash of candidate lists is taken over.

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
  requests: Iterator[RankingRequest], folder: DatasetFolder
) -> Iterator[RankingRequest]:
  """Replaces candidates by all items but the user's own and the target's twins.

  Twins share the target's title: nobody could tell those apart.
  """
  titles = np.array(display_titles(folder.items), object)
  groups = folder.title_groups
  for request in requests:
    assert request.user is not None and request.target is not None
    target = request.candidate_items[request.target]
    keep = groups != groups[target]
    keep[folder.owned.user(request.user)] = False
    keep[target] = True
    items = np.flatnonzero(keep)
    yield dataclasses.replace(
      request,
      candidates=tuple(titles[items]),
      candidate_items=tuple(items.tolist()),
      target=int(np.searchsorted(items, target)),
    )


def checked(
  requests: Iterator[RankingRequest],
  scenario: Scenario,
  stored: StoredCandidates,
  path: pathlib.Path,
) -> Iterator[RankingRequest]:
  """Yields the requests; stops at one whose candidates are not the stored."""
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
  stored: StoredCandidates,
  *,
  split: str,
  rows: np.ndarray,
) -> Iterator[RankingRequest]:
  """Yields requests that have everything but the instruction."""
  titles = [item.title for item in folder.items]
  splits = folder.splits
  targets = splits.test if split == "test" else splits.validation
  for row in rows:
    user, position = int(targets.users[row]), int(targets.positions[row])
    items = stored.candidates[row].tolist()
    yield RankingRequest(
      request_id=str(row),
      instruction="",
      candidates=tuple(titles[item] for item in items),
      target=int(stored.target[row]),
      user=user,
      history_items=tuple(folder.sequences.user(user)[:position].tolist()),
      candidate_items=tuple(items),
    )
