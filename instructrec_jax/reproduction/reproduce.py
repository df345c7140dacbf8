"""From a dataset folder to the paper's tables and Figure 3."""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import report
from instructrec_jax.evaluation.consistency import impossible
from instructrec_jax.evaluation.requests import CATALOGUE_SAMPLE
from instructrec_jax.reproduction import (
  behaviour,
  counts,
  experiments,
  markdown,
  numbers,
  page,
  paper,
  plan,
  provenance,
)
from instructrec_jax.reproduction import sections as sections_lib
from instructrec_jax.reproduction.execution import (
  Execute,
  Runner,
)
from instructrec_jax.reproduction.sections import Grid, Row, Section
from instructrec_jax.reproduction.settings import Settings


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

  Args:
    settings: what is asked for.
    execute: runs a step; in a process of its own if None.
    force: begin anew; people's verdicts on the annotations are kept.
    command: how this was called, for the manifest.

  Returns:
    The manifest.

  Raises:
    InputError: something is wrong with the settings, or a step failed.
  """
  settings.check()
  out = settings.out
  _claim(out)
  runner = Runner(out, execute=execute)
  try:
    if force:
      for name in ("steps", "results", "model", "ladder"):
        shutil.rmtree(out / name, ignore_errors=True)
      (out / "steps").mkdir()
    first = plan.preparation(settings)
    runner.run(first)
    # Which tables the data allows is known only when it is built.
    runner.run(plan.experiment_steps(settings))
    return _write(settings, runner.records, command)
  except KeyError as error:
    raise InputError(
      f"{out} has results of an earlier version of this program, which lack "
      f"{error}: pass --force to make them anew."
    ) from error
  finally:
    runner.close()


def _claim(out: pathlib.Path) -> None:
  """Refuses a folder that holds something else."""
  if out.exists() and any(out.iterdir()) and not (out / "steps").is_dir():
    raise InputError(
      f"{out} exists and is not of `instructrec reproduce`: name another place "
      "with --out."
    )


def _write(
  settings: Settings, records: dict[str, Any], command: str
) -> dict[str, Any]:
  out = settings.out
  rows = numbers.collect(settings)
  found = _sections(settings, rows)
  title = f"InstructRec's experiments on {settings.dataset.name}"
  notes = _notes(settings, records)
  numbers.write_csv(rows, out / "tables.csv")
  with storage.staged_file(out / "report.md") as partial:
    partial.write_text(markdown.markdown(title, notes, found), encoding="utf-8")
  page.write(
    out / "report.html",
    title=title,
    notes=notes,
    sections=found,
    training_log=settings.model / "metrics.jsonl",
  )
  manifest = {
    "command": command,
    "code": provenance.code(),
    **provenance.environment(),
    "seed": settings.seed,
    "data": {
      str(path): storage.sha256_of(path) for path in _data_files(settings)
    },
    "written": {
      name: storage.sha256_of(out / name)
      for name in ("tables.csv", "report.md", "report.html")
    },
    "lacking": {s.title: list(s.lacking) for s in found if s.lacking},
    "steps": records,
  }
  storage.write_json(out / "manifest.json", manifest)
  return manifest


def _sections(settings: Settings, rows: list[dict[str, Any]]) -> list[Section]:
  folder = DatasetFolder.open(settings.dataset)
  dataset = paper.same_dataset(folder.statistics)
  unseen = None
  if settings.unseen:
    unseen = paper.same_dataset(DatasetFolder.open(settings.unseen).statistics)
  tables = [
    sections_lib.of_experiment(experiment, settings, dataset=dataset)
    for experiment in settings.experiments
  ]
  last = [t for t in tables if not t.title.startswith("Table")]
  return [
    *counts.sections(settings),
    *(t for t in tables if t not in last),
    sections_lib.unseen(settings, dataset=unseen),
    sections_lib.ladder(settings),
    *last,
    behaviour.section(settings),
    _consistency(settings, rows),
  ]


def _consistency(settings: Settings, rows: Sequence[dict[str, Any]]) -> Section:
  """Are there numbers that no ranking can have?"""
  ours: list[str] = []
  for table in dict.fromkeys(row["table"] for row in rows):
    of_table = [r for r in rows if r["table"] == table and r["ranker"]]
    problems = impossible(of_table, candidates=numbers.candidates(settings))
    ours += [f"{table}: {problem}" for problem in problems]
  ranked = sum(bool(row["ranker"]) for row in rows)
  return Section(
    "Consistency",
    "what HR@K and NDCG@K of one ranking cannot be at once",
    [
      Grid(
        heading,
        ["", "what is impossible"],
        [Row([str(n), problem]) for n, problem in enumerate(problems, start=1)]
        or [Row(["-", "nothing"])],
      )
      for heading, problems in (
        (f"of the {ranked:,} figures here", ours),
        ("of the paper's, as printed", paper.contradictions()),
      )
    ],
  )


def _notes(settings: Settings, records: dict[str, Any]) -> list[str]:
  seconds = [record.get("seconds", 0) for record in records.values()]
  cpu = [record.get("cpu_seconds", 0) for record in records.values()]
  requests = f"all requests, but for {CATALOGUE_SAMPLE} of the whole catalogue"
  if settings.limit:
    requests = f"at most {settings.limit:,} requests"
  commits = {str(r["code"]["commit"]) for r in records.values() if "code" in r}
  return [
    f"The model is of {settings.recipe}, trained for {_last_step(settings):,} "
    f"steps; each scenario is ranked on {requests}, all rankers on the same "
    f"ones; seed {settings.seed}. The {len(records)} steps took "
    f"{sum(seconds) / 60:.0f} minutes and {sum(cpu) / 60:.0f} of processor "
    "time.",
    "Rows of the paper are of a model of 3 billion parameters and, unless it "
    "says otherwise, of other data: they stand beside ours, not against them. "
    f"{report.CAPTION[0].upper()}{report.CAPTION[1:]}",
    "manifest.json has, for the step that tables.csv names with each number, "
    f"the command, the commit ({', '.join(sorted(commits))}) and the hashes of "
    "what it read.",
  ]


def _last_step(settings: Settings) -> int:
  log = (settings.model / "metrics.jsonl").read_text(encoding="utf-8")
  return json.loads(log.splitlines()[-1])["step"]


def _data_files(settings: Settings) -> list[pathlib.Path]:
  folders = [f for f in (settings.dataset, settings.unseen) if f]
  names = ("manifest.json", experiments.MANIFEST_FILE, plan.ANNOTATIONS_FILE)
  paths = [folder / name for folder in folders for name in names]
  return [settings.recipe, *(path for path in paths if path.exists())]
