"""The rankers that a table can have: one registry entry each.

An entry says what its ranker reads, needs and costs. To add a ranker, write a
class with `name` and `score` (`records.Ranker`), a function that loads or fits
it, and an entry in `RANKERS`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from instructrec_jax import storage
from instructrec_jax.baselines.cooccurrence import CooccurrenceRanker
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.baselines.planted import PlantedRanker
from instructrec_jax.baselines.popularity import PopularityRanker, RandomRanker
from instructrec_jax.baselines.searches import Searches
from instructrec_jax.baselines.svd import SvdRanker
from instructrec_jax.data.folder import (
  BUILT,
  INSTRUCTIONS_FILE,
  PLANTED_FILE,
  DatasetFolder,
)
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.prompt_rankers import LabelRanker
from instructrec_jax.evaluation.runs import SUFFIXES, is_run
from instructrec_jax.instructions.aspects import Query
from instructrec_jax.instructions.material import COLD_ITEMS, Facts, Material
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.records import Ranker
from instructrec_jax.scoring.normalisation import Normalisation
from instructrec_jax.teacher.annotations import Annotations

# What can be seen of a request: the user's items, what the user asks for and
# likes in words; of items the titles, the categories, and who bought them in
# training, by their numbers.
READINGS = (
  *("history", "query", "preference"),
  *("titles", "categories", "purchases"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
  """What rankers are loaded or fitted from.

  Attributes:
    folder: the dataset, which keeps what is trained.
    model: a folder of `train` or `export`.
    zero_shot: another such folder, of a model that was not tuned.
    text_encoder: see `tower_ranker.TowerOptions`.
    normalisation: that the catalogue is searched by, where a bound is known.
    load: loads a model; see `load_model`.
  """

  folder: DatasetFolder
  model: pathlib.Path | None
  zero_shot: pathlib.Path | None
  text_encoder: str | None
  normalisation: str
  load: Callable[[pathlib.Path], Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankerEntry:
  """What a ranker reads, needs and costs.

  Attributes:
    load: loads or fits it; None for a chat model (see `chat_sample`).
    needs: the resource without which it cannot be: "" for none, "categories"
      for items that have some, "planted" for a synthetic shop's folder.
    cost: "fitted" anew in seconds; "trained" once, in minutes, and kept in the
      dataset folder; "model" for the inference of a language model; "paid";
      "" for another tool's.
    is_baseline: a model must beat the best of these. Chance is none.
    in_all: part of "all" where what it needs is there.
    reads_prompt: needs the instructions of a built folder.
    needs_query: cannot rank by a history alone.
    is_language_model: its scores depend on the prompt's order and length, so
      permutations and tournaments apply, and [Yes, No] give a margin.
    is_selected: normalisation, template and temperature are chosen for it.
    is_ceiling: the best possible by the history; where more is known it is no
      ceiling, and only shown where it would be alone.
    ranks: which scenarios' requests it can rank, queries apart.
    scenarios: those, in words.
    label: how tables call it, if not by the name of what `load` returns.
    reads: some of `READINGS`: what it sees of a request, if it has that. Those
      that read the prompt see what is in it.
    query_for_history: reads the query in place of the history.
    writes: before it ranks.
  """

  load: Callable[[Resources], Ranker] | None
  needs: Literal["", "categories", "planted", "model", "zero_shot", "chat"] = ""
  cost: Literal["fitted", "trained", "model", "paid", ""] = "fitted"
  is_baseline: bool = False
  in_all: bool = False
  reads_prompt: bool = False
  needs_query: bool = False
  is_language_model: bool = False
  is_selected: bool = False
  is_ceiling: bool = False
  ranks: Callable[[Scenario], bool] = lambda scenario: True
  scenarios: str = "that search"
  label: str = ""
  reads: tuple[str, ...] = ()
  query_for_history: bool = False
  writes: bool = False

  @property
  def warm_up(self) -> int:
    """How many requests are scored before its clock starts; `costs.Metered`.

    A `T5Ranker` tells by itself how long it compiled.
    """
    if self.is_language_model or not self.cost:
      return 0
    if self.cost != "model":
      return 2000
    # Batches of several lengths, each of which compiles.
    return 64 if self.writes else 4

  def applies(self, scenario: Scenario) -> bool:
    """Whether it can rank a scenario's requests."""
    if self.needs_query and scenario.history_alone:
      return False
    return self.ranks(scenario)

  def sees(self, scenario: Scenario) -> tuple[str, ...]:
    """Returns which of `READINGS` it sees of a scenario's requests."""
    if self.reads_prompt:
      return (*scenario.shows, "titles")
    hidden = {"query"} - {*scenario.shows}
    # Items are searched by nobody in particular.
    if (
      self.query_for_history and not hidden
    ) or scenario.candidates == "items":
      hidden |= {"history"}
    return tuple(reading for reading in self.reads if reading not in hidden)

  def sees_beside(self, scenario: Scenario) -> tuple[str, ...]:
    """Returns what it sees of users and items that no prompt shows.

    What all rankers learn from, the training purchases, is not of that.
    """
    shown = (*scenario.shows, "titles", "purchases")
    return tuple(r for r in self.sees(scenario) if r not in shown)


def _fit_counts(
  kind: type[PopularityRanker] | type[CooccurrenceRanker] | type[SvdRanker],
) -> Callable[[Resources], Ranker]:
  return lambda resources: kind.fit(
    resources.folder.sequences,
    num_items=len(resources.folder.items),
    splits=resources.folder.splits,
  )


def _lexical(
  kind: Literal["bm25", "tfidf"], *, categories: bool = False
) -> RankerEntry:
  return RankerEntry(
    load=lambda r: LexicalRanker.fit(
      r.folder.items, kind=kind, categories=categories
    ),
    needs="categories" if categories else "",
    # One row that reads more is enough to see what categories are worth.
    in_all=not categories or kind == "bm25",
    is_baseline=not categories,
    reads=("history", "query", "titles", *(["categories"] * categories)),
    query_for_history=True,
  )


# The loaders below import what needs jax only when they are called.
def _fit_sasrec(resources: Resources) -> Ranker:
  from instructrec_jax.baselines.sequential import SASRecRanker

  return SASRecRanker.fit(resources.folder)


def _fit_bert4rec(resources: Resources) -> Ranker:
  from instructrec_jax.baselines.sequential import BERT4RecRanker

  return BERT4RecRanker.fit(resources.folder)


def _fit_two_tower(resources: Resources) -> Ranker:
  from instructrec_jax.baselines.tower_ranker import TowerOptions
  from instructrec_jax.baselines.towers import TwoTowerRanker

  options = TowerOptions(text_encoder=resources.text_encoder)
  return TwoTowerRanker.fit(resources.folder, options)


def _fit_searches(resources: Resources, *, personal: bool) -> Ranker:
  from instructrec_jax.baselines.tower_ranker import TowerOptions
  from instructrec_jax.baselines.towers import DSSMRanker, TEMRanker

  data = SearchData(resources.folder)
  searches = data.personal if personal else data.impersonal
  return (TEMRanker if personal else DSSMRanker).fit_searches(
    resources.folder,
    training=searches("train"),
    validation=searches("validation"),
    options=TowerOptions(text_encoder=resources.text_encoder),
  )


def load_model(path: pathlib.Path) -> Any:
  """Returns a `T5Ranker`; of a cache of it, all rankers share one model.

  Raises:
    InputError: there is none.
  """
  # Requests are split over all devices, of other processes too.
  from instructrec_jax import mesh as mesh_lib
  from instructrec_jax.scoring.reranker import T5Ranker

  return T5Ranker.load(path, mesh=mesh_lib.make_mesh())


def _present(path: pathlib.Path | None) -> pathlib.Path:
  assert path is not None
  return path


def _load_labels(resources: Resources) -> Ranker:
  from instructrec_jax.scoring.reranker import T5Ranker

  # Of its own, since each counts what it costs.
  model = resources.load(_present(resources.model)).model
  return LabelRanker(T5Ranker(**model))


def _load_reasoned(resources: Resources, *, reason: bool) -> Ranker:
  from instructrec_jax.evaluation import reasoned_ranker

  kind = reasoned_ranker.ReasonedRanker if reason else reasoned_ranker.Unlisted
  return kind.load(
    _present(resources.model), folder=resources.folder, load=resources.load
  )


def _load_catalogue(resources: Resources) -> Ranker:
  from instructrec_jax import mesh as mesh_lib
  from instructrec_jax.scoring.catalogue_ranker import CatalogueRanker

  assert resources.model is not None
  return CatalogueRanker.load(
    resources.model,
    mesh=mesh_lib.make_mesh(),
    normalisation=resources.normalisation,
  )


REASONED, UNLISTED, LABELS = "reasoned", "unlisted", "labels"
# In the table's order.
RANKERS: Mapping[str, RankerEntry] = {
  "random": RankerEntry(load=lambda resources: RandomRanker(), in_all=True),
  "popularity": RankerEntry(
    load=_fit_counts(PopularityRanker),
    in_all=True,
    is_baseline=True,
    reads=("purchases",),
  ),
  "bm25": _lexical("bm25"),
  "tfidf": _lexical("tfidf"),
  # No baselines: they read what no model is shown.
  "bm25_categories": _lexical("bm25", categories=True),
  "tfidf_categories": _lexical("tfidf", categories=True),
  "cooccurrence": RankerEntry(
    load=_fit_counts(CooccurrenceRanker),
    in_all=True,
    is_baseline=True,
    reads=("history", "purchases"),
  ),
  "svd": RankerEntry(
    load=_fit_counts(SvdRanker),
    in_all=True,
    is_baseline=True,
    reads=("history", "purchases"),
  ),
  "sasrec": RankerEntry(
    load=_fit_sasrec,
    cost="trained",
    is_baseline=True,
    reads=("history", "purchases"),
  ),
  "bert4rec": RankerEntry(
    load=_fit_bert4rec,
    cost="trained",
    is_baseline=True,
    reads=("history", "purchases"),
  ),
  "dssm": RankerEntry(
    load=lambda resources: _fit_searches(resources, personal=False),
    cost="trained",
    is_baseline=True,
    reads=("query", "titles"),
    needs_query=True,
  ),
  "tem": RankerEntry(
    load=lambda resources: _fit_searches(resources, personal=True),
    cost="trained",
    is_baseline=True,
    reads=("history", "query", "titles", "purchases"),
    needs_query=True,
  ),
  "two_tower": RankerEntry(
    load=_fit_two_tower,
    cost="trained",
    is_baseline=True,
    reads=("history", "titles", "purchases"),
  ),
  # A model that was not tuned.
  "zero_shot": RankerEntry(
    load=lambda resources: resources.load(_present(resources.zero_shot)),
    needs="zero_shot",
    cost="model",
    in_all=True,
    reads_prompt=True,
    is_language_model=True,
    label="zero-shot",
  ),
  "chat": RankerEntry(
    load=None,
    needs="chat",
    cost="paid",
    reads_prompt=True,
    # A list that a prompt holds.
    ranks=lambda s: not s.pointwise and s.candidates != "catalogue",
    scenarios="of a list of candidates",
  ),
  "model": RankerEntry(
    load=lambda resources: resources.load(_present(resources.model)),
    needs="model",
    cost="model",
    in_all=True,
    reads_prompt=True,
    is_language_model=True,
    is_selected=True,
  ),
  # The model behind its own words, and what else differs: it is asked without
  # a list of the candidates; see `--reason`.
  UNLISTED: RankerEntry(
    load=functools.partial(_load_reasoned, reason=False),
    needs="model",
    cost="model",
    reads_prompt=True,
    ranks=lambda s: s.history_alone and s.lists_candidates,
    scenarios="of a history and a list of candidates",
    label="model, no list",
  ),
  REASONED: RankerEntry(
    load=functools.partial(_load_reasoned, reason=True),
    needs="model",
    cost="model",
    reads_prompt=True,
    # As the package's templates of chain-of-thought do.
    ranks=lambda s: s.history_alone and not (s.pointwise or s.tournament),
    scenarios="of a history alone",
    label="model, reasoning",
    writes=True,
  ),
  # The model's exact top K of a whole catalogue.
  "catalogue": RankerEntry(
    load=_load_catalogue,
    needs="model",
    cost="model",
    reads_prompt=True,
    ranks=lambda scenario: scenario.candidates == "catalogue",
    scenarios="of the whole catalogue",
  ),
  # The model's choice among candidates by letter.
  LABELS: RankerEntry(
    load=_load_labels,
    needs="model",
    cost="model",
    reads_prompt=True,
    ranks=lambda scenario: scenario.lists_candidates,
    scenarios="of T3",
  ),
  "planted": RankerEntry(
    load=lambda resources: PlantedRanker.load(resources.folder.path),
    needs="planted",
    in_all=True,
    is_ceiling=True,
    reads=("history", "purchases"),
  ),
}
# Another tool's scores; see `runs`.
_RUN = RankerEntry(load=None, cost="")
BASELINES = tuple(n for n, r in RANKERS.items() if r.in_all and not r.needs)
TRAINED = tuple(n for n, r in RANKERS.items() if r.cost == "trained")
READERS = tuple(n for n, r in RANKERS.items() if r.reads_prompt)
# Those that `Resources.text_encoder` is for.
TEXT_READERS = ("dssm", "tem", "two_tower")


def entry_of(name: str) -> RankerEntry:
  """Returns the entry of a ranker, or of another tool's run, of any name."""
  return RANKERS.get(name, _RUN)


def find_rankers(
  names: Sequence[str],
  *,
  folder: DatasetFolder,
  model: pathlib.Path | None,
  zero_shot: pathlib.Path | None = None,
  chat: bool = False,
) -> list[str]:
  """Checks names; "all" becomes those that the folder and models allow.

  It leaves out those that take minutes or money, or are the model in another
  way. Files of other tools' runs come last.

  Raises:
    InputError: a name is unknown, or the model it needs is missing.
  """
  runs = [name for name in names if is_run(name)]
  for name in names:
    if name not in ("all", *RANKERS, *runs):
      raise InputError(
        f"there is no ranker {name!r}: name some of all, {', '.join(RANKERS)}, "
        f"or a file ({', '.join(SUFFIXES)})."
      )
  titles = [pathlib.PurePath(run).name for run in runs]
  for title in titles:
    if titles.count(title) > 1:
      raise InputError(
        f"two runs are called {title}, and so would their rows be: rename one."
      )
  named = [(name, entry) for name, entry in RANKERS.items() if name in names]
  for name, entry in named:
    if entry.needs == "model" and model is None:
      raise InputError(
        f"the ranker {name!r} needs a model folder: add --model."
      )
    if entry.needs == "zero_shot" and zero_shot is None:
      raise InputError(
        f"the ranker {name!r} is another model: add --zero-shot."
      )
  if any(entry.cost == "paid" for _, entry in named) != chat:
    raise InputError(
      "a chat model is paid for, so it is asked if --rankers names chat and "
      "--chat-model says which."
    )
  for path in (model, zero_shot):
    if path is not None and not pathlib.Path(path).is_dir():
      raise InputError(
        f"{path}: no such model folder; `instructrec train` or `convert` makes "
        "one."
      )
  available = {
    "": True,
    "categories": any(item.categories for item in folder.items),
    "planted": (folder.path / PLANTED_FILE).exists(),
    "model": model is not None,
    "zero_shot": zero_shot is not None,
  }
  return [
    name
    for name, entry in RANKERS.items()
    if name in names
    or ("all" in names and entry.in_all and available[entry.needs])
  ] + runs


def load_ranker(
  name: str,
  *,
  folder: DatasetFolder,
  model: pathlib.Path | None = None,
  zero_shot: pathlib.Path | None = None,
  text_encoder: str | None = None,
  normalisation: str = Normalisation.SUM,
  load: Callable[[pathlib.Path], Any] = load_model,
) -> Ranker:
  """Loads or fits one of `RANKERS`; baselines see training items alone.

  Not `chat`, which ranks samples (see `chat_sample`).

  Raises:
    InputError: what it needs is missing or damaged.
  """
  make = RANKERS[name].load
  assert make is not None
  return make(
    Resources(folder, model, zero_shot, text_encoder, normalisation, load)
  )


def applies(name: str, scenario: Scenario) -> bool:
  """Whether a ranker can rank the scenario's requests."""
  return entry_of(name).applies(scenario)


def with_rankers(
  scenarios: Sequence[Scenario], names: Sequence[str]
) -> list[Scenario]:
  """Returns the scenarios that some of the rankers can rank.

  Raises:
    InputError: a ranker can rank none of them.
  """
  for name in names:
    if not any(applies(name, scenario) for scenario in scenarios):
      raise InputError(
        f"the ranker {name!r} is for scenarios {entry_of(name).scenarios}, "
        f"not for {', '.join(s.name for s in scenarios)}."
      )
  return [s for s in scenarios if any(applies(name, s) for name in names)]


class SearchData:
  """What search baselines train on: the searches that instructions quote."""

  def __init__(self, folder: DatasetFolder):
    """Reads annotations, and how the folder was built, if it was."""
    self._folder = folder
    manifest = folder.path / INSTRUCTIONS_FILE
    cold_items = COLD_ITEMS[0]
    if manifest.exists():
      cold_items = storage.read_json(manifest, BUILT)["options"]["cold_items"]
    self._material = Material(
      folder, annotations=Annotations.load(folder), cold_items=cold_items
    )

  def personal(self, split: str) -> Searches:
    """Returns the searches of a split's users for their targets.

    By vague and specific intentions, and by preferences in words.
    """
    return _searches(self._material.facts(split))

  def impersonal(self, split: str) -> Searches:
    """Returns the searches for items of the split of the items alone.

    By intentions: without the user a preference says little of the item.
    Product search is tested on items that no search in training was for
    (paper section 3.1.2).
    """
    facts = self._material.facts(split)
    facts = facts.take(np.flatnonzero(facts.in_item_split))
    facts = dataclasses.replace(facts, preferences=[{}] * len(facts.items))
    items = np.flatnonzero(self._folder.item_split == SPLITS.index(split))
    of_items = self._material.item_facts(items.astype(np.int32), split=split)
    return Searches.concatenate([_searches(facts), _searches(of_items)])


def _searches(facts: Facts) -> Searches:
  """Returns one search for each text that a target could be searched by."""
  nothing = [""] * len(facts.items)
  vague = facts.queries.get(Query.VAGUE, nothing)
  specific = facts.queries.get(Query.SPECIFIC, nothing)
  searches = [
    (row, text)
    for row, preferences in enumerate(facts.preferences)
    for text in (*preferences.values(), vague[row], specific[row])
    if text
  ]
  rows = np.array([row for row, _ in searches], np.int64)
  return Searches(
    users=facts.users[rows],
    positions=facts.positions[rows],
    queries=[text for _, text in searches],
    items=facts.items[rows],
  )
