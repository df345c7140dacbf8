"""The rankers that a table can have, by name."""

import pathlib
from collections.abc import Sequence

from instructrec_jax.baselines.cooccurrence import CooccurrenceRanker
from instructrec_jax.baselines.lexical import LexicalRanker
from instructrec_jax.baselines.planted import PlantedRanker
from instructrec_jax.baselines.popularity import PopularityRanker
from instructrec_jax.baselines.random_order import RandomRanker
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.records import Ranker

# What a model must beat, fitted here and now.
BASELINES: tuple[str, ...] = (
  "random",
  "popularity",
  "bm25",
  "tfidf",
  "cooccurrence",
)
# In the table's order; `planted` is a synthetic shop's ceiling.
RANKERS: tuple[str, ...] = (*BASELINES, "model", "planted")


def find_rankers(
  names: Sequence[str], *, folder: DatasetFolder, model: pathlib.Path | None
) -> list[str]:
  """Checks names; "all" becomes those that the folder and model allow.

  Raises:
    InputError: a name is unknown, or the model it needs is missing.
  """
  for name in names:
    if name not in ("all", *RANKERS):
      raise InputError(
        f"there is no ranker {name!r}: name some of all, {', '.join(RANKERS)}."
      )
  if "model" in names and model is None:
    raise InputError("the ranker 'model' needs a model folder: add --model.")
  if model is not None and not pathlib.Path(model).is_dir():
    raise InputError(
      f"{model}: no such model folder; `instructrec train` makes one."
    )
  wanted = set(names)
  if "all" in names:
    wanted |= set(BASELINES)
    if (folder.path / "planted.json").exists():
      wanted.add("planted")
    if model is not None:
      wanted.add("model")
  return [name for name in RANKERS if name in wanted]


def load_ranker(
  name: str, *, folder: DatasetFolder, model: pathlib.Path | None
) -> Ranker:
  """Loads or fits one of `RANKERS`; baselines see training items alone.

  Raises:
    InputError: what it needs is missing or damaged.
  """
  if name == "random":
    return RandomRanker()
  if name == "planted":
    return PlantedRanker.load(folder.path)
  if name == "bm25" or name == "tfidf":
    return LexicalRanker.fit(folder.items, kind=name)
  if name == "model":
    assert model is not None
    # Only here is jax needed.
    from instructrec_jax.scoring.reranker import T5Ranker

    return T5Ranker.load(model)
  fitted = {"popularity": PopularityRanker, "cooccurrence": CooccurrenceRanker}
  return fitted[name].fit(
    folder.sequences, num_items=len(folder.items), splits=folder.splits
  )
