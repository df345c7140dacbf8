"""The steps of a reproduction, in their order."""

import pathlib

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.evaluation.rankers import READERS, find_rankers
from instructrec_jax.reproduction import commands
from instructrec_jax.reproduction.experiments import (
  HELD_OUT,
  LADDER,
  UNSEEN,
  Experiment,
  lack,
  scenario,
  unranked,
)
from instructrec_jax.reproduction.settings import VOCABULARY_SIZE, Settings
from instructrec_jax.reproduction.steps import CLI, Step
from instructrec_jax.teacher.store import FILE as ANNOTATIONS_FILE


def preparation(settings: Settings) -> list[Step]:
  """Returns what the dataset folders still need before anything else."""
  dataset = settings.dataset
  vocabulary = ["--train-vocab", str(VOCABULARY_SIZE)]
  if settings.vocabulary:
    vocabulary = ["--vocab", str(settings.vocabulary)]
  elif (dataset / "vocabulary.model").exists():
    vocabulary = ["--vocab", str(dataset / "vocabulary.model")]
  steps = [
    Step(
      "annotate",
      "preferences and intentions, by the offline teacher",
      (CLI, "annotate", "--teacher", "offline", "--dataset", str(dataset)),
      proof=dataset / ANNOTATIONS_FILE,
      unless=dataset / ANNOTATIONS_FILE,
      gradual=True,
    ),
    commands.build(
      "build", settings, dataset, [*vocabulary, "--matcher", "two_tower"]
    ),
  ]
  if settings.unseen:
    own = ["--vocab", str(dataset / "vocabulary.model")]
    families = ["--families", "p1_i0_t3"]
    steps.append(
      commands.build("build_unseen", settings, settings.unseen, own + families)
    )
  return steps


def experiment_steps(settings: Settings) -> list[Step]:
  """Returns all steps after the preparation; the folders must be built."""
  dataset, out = settings.dataset, settings.out
  steps = [
    Step(
      "statistics",
      "Tables 2 and 5: what the dataset and its annotations count",
      (CLI, "statistics", "--dataset", str(dataset), "--json"),
      proof=out / "statistics.json",
      outputs=(out / "statistics.json",),
      reads=commands.built(dataset),
      prints=True,
    ),
    commands.sheet(settings),
    commands.train(
      "train",
      "the model, on all instructions",
      settings,
      mixture="instructrec_all_v1",
      model=settings.model,
      steps=settings.steps,
      validation="sequential",
    ),
  ]
  tables = [e for e in settings.experiments if e.scenarios]
  asked = [s.name for e in tables if e.chatted for s in e.scenarios]
  if settings.chat and asked:
    steps.append(_chat("chat", settings, dataset, asked))
  for experiment in tables:
    steps.append(
      commands.evaluate(
        experiment.name,
        f"{experiment.title}: "
        + ", ".join(s.name for s in experiment.scenarios),
        settings,
        scenarios=[s.name for s in experiment.scenarios],
        rankers=_rankers_for(experiment, settings),
        chat=_answered(settings) if experiment.chatted else (),
      )
    )
  if settings.unseen and not unranked(scenario(UNSEEN), settings.all_names):
    if settings.chat:
      steps.append(_chat("chat_unseen", settings, settings.unseen, [UNSEEN]))
    steps.append(
      commands.evaluate(
        "table_11",
        "Table 11: another domain",
        settings,
        dataset=settings.unseen,
        scenarios=[UNSEEN],
        chat=_answered(settings),
      )
    )
  if commands.decile_rankers(settings):
    steps.append(commands.deciles(settings))
  if not lack(dataset, scenario(HELD_OUT)):
    for rung, added in enumerate(LADDER, start=1):
      steps += _rung(settings, rung, added)
  return steps


def _chat(
  name: str, settings: Settings, dataset: pathlib.Path, scenarios: list[str]
) -> Step:
  """Asks all at once, so that the caps hold; the answers are kept."""
  return commands.evaluate(
    name,
    f"the chat model's answers, of {dataset}",
    settings,
    dataset=dataset,
    scenarios=scenarios,
    rankers=["random"],
    chat=(*settings.chat, *settings.chat_caps),
  )


def _answered(settings: Settings) -> tuple[str, ...]:
  """Options of a chat model that has answered: nothing more is paid for."""
  return (*settings.chat, "--max-requests", "0") if settings.chat else ()


def _rankers_for(experiment: Experiment, settings: Settings) -> list[str]:
  if experiment.scenarios[0].candidates != "catalogue":
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


def _rung(settings: Settings, rung: int, added: str) -> list[Step]:
  name, model = f"ladder_{rung}", settings.out / "ladder" / str(rung)
  return [
    commands.train(
      f"{name}_train",
      f"Figure 3, rung {rung}: {added}",
      settings,
      mixture=f"instructrec_ladder{rung}_v1",
      model=model,
      steps=settings.ladder_steps,
    ),
    commands.evaluate(
      name,
      f"Figure 3, rung {rung}: held out, {HELD_OUT}",
      settings,
      scenarios=[HELD_OUT],
      rankers=["model"],
      model=model,
      needs=f"{name}_train",
    ),
  ]
