"""From a dataset folder to the paper's tables and Figure 3, step by step."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from instructrec_jax.data.folder import (
  ANNOTATIONS_FILE,
  INSTRUCTIONS_FILE,
  MANIFEST_FILE,
  VOCABULARY_FILE,
  DatasetFolder,
  requests_file,
)
from instructrec_jax.evaluation.rankers import READERS, find_rankers
from instructrec_jax.gin_files import find_gin_file
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.reproduction import report
from instructrec_jax.reproduction.experiments import (
  HELD_OUT,
  LADDER,
  SEQUENCES,
  SEQUENTIAL,
  applicable,
  missing_data,
  missing_ranker,
)
from instructrec_jax.reproduction.run import CLI, Execute, Run
from instructrec_jax.reproduction.settings import Settings

# How a folder is built that has no vocabulary: for a model of random weights,
# which has its words and titles from this data alone (docs/results.md).
_FROM_SCRATCH = (
  *("--train-vocab", 6000, "--fold-case", "--pieces", "whole-titles"),
  *("--sequences", "--paraphrases", "--unlisted", 0.7),
  *("--input-length", 320, "--target-length", 64),
)
# What the main model is trained on, and beside it where sequences are built.
_INSTRUCTIONS = "instructrec_all_v1"
_BESIDE_SEQUENCES = (
  f"instructrec_sequences_v1=1,{_INSTRUCTIONS}=4,instructrec_p0_i2_t2_v1=1"
)


def reproduce(
  settings: Settings,
  *,
  execute: Execute | None = None,
  force: bool = False,
  command: str = "",
) -> dict[str, Any]:
  """Runs what has not been run, then writes the report.

  report.md, report.html, tables.csv   the tables
  manifest.json                        what each number comes from
  model/, ladder/, results/            what the steps made
  steps/, logs/                        a record and a log of each

  `force` begins anew, but keeps people's verdicts on the annotations; steps
  run in processes of their own unless `execute` is given; the manifest, which
  is returned, quotes `command`.

  Raises:
    InputError: something is wrong with the settings, or a step failed.
  """
  settings.check()
  with Run(settings.out, execute=execute, force=force) as run:
    ranked = run_steps(run, settings)
    return report.write(settings, ranked, run.records, command)


def run_steps(run: Run, settings: Settings) -> dict[str, str]:
  """Runs the experiment section of the paper, top to bottom.

  Returns:
    The steps that wrote a results.json, each with its table.
  """
  dataset, out, model = settings.dataset, settings.out, settings.model
  seed = ("--seed", settings.seed)
  ranked: dict[str, str] = {}

  # The dataset folders: only what is missing is made.
  run.step(
    "annotate",
    "preferences and intentions, by the offline teacher",
    [CLI, "annotate", "--teacher", "offline", "--dataset", dataset],
    makes=dataset / ANNOTATIONS_FILE,
    keep=True,
    grows=True,
  )
  own = dataset / VOCABULARY_FILE
  vocabulary = settings.vocabulary or (own if own.exists() else None)
  run.step(
    "build",
    f"instructions and requests of {dataset}",
    [
      *(CLI, "build", "--dataset", dataset),
      *(("--vocab", vocabulary) if vocabulary else _FROM_SCRATCH),
      *("--matcher", "two_tower", *seed),
    ],
    makes=dataset / INSTRUCTIONS_FILE,
    keep=True,
  )
  if settings.unseen:
    run.step(
      "build_unseen",
      f"instructions and requests of {settings.unseen}",
      [
        *(CLI, "build", "--dataset", settings.unseen, "--vocab", own),
        *("--families", SEQUENTIAL.family, *seed),
      ],
      makes=settings.unseen / INSTRUCTIONS_FILE,
      keep=True,
    )

  # Tables 2, 3 and 5.
  run.step(
    "statistics",
    "Tables 2 and 5: what the dataset and its annotations count",
    [CLI, "statistics", "--dataset", dataset, "--json"],
    makes=out / "statistics.json",
    reads=_built(dataset),
    prints=True,
  )
  sheet = out / "quality_sheet.csv"
  run.step(
    "quality_sheet",
    "Table 3: a sheet for people to fill",
    [CLI, "annotate", "--dataset", dataset, "--sheet", sheet, *seed],
    makes=sheet,
    reads=_built(dataset),
    # What people have filled in is never replaced.
    keep=True,
  )

  has_sequences = not missing_data(dataset, SEQUENCES)
  _train(
    run,
    "train",
    "the model, on all instructions",
    settings,
    mixture=_BESIDE_SEQUENCES if has_sequences else _INSTRUCTIONS,
    model=model,
    steps=settings.steps,
    validation=SEQUENTIAL,
  )

  # A chat model is asked once a dataset, so that its caps hold; the tables
  # read the answers that are kept, and may ask no more.
  tables = [e for e in settings.experiments if e.scenarios]
  chat = (*settings.chat, "--max-requests", 0) if settings.chat else ()
  asked = [s for e in tables if e.asks_chat for s in e.scenarios]
  if chat and asked:
    _evaluate(
      run,
      "chat",
      f"the chat model's answers, of {dataset}",
      settings,
      scenarios=asked,
      rankers=["random"],
      chat=(*settings.chat, *settings.chat_caps),
    )

  # Tables 6 to 10, what the paper does not have, and the whole catalogue.
  for table in tables:
    names = ", ".join(scenario.name for scenario in table.scenarios)
    _evaluate(
      run,
      table.name,
      f"{table.title}: {names}",
      settings,
      scenarios=table.scenarios,
      rankers=_rankers(table.scenarios, settings),
      chat=chat if table.asks_chat else (),
    )
    ranked[table.name] = table.title

  # Table 11.
  if settings.unseen and not missing_ranker(SEQUENTIAL, settings.all_names):
    if chat:
      _evaluate(
        run,
        "chat_unseen",
        f"the chat model's answers, of {settings.unseen}",
        settings,
        dataset=settings.unseen,
        scenarios=[SEQUENTIAL],
        rankers=["random"],
        chat=(*settings.chat, *settings.chat_caps),
      )
    _evaluate(
      run,
      "table_11",
      "Table 11: another domain",
      settings,
      dataset=settings.unseen,
      scenarios=[SEQUENTIAL],
      rankers=settings.ranker_names,
      chat=chat,
    )
    ranked["table_11"] = "Table 11"

  # HR@1 by popularity, of Table 6's requests.
  table_6 = next((e for e in tables if SEQUENTIAL in e.scenarios), None)
  if table_6:
    run.step(
      "deciles",
      "HR@1 by the popularity of what was bought",
      [
        *("instructrec_jax.reproduction.deciles", "--dataset", dataset),
        *("--results", out / "results" / table_6.name),
        *(*seed, "--out", out / "deciles.json"),
      ],
      makes=out / "deciles.json",
      reads=_built(dataset),
      after=[table_6.name],
    )

  # Figure 3.
  if not missing_data(dataset, HELD_OUT):
    for number, added in enumerate(LADDER, start=1):
      rung, folder = f"ladder_{number}", out / "ladder" / str(number)
      _train(
        run,
        f"{rung}_train",
        f"Figure 3, rung {number}: {added}",
        settings,
        mixture=f"instructrec_ladder{number}_v1",
        model=folder,
        steps=settings.ladder_steps,
      )
      _evaluate(
        run,
        rung,
        f"Figure 3, rung {number}: held out, {HELD_OUT.name}",
        settings,
        scenarios=[HELD_OUT],
        rankers=["model"],
        model=folder,
        after=f"{rung}_train",
      )
      ranked[rung] = f"Figure 3, rung {number}"
  return ranked


def gin_files(recipe: pathlib.Path) -> list[pathlib.Path]:
  """Returns a gin file and all that it includes, as `train` looks for them."""
  found = [recipe]
  for name in re.findall(
    r"^include ['\"](.+)['\"]", recipe.read_text(encoding="utf-8"), re.MULTILINE
  ):
    if path := find_gin_file(name, (str(recipe.parent),)):
      found += gin_files(path)
  return list(dict.fromkeys(found))


def _train(
  run: Run,
  name: str,
  title: str,
  settings: Settings,
  *,
  mixture: str,
  model: pathlib.Path,
  steps: int | None,
  validation: Scenario | None = None,
) -> None:
  """Trains by the recipe, on a mixture."""
  dataset = settings.dataset
  bound: dict[str, str | int] = {
    "MODEL_DIR": str(model),
    "MIXTURE": mixture,
    "DATASET": str(dataset),
    "SEED": settings.seed,
  }
  if steps:
    bound["TRAIN_STEPS"] = steps
  if validation:
    requests = dataset / requests_file(validation.name, "validation")
    bound["VALIDATION_REQUESTS"] = str(requests)
  run.step(
    name,
    title,
    [
      *(CLI, "train", "--gin_file", settings.recipe),
      *(f"--gin.{macro}={json.dumps(value)}" for macro, value in bound.items()),
    ],
    makes=model / "metrics.jsonl",
    clear=model,
    reads=[*gin_files(settings.recipe), *_built(dataset)],
  )


def _evaluate(
  run: Run,
  name: str,
  title: str,
  settings: Settings,
  *,
  scenarios: Sequence[Scenario],
  rankers: Sequence[str],
  dataset: pathlib.Path | None = None,
  model: pathlib.Path | None = None,
  chat: Sequence[Any] = (),
  after: str = "train",
) -> None:
  """Ranks scenarios; by the main model, on the dataset, if nothing is said."""
  dataset, out = dataset or settings.dataset, settings.out / "results" / name
  rankers = applicable([*rankers, *(["chat"] if chat else [])], scenarios)
  names = [scenario.name for scenario in scenarios]
  options = [*_limit(settings), *chat]
  # As the paper does, in the words that are best on validation; not in another
  # domain, whose validation would tell the model of it.
  selects = settings.select_templates and dataset == settings.dataset
  flags = ["--force"]
  if selects and not {"all", "model"}.isdisjoint(rankers):
    flags.insert(0, "--select-template")
  if settings.zero_shot and not {"all", "zero_shot"}.isdisjoint(rankers):
    options += ["--zero-shot", settings.zero_shot]
  run.step(
    name,
    title,
    [
      *(CLI, "evaluate", "--dataset", dataset),
      *("--model", model or settings.model),
      *("--scenarios", ",".join(names), "--rankers", ",".join(rankers)),
      *(*options, "--seed", settings.seed, "--out", out, *flags),
    ],
    makes=out / "results.json",
    clear=out,
    reads=[
      *_built(dataset),
      *(dataset / requests_file(name, "test") for name in names),
    ],
    after=[after],
  )


def _rankers(scenarios: Sequence[Scenario], settings: Settings) -> list[str]:
  if scenarios[0].candidates != "catalogue":
    return list(settings.ranker_names)
  # Of thousands of titles, a model finds the top sooner than it scores all.
  names = find_rankers(
    settings.ranker_names,
    folder=DatasetFolder.open(settings.dataset),
    model=settings.dataset,
    zero_shot=settings.zero_shot,
  )
  kept = [name for name in names if name not in READERS]
  if {"model", "catalogue"}.isdisjoint(names):
    return kept
  return [*kept, "catalogue"]


def _built(dataset: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that identify what a built folder holds."""
  return [dataset / MANIFEST_FILE, dataset / INSTRUCTIONS_FILE]


def _limit(settings: Settings) -> list[Any]:
  return ["--limit", settings.limit] if settings.limit else []
