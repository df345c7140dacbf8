"""The rankers that a table can have, by name."""

import pathlib
from collections.abc import Sequence

from instructrec_jax.baselines.cooccurrence import CooccurrenceRanker
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.baselines.planted import PlantedRanker
from instructrec_jax.baselines.popularity import PopularityRanker, RandomRanker
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation.labels import LabelRanker
from instructrec_jax.evaluation.scenarios import Scenario
from instructrec_jax.records import Ranker

# What a model must beat, fitted here and now.
BASELINES: tuple[str, ...] = (
  "random",
  "popularity",
  "bm25",
  "tfidf",
  "cooccurrence",
)
# Trained once, in minutes, and kept in the dataset folder: only when named.
TRAINED: tuple[str, ...] = ("sasrec", "bert4rec", "dssm", "tem", "two_tower")
# Of those, the ones that compare texts, and the ones that need a query.
TOWERS: tuple[str, ...] = ("dssm", "tem", "two_tower")
SEARCHERS: tuple[str, ...] = ("dssm", "tem")
# The model in other ways: the exact top of a whole catalogue, and candidates
# by letter.
OF_MODEL: tuple[str, ...] = ("catalogue", "labels")
# Another model, such as one that was not tuned, and a chat model.
OTHER_MODELS: tuple[str, ...] = ("zero_shot", "chat")
# Those that read instructions.
READERS: tuple[str, ...] = (*OTHER_MODELS, "model", *OF_MODEL)
# In the table's order; `planted` is a synthetic shop's ceiling.
RANKERS: tuple[str, ...] = (*BASELINES, *TRAINED, *READERS, "planted")


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
  way.

  Raises:
    InputError: a name is unknown, or the model it needs is missing.
  """
  for name in names:
    if name not in ("all", *RANKERS):
      raise InputError(
        f"there is no ranker {name!r}: name some of all, {', '.join(RANKERS)}."
      )
  for name in ("model", *OF_MODEL):
    if name in names and model is None:
      raise InputError(
        f"the ranker {name!r} needs a model folder: add --model."
      )
  if "zero_shot" in names and zero_shot is None:
    raise InputError(
      "the ranker 'zero_shot' is another model: add --zero-shot."
    )
  if ("chat" in names) != chat:
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
  wanted = set(names)
  if "all" in names:
    wanted |= set(BASELINES)
    if (folder.path / "planted.json").exists():
      wanted.add("planted")
    if model is not None:
      wanted.add("model")
    if zero_shot is not None:
      wanted.add("zero_shot")
  return [name for name in RANKERS if name in wanted]


def load_ranker(
  name: str,
  *,
  folder: DatasetFolder,
  model: pathlib.Path | None,
  zero_shot: pathlib.Path | None = None,
  text_encoder: str | None = None,
) -> Ranker:
  """Loads or fits one of `RANKERS`; baselines see training items alone.

  Not `chat`, which ranks samples: see `chat_sample`.
  The model's requests are split over all devices, of other processes too.

  Args:
    name: of the ranker.
    folder: the dataset, which keeps what is trained.
    model: of the rankers that are one.
    zero_shot: of the ranker of that name.
    text_encoder: see `tower_ranker.TowerOptions`.

  Raises:
    InputError: what it needs is missing or damaged.
  """
  if name == "random":
    return RandomRanker()
  if name == "planted":
    return PlantedRanker.load(folder.path)
  if name == "bm25" or name == "tfidf":
    return LexicalRanker.fit(folder.items, kind=name)
  if name in TOWERS:
    return _fit_towers(name, folder=folder, text_encoder=text_encoder)
  if name in TRAINED:
    # Only from here on is jax needed.
    from instructrec_jax.baselines.sequential import (
      BERT4RecRanker,
      SASRecRanker,
    )

    trained = {"sasrec": SASRecRanker, "bert4rec": BERT4RecRanker}
    return trained[name].fit(folder)
  if name in READERS:
    path = zero_shot if name == "zero_shot" else model
    assert path is not None
    from instructrec_jax import mesh as mesh_lib
    from instructrec_jax.scoring.catalogue import CatalogueRanker
    from instructrec_jax.scoring.reranker import T5Ranker

    mesh = mesh_lib.make_mesh()
    if name == "catalogue":
      return CatalogueRanker.load(path, mesh=mesh)
    ranker = T5Ranker.load(path, mesh=mesh)
    return LabelRanker(ranker) if name == "labels" else ranker
  fitted = {"popularity": PopularityRanker, "cooccurrence": CooccurrenceRanker}
  return fitted[name].fit(
    folder.sequences, num_items=len(folder.items), splits=folder.splits
  )


def _fit_towers(
  name: str, *, folder: DatasetFolder, text_encoder: str | None
) -> Ranker:
  from instructrec_jax.baselines.tower_ranker import TowerOptions
  from instructrec_jax.baselines.towers import (
    DSSMRanker,
    TEMRanker,
    TwoTowerRanker,
  )
  from instructrec_jax.evaluation.searches import SearchMaterial

  options = TowerOptions(text_encoder=text_encoder)
  if name == "two_tower":
    return TwoTowerRanker.fit(folder, options)
  material = SearchMaterial(folder)
  ranker, searches = {
    "dssm": (DSSMRanker, material.impersonal),
    "tem": (TEMRanker, material.personal),
  }[name]
  return ranker.fit_searches(
    folder,
    training=searches("train"),
    validation=searches("validation"),
    options=options,
  )


def applies(name: str, scenario: Scenario) -> bool:
  """Whether a ranker can rank the scenario's requests."""
  if name in SEARCHERS:
    return not scenario.history_alone
  if name == "catalogue":
    return scenario.candidates == "catalogue"
  if name == "chat":
    # A list that a prompt holds.
    return not scenario.pointwise and scenario.candidates != "catalogue"
  return name != "labels" or scenario.lists_candidates


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
        f"the ranker {name!r} is for scenarios "
        + {
          "catalogue": "of the whole catalogue",
          "chat": "of a list of candidates",
          "labels": "of T3",
        }.get(name, "that search")
        + f", not for {', '.join(s.name for s in scenarios)}."
      )
  return [s for s in scenarios if any(applies(name, s) for name in names)]
