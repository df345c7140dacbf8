"""The commands that steps are made of."""

import json
import pathlib
import re
from collections.abc import Sequence

from instructrec_jax.evaluation.rankers import applies
from instructrec_jax.instructions.scenarios import find_scenarios
from instructrec_jax.reproduction import experiments
from instructrec_jax.reproduction.deciles import SCENARIO
from instructrec_jax.reproduction.experiments import MANIFEST_FILE
from instructrec_jax.reproduction.settings import Settings
from instructrec_jax.reproduction.steps import CLI, Step

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def build(
  name: str, settings: Settings, dataset: pathlib.Path, options: list[str]
) -> Step:
  """Returns `build`, unless the folder is built."""
  return Step(
    name,
    f"instructions and requests of {dataset}",
    (
      *(CLI, "build", "--dataset", str(dataset), *options),
      *("--seed", str(settings.seed)),
    ),
    proof=dataset / MANIFEST_FILE,
    unless=dataset / MANIFEST_FILE,
  )


def sheet(settings: Settings) -> Step:
  """Returns `annotate --sheet`: what people fill for Table 3."""
  path = settings.out / "quality_sheet.csv"
  return Step(
    "quality_sheet",
    "Table 3: a sheet for people to fill",
    (
      *(CLI, "annotate", "--dataset", str(settings.dataset)),
      *("--sheet", str(path), "--seed", str(settings.seed)),
    ),
    proof=path,
    reads=built(settings.dataset),
    # What people have filled in is never replaced.
    unless=path,
  )


def train(
  name: str,
  title: str,
  settings: Settings,
  *,
  mixture: str,
  model: pathlib.Path,
  steps: int | None,
  validation: str | None = None,
) -> Step:
  """Returns `train` by the recipe, on a mixture."""
  bound: dict[str, str | int] = {
    "MODEL_DIR": str(model),
    "MIXTURE": mixture,
    "DATASET": str(settings.dataset),
    "SEED": settings.seed,
  }
  if steps:
    bound["TRAIN_STEPS"] = steps
  if validation:
    requests = (
      settings.dataset / "requests" / f"{validation}_validation.parquet"
    )
    bound["VALIDATION_REQUESTS"] = str(requests)
  return Step(
    name,
    title,
    (
      *(CLI, "train", "--gin_file", str(settings.recipe)),
      *(f"--gin.{name}={json.dumps(value)}" for name, value in bound.items()),
    ),
    proof=model / "metrics.jsonl",
    outputs=(model,),
    reads=(
      *gin_files(settings.recipe),
      *built(settings.dataset),
    ),
    metrics=model / "metrics.jsonl",
  )


def evaluate(
  name: str,
  title: str,
  settings: Settings,
  *,
  scenarios: list[str],
  rankers: list[str] | None = None,
  dataset: pathlib.Path | None = None,
  model: pathlib.Path | None = None,
  chat: tuple[str, ...] = (),
  needs: str = "train",
) -> Step:
  """Returns `evaluate`, of the main model on the dataset if nothing is said."""
  dataset = dataset or settings.dataset
  out = settings.out / "results" / name
  if rankers is None:
    rankers = list(settings.ranker_names)
  names = _that_apply([*rankers, *(["chat"] if chat else [])], scenarios)
  options = [*_limit(settings), *chat]
  if settings.zero_shot and not {"all", "zero_shot"}.isdisjoint(names):
    options += ["--zero-shot", str(settings.zero_shot)]
  return Step(
    name,
    title,
    (
      *(CLI, "evaluate", "--dataset", str(dataset)),
      *("--model", str(model or settings.model)),
      *("--scenarios", ",".join(scenarios), "--rankers", ",".join(names)),
      *(*options, "--seed", str(settings.seed)),
      *("--out", str(out), "--force"),
    ),
    proof=out / "results.json",
    outputs=(out,),
    reads=(
      *built(dataset),
      *(dataset / "requests" / f"{name}_test.parquet" for name in scenarios),
    ),
    needs=(needs,),
  )


def _that_apply(names: Sequence[str], scenarios: Sequence[str]) -> list[str]:
  """Leaves out rankers that are for none of the scenarios."""
  chosen = find_scenarios(scenarios)
  return [
    name
    for name in names
    if name == "all" or any(applies(name, each) for each in chosen)
  ]


def built(dataset: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns the files that tell what a built folder holds."""
  return dataset / "manifest.json", dataset / MANIFEST_FILE


def _limit(settings: Settings) -> list[str]:
  return ["--limit", str(settings.limit)] if settings.limit else []


def decile_rankers(settings: Settings) -> list[str]:
  """Returns whose HR@1 is counted by popularity; none if there is nothing."""
  if experiments.lack(settings.dataset, experiments.scenario(SCENARIO)):
    return []
  names = [name for name in settings.ranker_names if name != "zero_shot"]
  return _that_apply(names, [SCENARIO])


def deciles(settings: Settings) -> Step:
  """Returns what counts HR@1 by popularity."""
  out = settings.out / "deciles.json"
  return Step(
    "deciles",
    "HR@1 by the popularity of what was bought",
    (
      *("instructrec_jax.reproduction.deciles",),
      *("--dataset", str(settings.dataset), "--model", str(settings.model)),
      *("--rankers", ",".join(decile_rankers(settings)), *_limit(settings)),
      *("--seed", str(settings.seed), "--out", str(out)),
    ),
    proof=out,
    outputs=(out,),
    reads=built(settings.dataset),
    needs=("train",),
  )


def gin_files(recipe: pathlib.Path) -> list[pathlib.Path]:
  """Returns a gin file and all that it includes, as `train` looks for them."""
  found = [recipe]
  for name in re.findall(
    r"^include ['\"](.+)['\"]", recipe.read_text(encoding="utf-8"), re.MULTILINE
  ):
    for folder in (pathlib.Path(), recipe.parent, _ROOT):
      if (folder / name).is_file():
        found += gin_files(folder / name)
        break
  return list(dict.fromkeys(found))
