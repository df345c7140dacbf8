"""What an evaluation is to do: checked before anything is loaded or sent."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError, check_counts, check_seed
from instructrec_jax.evaluation import probe as probe_lib
from instructrec_jax.evaluation import steering
from instructrec_jax.evaluation.rankers import (
  REASONED,
  TEXT_READERS,
  UNLISTED,
  entry_of,
  find_rankers,
  with_rankers,
)
from instructrec_jax.evaluation.requests import (
  RequestSource,
  TemplateForms,
  find_available,
  find_requests,
)
from instructrec_jax.evaluation.runs import (
  RunRanker,
  ScoresRanker,
  is_run,
  read_run,
)
from instructrec_jax.evaluation.selection import SELECT
from instructrec_jax.evaluation.writing import Asked, Tasks
from instructrec_jax.instructions.scenarios import (
  Scenario,
  Writing,
  find_writing,
)
from instructrec_jax.instructions.templates import Form
from instructrec_jax.scoring.normalisation import BOUNDED, Normalisation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What to rank and by whom, and what has a model write.

  Attributes:
    models: folders of models, by the rows "model" and "zero_shot".
    rankers: names, in the table's order; none if nothing is ranked.
    scenarios: those that some ranker can rank.
    sources: the requests of each of these.
    forms: to select templates from; None ranks what was built.
    need_text: some ranker reads instructions.
    permutations: orders of listed candidates that a model reads.
    normalisation: of the model's second row, if it is not the sum; or "select".
    runs: the rankers that are other tools' runs.
    covered: for each of these, the names of the scenarios that it ranks.
    tasks: where texts to be written come from, if any are.
    texts: what is asked for of each of these tasks.
    limit: requests of each scenario, if not all.
    resamples: of the bootstrap.
  """

  folder: DatasetFolder
  models: Mapping[str, pathlib.Path]
  rankers: Sequence[str]
  scenarios: Sequence[Scenario]
  sources: Sequence[RequestSource]
  forms: TemplateForms | None
  need_text: bool
  split: str
  permutations: int
  normalisation: str
  runs: Mapping[str, RunRanker]
  covered: Mapping[str, frozenset[str]]
  tasks: Tasks | None
  texts: Mapping[Writing, Sequence[Asked]]
  limit: int | None
  resamples: int
  seed: int

  @property
  def selected(self) -> str | None:
    """Name of the ranker that templates and normalisations are chosen for."""
    return next((n for n in self.rankers if entry_of(n).is_selected), None)

  def orders(self, scenario: Scenario) -> int:
    """Returns how many orders of the candidates the model reads."""
    return self.permutations if scenario.reranks else 1

  def applies(self, name: str, scenario: Scenario) -> bool:
    """Whether a ranker can rank the scenario's requests."""
    if name in self.covered:
      return scenario.name in self.covered[name]
    return entry_of(name).applies(scenario)

  def requests(
    self,
    scenario: Scenario,
    split: str,
    *,
    form: Form | None,
    limit: int | None = None,
  ) -> RequestSource:
    """Returns requests rendered with a form, or the built ones."""
    limit = limit or self.limit
    if form and self.forms:
      return self.forms.requests(scenario, form=form, split=split, limit=limit)
    return find_requests(
      scenario,
      folder=self.folder,
      split=split,
      need_text=self.need_text,
      limit=limit,
      seed=self.seed,
    )


def find_plan(
  *,
  dataset: pathlib.Path,
  model: pathlib.Path | None = None,
  zero_shot: pathlib.Path | None = None,
  has_chat: bool = False,
  text_encoder: str | None = None,
  scenarios: Sequence[str] = ("all",),
  rankers: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  permutations: int = 1,
  select_template: bool = False,
  normalisation: str = Normalisation.SUM,
  resamples: int = 1,
  seed: int = 0,
  probe: bool = False,
  cutoff: str | None = None,
  steer: bool = False,
  reason: bool = False,
) -> Plan:
  """Checks the arguments of `evaluate.evaluate`, and finds what they name.

  Raises:
    InputError: an argument is unknown or of no use beside the others, or
      something is missing.
  """
  folder = DatasetFolder.open(dataset)
  if split not in ("validation", "test"):
    raise InputError(f"there is no split {split!r}: validation or test.")
  if limit is not None:
    check_counts(limit=limit)
  check_counts(permutations=permutations)
  check_counts(most=1_000_000, resamples=resamples)
  check_seed(seed)
  models = {"model": model, "zero_shot": zero_shot}
  models = {
    name: pathlib.Path(path)
    for name, path in models.items()
    if path is not None
  }
  if reason and model is None:
    raise InputError("--reason has a model tell the taste: add --model.")
  written, ranked = find_writing(scenarios)
  if reason:
    rankers = (*rankers, *_reasoning(ranked, folder=folder, split=split))
  names = find_rankers(
    rankers, folder=folder, model=model, zero_shot=zero_shot, chat=has_chat
  )
  entries = list(map(entry_of, names))
  if text_encoder is not None and not set(TEXT_READERS) & set(names):
    raise InputError(
      "--text-encoder is used by none of the rankers chosen: name one of "
      f"{', '.join(TEXT_READERS)} in --rankers."
    )
  if permutations > 1 and not any(e.is_language_model for e in entries):
    raise InputError("--permutations is of a model's prompt: add --model.")
  if normalisation not in (*Normalisation, SELECT):
    raise InputError(
      f"there is no normalisation {normalisation!r}: name one of "
      f"{', '.join((*Normalisation, SELECT))}."
    )
  is_chosen = select_template or normalisation != Normalisation.SUM
  # A search by bounds has a normalisation, but no templates to choose from.
  is_searched = normalisation in BOUNDED and not select_template
  if is_chosen and not (
    any(entry.is_selected for entry in entries)
    or ("catalogue" in names and is_searched)
  ):
    raise InputError(
      "templates and normalisations are a model's: add --model, and rank it."
    )
  if probe and not models:
    raise InputError("--probe asks a model: add --model or --zero-shot.")
  if cutoff is not None:
    if not probe:
      raise InputError("--cutoff is of --probe: add it.")
    probe_lib.parse_cutoff(cutoff)
  if steer and not set(steering.STEERED) & set(names):
    raise InputError(
      "--steer changes what rankers read: name one of "
      f"{', '.join(steering.STEERED)} in --rankers."
    )
  if written and not models:
    raise InputError(
      f"{written[0].name} is written by a model: add --model, or leave the "
      "scenario out."
    )
  need_text = any(entry.reads_prompt for entry in entries)
  tasks, texts = None, {}
  if written:
    # What it lacks is told before anything is ranked.
    tasks = Tasks(folder, split=split, seed=seed)
    texts = tasks.find(written, limit=limit)
  chosen, sources = [], []
  if ranked:
    chosen, sources = find_sources(
      ranked,
      names,
      folder=folder,
      split=split,
      need_text=need_text,
      limit=limit,
      seed=seed,
    )
  if steer and not any(map(steering.is_steered, chosen)):
    raise InputError(
      "--steer changes the words of a query, and none of the scenarios has "
      "one: name one of a search in --scenarios, such as personalised_i2."
    )
  if not chosen:
    # Nothing is ranked, so there is nothing to fit or to load.
    names = []
  runs = {
    pathlib.PurePath(name).name: read_run(pathlib.Path(name), folder.items)
    for name in names
    if is_run(name)
  }
  return Plan(
    folder=folder,
    models=models,
    rankers=[name for name in names if not is_run(name)],
    scenarios=chosen,
    sources=sources,
    forms=TemplateForms(folder, seed=seed) if select_template else None,
    need_text=need_text,
    split=split,
    permutations=permutations,
    normalisation=str(normalisation),
    runs=runs,
    covered={
      name: _covered(run, chosen, sources, split) for name, run in runs.items()
    },
    tasks=tasks,
    texts=texts,
    limit=limit,
    resamples=resamples,
    seed=seed,
  )


def _reasoning(
  scenarios: Sequence[str], *, folder: DatasetFolder, split: str
) -> Sequence[str]:
  """Returns the rankers of a model that tells the taste first."""
  found = find_available(scenarios, folder=folder, split=split, need_text=True)
  if not any(map(entry_of(REASONED).applies, found)):
    raise InputError(
      "--reason is of scenarios of a history alone, and there is none: name "
      "one in --scenarios, such as sequential."
    )
  # Where candidates are listed it is what else differs.
  has_list = any(map(entry_of(UNLISTED).applies, found))
  return (REASONED, *(UNLISTED,) * has_list)


def find_sources(
  scenarios: Sequence[str],
  rankers: Sequence[str],
  *,
  folder: DatasetFolder,
  split: str,
  need_text: bool,
  limit: int | None,
  seed: int,
) -> tuple[list[Scenario], list[RequestSource]]:
  """Returns the scenarios that some ranker can rank, and their requests.

  Raises:
    InputError: there is none, or it has no requests.
  """
  available = find_available(
    scenarios, folder=folder, split=split, need_text=need_text
  )
  chosen = with_rankers(available, rankers)
  sources = [
    find_requests(
      scenario,
      folder=folder,
      split=split,
      need_text=need_text,
      limit=limit,
      seed=seed,
    )
    for scenario in chosen
  ]
  for source in sources:
    if not source.count:
      raise InputError(f"{source.path}: there are no requests to rank.")
  return chosen, sources


def _covered(
  run: RunRanker,
  scenarios: Sequence[Scenario],
  sources: Sequence[RequestSource],
  split: str,
) -> frozenset[str]:
  """Returns the names of the scenarios that a run ranks.

  Raises:
    InputError: it ranks none of them, or some requests of one, or is of
      requests that were built otherwise.
  """
  found = set()
  for scenario, source in zip(scenarios, sources, strict=True):
    if isinstance(run, ScoresRanker) and (
      # Of these, `score` reads other candidates.
      scenario.pointwise or scenario.candidates == "catalogue"
    ):
      continue
    if not run.covers(source.read()):
      continue
    if isinstance(run, ScoresRanker) and (
      run.requests_sha256 != storage.sha256_of(source.path)
    ):
      raise InputError(
        f"{run.path}: its scores are not of {source.path} as it is now: score "
        "that file, or name what was scored of it."
      )
    found.add(scenario.name)
  if not found:
    first = next(iter(sources[0].read())).request_id
    raise InputError(
      f"{run.path}: it ranks no {split} request of "
      f"{', '.join(s.name for s in scenarios)}, whose ids are such as "
      f"{first!r}."
    )
  return frozenset(found)
