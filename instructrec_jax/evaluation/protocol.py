"""Which requests a scenario ranks: one stored list, the same for everybody."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from instructrec_jax.data.candidates import Candidates
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import count_requests, read_requests


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSource:
  """Requests that can be read, once or again.

  Attributes:
    path: the file that they come from.
    count: how many there are.
    read: starts reading from the first.
  """

  path: pathlib.Path
  count: int
  read: Callable[[], Iterator[RankingRequest]]


def has_candidates(
  scenario: Scenario, *, folder: DatasetFolder, split: str
) -> bool:
  """Whether the catalogue was large enough for the scenario's negatives."""
  return _candidates_path(scenario, folder, split).exists()


def find_requests(
  scenario: Scenario,
  *,
  folder: DatasetFolder,
  split: str,
  need_text: bool,
  limit: int | None = None,
  seed: int = 0,
) -> RequestSource:
  """Returns a scenario's built requests or, failing those, bare candidates.

  Args:
    need_text: refuse bare candidates, whose instruction is empty.
    limit: a random sample of so many; users are often stored in an order that
      tells them apart, so the first ones would not do.
    seed: of the sample; scenarios over the same users sample the same ones.

  Raises:
    InputError: the requests are needed and absent or, while reading, they
      differ from the folder's candidates.
  """
  stored = folder.candidates(split, scenario.negatives)
  path = folder.path / "requests" / f"{scenario.name}_{split}.parquet"
  if path.exists():
    rows = _sample(count_requests(path), limit, seed)
    return RequestSource(
      path,
      len(rows),
      lambda: _checked(_pick(read_requests(path), rows), stored, path),
    )
  if need_text:
    raise InputError(
      f"{path}: no such file, and a model needs its instructions; run "
      f"`instructrec build --dataset {folder.path}` first."
    )
  rows = _sample(len(stored.users), limit, seed)
  return RequestSource(
    _candidates_path(scenario, folder, split),
    len(rows),
    lambda: _without_text(folder, stored, split=split, rows=rows),
  )


def candidate_bytes(requests: Sequence[RankingRequest]) -> bytes:
  """Returns what the hash of candidate lists is taken over.

  Per request, as int32: user, target, and the candidates' item numbers.
  """
  return b"".join(
    np.array([r.user, r.target, *r.candidate_items], np.int32).tobytes()
    for r in requests
  )


def _candidates_path(
  scenario: Scenario, folder: DatasetFolder, split: str
) -> pathlib.Path:
  name = f"{split}_{scenario.negatives}.parquet"
  return folder.path / "candidates" / name


def _sample(count: int, limit: int | None, seed: int) -> np.ndarray:
  """Returns the rows to rank, ascending."""
  if limit is None or limit >= count:
    return np.arange(count)
  return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _pick(
  requests: Iterator[RankingRequest], rows: np.ndarray
) -> Iterator[RankingRequest]:
  wanted = set(rows.tolist())
  for row, request in enumerate(requests):
    if row in wanted:
      yield request


def _checked(
  requests: Iterator[RankingRequest], stored: Candidates, path: pathlib.Path
) -> Iterator[RankingRequest]:
  """Yields the requests; stops at one whose candidates are not the stored."""
  row_of_user = {int(user): row for row, user in enumerate(stored.users)}
  for request in requests:
    row = row_of_user.get(-1 if request.user is None else request.user)
    if (
      row is None
      or request.target != stored.target[row]
      or not np.array_equal(request.candidate_items, stored.candidates[row])
    ):
      raise InputError(
        f"{path}, request {request.request_id}: its candidates are not those "
        "in candidates/; run `instructrec build --force` again."
      )
    yield request


def _without_text(
  folder: DatasetFolder,
  stored: Candidates,
  *,
  split: str,
  rows: np.ndarray,
) -> Iterator[RankingRequest]:
  """Yields requests that have everything but the instruction."""
  titles = [item.title for item in folder.items]
  # Validation hides the test item as well as its own.
  held_out = {"test": 1, "validation": 2}[split]
  for row in rows:
    user = int(stored.users[row])
    items = stored.candidates[row].tolist()
    yield RankingRequest(
      request_id=str(row),
      instruction="",
      candidates=tuple(titles[item] for item in items),
      target=int(stored.target[row]),
      user=user,
      history_items=tuple(folder.sequences.user(user)[:-held_out].tolist()),
      candidate_items=tuple(items),
    )
