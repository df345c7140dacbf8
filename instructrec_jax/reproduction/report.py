"""Writes a reproduction: tables, plots, every number, and its provenance."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from instructrec_jax import paper, storage
from instructrec_jax.data.folder import (
  ANNOTATIONS_FILE,
  INSTRUCTIONS_FILE,
  MANIFEST_FILE,
  DatasetFolder,
)
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import html_report, plots
from instructrec_jax.evaluation.consistency import impossible
from instructrec_jax.evaluation.html_report import Section
from instructrec_jax.evaluation.report import (
  CAPTION,
  by_ranker,
  cell,
  column_head,
  end_to_end_table,
  heading,
  scenario_table,
  verdict,
)
from instructrec_jax.evaluation.requests import CATALOGUE_SAMPLE
from instructrec_jax.provenance import code, provenance
from instructrec_jax.reproduction import counts
from instructrec_jax.reproduction.experiments import (
  HELD_OUT,
  LADDER,
  SEQUENTIAL,
  Experiment,
  missing_data,
  missing_ranker,
)
from instructrec_jax.reproduction.settings import Settings
from instructrec_jax.tables import Row, Table

Results = Mapping[str, Any]

COLUMNS = (
  "table scenario ranker metric value low high n paper paper_dataset "
  "candidates_sha256 step"
).split()
# Those that numbers depend on.
_LIBRARIES = (
  "instructrec-jax flax jax jaxlib numpy optax orbax-checkpoint polars scipy "
  "sentencepiece seqio tensorflow"
).split()
# The paper prints four decimals.
_ROUNDING = 5e-5
_OPTIONS = {
  "chat": " (--chat-model asks one in its place)",
  "zero_shot": " (--zero-shot names a model that was not tuned)",
}


def write(
  settings: Settings,
  ranked: Mapping[str, str],
  records: Mapping[str, Mapping[str, Any]],
  command: str,
) -> dict[str, Any]:
  """Writes tables.csv, report.md, report.html and manifest.json.

  `ranked` names the steps that wrote a results.json, each with its table. The
  manifest is returned.

  Raises:
    InputError: results are of an earlier version, and lack something.
  """
  out = settings.out
  try:
    results = {step: _read_results(out, step) for step in ranked}
    rows = list(_numbers(settings, ranked, results))
    sections = _sections(settings, ranked, results, records, rows)
  except KeyError as error:
    raise InputError(
      f"{out} has results of an earlier version of this program, which lack "
      f"{error}: pass --force to make them anew."
    ) from error
  title = f"InstructRec's experiments on {settings.dataset.name}"
  notes = _notes(settings, records)
  lines = [Row([row.get(column, "") for column in COLUMNS]) for row in rows]
  for name, text in {
    "tables.csv": Table(COLUMNS, lines).csv(),
    "report.md": _markdown(title, notes, sections),
  }.items():
    with storage.staged_file(out / name) as partial:
      partial.write_text(text, encoding="utf-8", newline="")
  html_report.write_page(
    out / "report.html",
    title=title,
    notes=notes,
    sections=sections,
    training=html_report.training_curves(settings.model / "metrics.jsonl"),
    provenance={
      **provenance(),
      "command": command,
      "dataset": str(settings.dataset),
      "recipe": str(settings.recipe),
      "seed": str(settings.seed),
    },
  )
  manifest = {
    "command": command,
    "code": code(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "cpus": os.cpu_count(),
    "libraries": {
      name: importlib.metadata.version(name) for name in _LIBRARIES
    },
    "seed": settings.seed,
    "data": {
      str(path): storage.sha256_of(path) for path in _data_files(settings)
    },
    "written": {
      name: storage.sha256_of(out / name)
      for name in ("tables.csv", "report.md", "report.html")
    },
    "lacking": {s.title: list(s.lacking) for s in sections if s.lacking},
    "steps": records,
  }
  storage.write_json(out / "manifest.json", manifest)
  return manifest


def _markdown(
  title: str, notes: Sequence[str], sections: Sequence[Section]
) -> str:
  blocks = [f"# {title}", *notes]
  for section in sections:
    blocks.append(f"## {section.title}: {section.caption}".removesuffix(": "))
    blocks += [table.markdown() for table in section.tables]
    if section.lacking:
      blocks.append("\n".join(f"- lacking: {what}" for what in section.lacking))
  return "\n\n".join(blocks) + "\n"


def _numbers(
  settings: Settings, ranked: Mapping[str, str], results: Mapping[str, Results]
) -> Iterator[dict[str, Any]]:
  """Yields every number; `step` names the record in manifest.json."""
  counted = storage.read_json(settings.out / "statistics.json", {str: dict})
  for table, published in (
    ("table_2", paper.results()["annotations"]),
    ("table_5", paper.results()["datasets"]["games"]),
  ):
    for metric, value in counted[table].items():
      row = {"table": table.replace("_", " ").capitalize(), "metric": metric}
      row |= {"value": value, "step": "statistics"}
      if metric in published:
        row |= {"paper": published[metric], "paper_dataset": "games"}
      yield row
  for step, table in ranked.items():
    hashes = {
      scenario["name"]: scenario["candidates_sha256"]
      for scenario in results[step]["scenarios"]
    }
    for prefix, rows in (
      ("", results[step]["rows"]),
      ("end_to_end_", results[step]["end_to_end"]),
    ):
      for row in rows:
        metric, printed = row["metric"], {}
        if not prefix:
          printed = paper.ranking(table, row["scenario"]).get(row["ranker"], {})
        yield {
          **row,
          "table": table,
          "metric": prefix + metric,
          "paper": printed.get(metric, ""),
          "paper_dataset": paper.dataset_of(table) if metric in printed else "",
          "candidates_sha256": hashes[row["scenario"]],
          "step": step,
        }


def _sections(
  settings: Settings,
  ranked: Mapping[str, str],
  results: Mapping[str, Results],
  records: Mapping[str, Any],
  rows: Sequence[Mapping[str, Any]],
) -> list[Section]:
  dataset = _paper_dataset(settings.dataset)
  tables = [
    ranking_section(e, results.get(e.name), dataset)
    for e in settings.experiments
  ]
  return [
    *counts.sections(settings),
    *(table for table in tables if table.title.startswith("Table")),
    unseen_section(settings, results.get("table_11")),
    _ladder_section(settings, results),
    *(table for table in tables if not table.title.startswith("Table")),
    behaviour_section(
      settings, results["table_6"] if "deciles" in records else None
    ),
    _consistency_section(ranked, results, rows),
  ]


def ranking_section(
  experiment: Experiment, results: Results | None, dataset: str | None
) -> Section:
  """Returns a table that ranks; no results if all scenarios are lacking."""
  results, tables = results or {"scenarios": ()}, []
  verdicts = []
  for scenario in results["scenarios"]:
    verdicts += verdict(results, scenario)
    tables.append(
      _beside_paper(results, scenario, table=experiment.title, dataset=dataset)
    )
    if scenario["matcher"]:
      tables.append(
        dataclasses.replace(
          end_to_end_table(results, scenario),
          title=f"{_heading(results, scenario)}: end to end",
          notes=["a target that the matcher did not retrieve is not found"],
        )
      )
  return Section(
    experiment.title,
    paper.results()["captions"].get(experiment.title, ""),
    tables,
    [f"{name}: {reason}" for name, reason in experiment.lacking.items()],
    verdicts,
  )


def unseen_section(settings: Settings, results: Results | None) -> Section:
  """Returns Table 11."""
  title, caption = "Table 11", paper.results()["captions"]["Table 11"]
  if not settings.unseen:
    reason = "another domain is needed: name its dataset folder with --unseen"
    return Section(title, caption, lacking=[reason])
  if not results:
    reason = missing_ranker(SEQUENTIAL, settings.all_names)
    return Section(title, caption, lacking=[f"{SEQUENTIAL.name}: {reason}"])
  (scenario,) = results["scenarios"]
  caption += (
    f": tuned on {settings.dataset.name}, asked about {settings.unseen.name}, "
    "where the other rankers were trained"
  )
  dataset = _paper_dataset(settings.unseen)
  table = _beside_paper(results, scenario, table=title, dataset=dataset)
  where = f" on {settings.unseen.name}, where it was not trained"
  verdicts = verdict(results, scenario, where=where)
  return Section(title, caption, [table], verdicts=verdicts)


def _ladder_section(
  settings: Settings, results: Mapping[str, Results]
) -> Section:
  """Returns Figure 3."""
  title = "Figure 3"
  caption = (
    "more kinds of instructions, tested on one that is held out: "
    f"{HELD_OUT.name}; models of {settings.ladder_steps:,} steps each"
  )
  if "ladder_1" not in results:
    reason = missing_data(settings.dataset, HELD_OUT)
    return Section(title, caption, lacking=[f"{HELD_OUT.name}: {reason}"])
  scenario = results["ladder_1"]["scenarios"][0]
  figures = {}
  for number, added in enumerate(LADDER, start=1):
    rows = results[f"ladder_{number}"]["rows"]
    ours = by_ranker(rows, scenario=HELD_OUT.name)["model"]
    figures[f"{number}. {added}"] = ours
  chart = plots.group_plot(
    {
      metric.upper(): [
        (number, row[metric]["value"], row[metric]["low"], row[metric]["high"])
        for number, row in enumerate(figures.values(), start=1)
      ]
      for metric in ("ndcg@5", "hr@1")
    },
    label=f"held out: {HELD_OUT.name}",
    groups="rung",
  )
  metrics = scenario["metrics"]
  table = Table(
    ["rung", *map(column_head, metrics)],
    [
      Row([name, *(cell(row.get(m)) for m in metrics)])
      for name, row in figures.items()
    ],
    _heading(results["ladder_1"], scenario),
    ["the paper prints Figure 3 without numbers", _candidates(scenario)],
    chart,
  )
  return Section(title, caption, [table])


def behaviour_section(settings: Settings, results: Results | None) -> Section:
  """Returns HR@1 by position and by popularity, of Table 6's requests."""
  title, name = "HR@1 by place and popularity", SEQUENTIAL.name
  caption = f"of {name}'s requests; ± is half the width of the 95% interval"
  if not results:
    return Section(
      title, caption, lacking=[f"{name}: there is nothing to count"]
    )
  deciles = storage.read_json(settings.out / "deciles.json", list)
  by_decile = _group_table(
    "by the target's popularity, in tenths of the catalogue (10: bought most)",
    "decile of popularity",
    results,
    {e["ranker"]: e["by_decile"] for e in deciles},
  )
  positions = {e["ranker"]: e["by_position"] for e in results["positions"]}
  if not positions:
    reason = "the model is asked without a list, so that there is no place"
    return Section(title, caption, [by_decile], [f"{name}: {reason}"])
  by_position = _group_table(
    "by the target's place in the prompt",
    "place in the prompt",
    results,
    positions,
  )
  return Section(title, caption, [by_position, by_decile])


def _group_table(
  title: str,
  groups: str,
  results: Results,
  means: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Table:
  """Returns rankers by numbered groups, from 1 on, with their requests."""
  labels = results["labels"]
  numbers = sorted({m["group"] for of_one in means.values() for m in of_one})
  rows = []
  for name, of_ranker in means.items():
    found = {mean["group"]: mean for mean in of_ranker}
    cells = [cell(found.get(number)) for number in numbers]
    rows.append(Row([labels[name], *cells], "model" * (name == "model")))
  requests = {m["group"]: m["requests"] for m in next(iter(means.values()))}
  rows.append(Row(["requests", *(f"{requests[n]:,}" for n in numbers)]))
  # A plot has room for the best baseline and the model.
  drawn = [
    c["against"]
    for c in results["comparisons"]
    if c["scenario"] == SEQUENTIAL.name
  ]
  curves = {
    labels[name]: [
      (mean["group"] + 1, mean["value"], mean["low"], mean["high"])
      for mean in means[name]
    ]
    for name in dict.fromkeys([*drawn, "model"])
    if name in means
  }
  return Table(
    ["ranker", *(str(number + 1) for number in numbers)],
    rows,
    title,
    figure=plots.group_plot(curves, label="HR@1", groups=groups)
    if curves
    else "",
  )


def _consistency_section(
  ranked: Mapping[str, str],
  results: Mapping[str, Results],
  rows: Sequence[Mapping[str, Any]],
) -> Section:
  """Returns the figures that no ranking can have, of ours and the paper's."""
  candidates = {
    scenario["name"]: scenario["candidate_count"]
    for of_step in results.values()
    for scenario in of_step["scenarios"]
  }
  rows = [row for row in rows if "ranker" in row]
  ours = [
    f"{table}: {problem}"
    for table in ranked.values()
    for problem in impossible(
      [row for row in rows if row["table"] == table], candidates=candidates
    )
  ]
  return Section(
    "Consistency",
    "what HR@K and NDCG@K of one ranking cannot be at once",
    [
      Table(
        ["", "what is impossible"],
        [Row([str(n), problem]) for n, problem in enumerate(problems, start=1)]
        or [Row(["-", "nothing"])],
        whose,
      )
      for whose, problems in (
        (f"of the {len(rows):,} figures here", ours),
        ("of the paper's, as printed", paper_contradictions()),
      )
    ],
  )


def paper_contradictions() -> list[str]:
  """Returns what is impossible in the paper's own figures."""
  printed = paper.results()
  rows = [
    {
      "scenario": f"{block['table']}, {block['scenario']}",
      "ranker": ranker,
      "metric": metric,
      "value": value,
      "n": printed["chat_requests"] if ranker == "chat" else None,
    }
    for block in printed["rankings"]
    for ranker, values in block["rows"].items()
    for metric, value in zip(printed["metrics"], values, strict=True)
  ]
  candidates = {
    row["scenario"]: 100 if "tournament" in row["scenario"] else 10
    for row in rows
  }
  return impossible(rows, rounding=_ROUNDING, candidates=candidates, whole=True)


def _beside_paper(
  results: Results,
  scenario: Mapping[str, Any],
  *,
  table: str,
  dataset: str | None,
) -> Table:
  """Returns a scenario's table, the paper's row below each of ours."""
  metrics = scenario["metrics"]
  printed = paper.ranking(table, scenario["name"])
  names, of_paper = paper.results()["names"], paper.dataset_of(table)
  where = "paper" if dataset == of_paper else f"paper, {names[of_paper]}"

  def published(name: str) -> Row:
    cells = [
      # As many decimals as are printed there.
      f"{printed[name][m]:.4f}".removeprefix("0") if m in printed[name] else "-"
      for m in metrics
    ]
    return Row([f"{names[name]} ({where})", *cells], "paper")

  ours = scenario_table(results, scenario, costs=False)
  rankers = by_ranker(results["rows"], scenario=scenario["name"])
  missing = [name for name in printed if name not in rankers]
  rows = []
  for name, row in zip(rankers, ours.rows, strict=True):
    rows += [row, published(name)] if name in printed else [row]
  notes = list(ours.notes)
  if missing:
    listed = ", ".join(names[n] + _OPTIONS.get(n, "") for n in missing)
    notes.append(f"in the paper, not ranked here: {listed}")
  beside = Table(
    ours.columns,
    [*rows, *map(published, missing)],
    _heading(results, scenario),
    [*notes, _candidates(scenario)],
  )
  return html_report.with_intervals(beside, results, scenario)


def _heading(results: Results, scenario: Mapping[str, Any]) -> str:
  # The section says already which table it is, and it may be another one.
  return heading({**scenario, "table": ""}, split=results["split"])


def _candidates(scenario: Mapping[str, Any]) -> str:
  return f"candidates sha256 {scenario['candidates_sha256'][:16]}"


def _notes(
  settings: Settings, records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
  seconds = [record.get("seconds", 0) for record in records.values()]
  cpu = [record.get("cpu_seconds", 0) for record in records.values()]
  requests = f"all requests, but for {CATALOGUE_SAMPLE} of the whole catalogue"
  if settings.limit:
    requests = f"at most {settings.limit:,} requests"
  commits = {str(r["code"]["commit"]) for r in records.values() if "code" in r}
  log = (settings.model / "metrics.jsonl").read_text(encoding="utf-8")
  steps = json.loads(log.splitlines()[-1])["step"]
  return [
    f"The model is of {settings.recipe}, trained for {steps:,} steps; each "
    f"scenario is ranked on {requests}, all rankers on the same ones; seed "
    f"{settings.seed}. The {len(records)} steps took {sum(seconds) / 60:.0f} "
    f"minutes and {sum(cpu) / 60:.0f} of processor time.",
    "Rows of the paper are of a model of 3 billion parameters and, unless it "
    "says otherwise, of other data: they stand beside ours, not against them. "
    f"{CAPTION[0].upper()}{CAPTION[1:]}",
    "manifest.json has, for the step that tables.csv names with each number, "
    f"the command, the commit ({', '.join(sorted(commits))}) and the hashes of "
    "what it read.",
  ]


def _read_results(out: pathlib.Path, step: str) -> Results:
  return storage.read_json(
    out / "results" / step / "results.json", {"scenarios": list}
  )


def _paper_dataset(path: pathlib.Path) -> str | None:
  return paper.same_dataset(DatasetFolder.open(path).statistics)


def _data_files(settings: Settings) -> list[pathlib.Path]:
  folders = [f for f in (settings.dataset, settings.unseen) if f]
  names = (MANIFEST_FILE, INSTRUCTIONS_FILE, ANNOTATIONS_FILE)
  paths = [folder / name for folder in folders for name in names]
  return [settings.recipe, *(path for path in paths if path.exists())]
