"""Which requests a scenario ranks: one stored list, the same for everybody."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from instructrec_jax.data import held_out as lists
from instructrec_jax.data.folder import DatasetFolder, requests_file
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.scenario_requests import ScenarioWriter, sample
from instructrec_jax.evaluation.scenarios import Scenario, find_scenarios
from instructrec_jax.instructions.forms import Form
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import count_requests, read_requests

# Whole catalogues are long: unless told otherwise, so many requests of them.
CATALOGUE_SAMPLE = 200


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSource:
  """Requests that can be read, once or again.

  Attributes:
    path: the file that they come from.
    count: how many there are.
    candidates: the most that a request has.
    template: the form of the instructions; none has no instructions.
    read: starts reading from the first.
  """

  path: pathlib.Path
  count: int
  candidates: int
  template: str | None
  read: Callable[[], Iterator[RankingRequest]]


def find_available(
  names: Sequence[str], *, folder: DatasetFolder, split: str, need_text: bool
) -> list[Scenario]:
  """Returns the named scenarios; "all" means those that a folder has.

  Instructions can be missing for want of annotations, categories or a build;
  candidates, because the catalogue was too small.

  Raises:
    InputError: there is no scenario of such a name.
  """
  scenarios = find_scenarios(names)
  if "all" not in names:
    return scenarios
  # If there is none, the first one will tell why.
  return [
    scenario
    for scenario in scenarios
    if _requests_path(scenario, folder, split).exists()
    or (
      not need_text
      and _needs_no_text(scenario)
      and lists.candidates_path(scenario, folder=folder, split=split).exists()
    )
  ] or scenarios[:1]


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
    limit: only a random sample of so many.
    seed: of the sample; scenarios over the same users sample the same ones.

  Raises:
    InputError: the requests are needed and absent or, while reading, they
      differ from the folder's candidates.
  """
  path = _requests_path(scenario, folder, split)
  if not path.exists() and (need_text or not _needs_no_text(scenario)):
    raise InputError(
      f"{path}: no such file; `instructrec build --dataset {folder.path}` "
      f"makes it, where the dataset has what {scenario.label} shows (see "
      "`requests` in its instructions.json)."
    )
  stored = lists.stored_candidates(scenario, folder=folder, split=split)
  limit = limit or default_limit(scenario)
  template = None
  if path.exists():
    template = pl.read_parquet_metadata(path).get("template")
    rows = sample(count_requests(path), limit=limit, seed=seed)

    def read() -> Iterator[RankingRequest]:
      picked = _pick(read_requests(path), rows)
      return lists.checked(picked, scenario, stored, path)
  else:
    rows = sample(len(stored.keys), limit=limit, seed=seed)
    path = lists.candidates_path(scenario, folder=folder, split=split)

    def read() -> Iterator[RankingRequest]:
      return lists.without_text(folder, stored, split=split, rows=rows)

  return _source(
    scenario,
    folder,
    path=path,
    count=len(rows),
    template=template,
    read=read,
  )


def worded_requests(
  scenario: Scenario,
  *,
  folder: DatasetFolder,
  writer: ScenarioWriter,
  form: Form,
  split: str,
  limit: int | None = None,
  seed: int = 0,
) -> RequestSource:
  """Returns a scenario's requests in the words of a form.

  They are those of `find_requests`, with the same candidates; each time they
  are read they are worded anew.

  Args:
    scenario: whose requests.
    folder: built.
    writer: words as the build did.
    form: of the scenario's family.
    split: "validation" or "test".
    limit: only a random sample of so many.
    seed: of the sample.

  Raises:
    InputError: the folder was built from other annotations than it has.
  """
  path = _requests_path(scenario, folder, split)
  total, _ = writer.requests(scenario, split=split, form=form)
  if total != count_requests(path):
    raise InputError(
      f"{path}: the annotations have changed since it was built; run "
      "`instructrec build --force` again."
    )
  limit = limit or default_limit(scenario)
  write = functools.partial(
    writer.requests, scenario, split=split, form=form, limit=limit, seed=seed
  )
  return _source(
    scenario,
    folder,
    path=path,
    count=min(total, limit or total),
    template=form.name,
    read=lambda: write()[1],
  )


def default_limit(scenario: Scenario) -> int | None:
  """Returns how many requests are ranked where nobody says."""
  return CATALOGUE_SAMPLE if scenario.candidates == "catalogue" else None


def _source(
  scenario: Scenario,
  folder: DatasetFolder,
  *,
  path: pathlib.Path,
  count: int,
  template: str | None,
  read: Callable[[], Iterator[RankingRequest]],
) -> RequestSource:
  if scenario.candidates == "catalogue":
    size = len(folder.items)
    return RequestSource(
      path,
      count,
      size,
      template,
      lambda: lists.with_catalogue(
        read(), folder, display_titles(folder.items)
      ),
    )
  # Yes and No, or items.
  candidates = 2 if scenario.pointwise else 1 + scenario.negatives
  return RequestSource(path, count, candidates, template, read)


def _needs_no_text(scenario: Scenario) -> bool:
  """Whether every user has what the scenario shows: a history."""
  return scenario.history_alone and not scenario.pointwise


def _requests_path(
  scenario: Scenario, folder: DatasetFolder, split: str
) -> pathlib.Path:
  return folder.path / requests_file(scenario.name, split)


def _pick(
  requests: Iterator[RankingRequest], rows: np.ndarray
) -> Iterator[RankingRequest]:
  wanted = set(rows.tolist())
  for row, request in enumerate(requests):
    if row in wanted:
      yield request
