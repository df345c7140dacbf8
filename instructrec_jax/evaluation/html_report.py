"""Self-contained HTML pages of a run: tables, curves, worked examples."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import plots, report
from instructrec_jax.provenance import provenance
from instructrec_jax.tables import Row, Table

# Of each task of writing.
_TEXTS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Section:
  """Tables of one kind, under a heading.

  Attributes:
    title: the heading.
    caption: what they show.
    tables: none if what they would show is lacking altogether.
    lacking: what is not there, and why.
    verdicts: sentences that say what the tables come to.
    is_text: the tables have texts where others have figures.
  """

  title: str
  caption: str
  tables: Sequence[Table] = ()
  lacking: Sequence[str] = ()
  verdicts: Sequence[str] = ()
  is_text: bool = False


def write_html_report(
  out_path: pathlib.Path,
  *,
  title: str,
  results: Mapping[str, Any],
  training_log: pathlib.Path | None,
  examples: Sequence[Mapping[str, Any]] = (),
  notes: Sequence[str] = (),
  sections: Sequence[Section] = (),
) -> None:
  """Writes the page of an evaluation.

  Args:
    out_path: the .html file, replaced if it exists.
    title: the page's heading.
    results: what `evaluate` returned.
    training_log: a MODEL_DIR's metrics.jsonl, if a model was trained.
    examples: each with "instruction", "candidates" (texts), "scores" (in
      their order, higher wins) and "target" (index of the true answer, or
      None).
    notes: paragraphs of plain text that follow the verdicts.
    sections: more of them, after the scenarios'.

  Raises:
    InputError: the training log is missing or not JSON lines.
  """
  of_scenarios = [
    _scenario_section(results, scenario) for scenario in results["scenarios"]
  ]
  if results["probe"]:
    table = report.probe_table(results)
    of_scenarios.append(Section(report.PROBE, "", [table]))
  for heading, table in report.steering_tables(results).items():
    of_scenarios.append(Section(heading, "", [table]))
  of_scenarios += writing_sections(results)
  write_page(
    out_path,
    title=title,
    notes=[*notes, *report.inconsistencies(results)],
    sections=[*of_scenarios, *sections],
    training=training_curves(training_log) if training_log else [],
    examples=[_example(example) for example in examples],
    provenance={
      **provenance(),
      "dataset": results["dataset"],
      "dataset's manifest, sha256": results["dataset_sha256"],
      "model": results["model"] or "none",
      "device": results["device"],
      "requests": f"{results['split']} split, "
      + (f"{results['limit']:,} at random" if results["limit"] else "all"),
      "bootstrap": f"{results['resamples']:,} resamples, seed "
      f"{results['seed']}",
      **{
        f"candidates of {scenario['name']}, sha256": scenario[
          "candidates_sha256"
        ]
        for scenario in results["scenarios"]
      },
    },
  )


def writing_sections(results: Mapping[str, Any]) -> list[Section]:
  """Returns the figures of each task of writing, and some texts."""
  sections = []
  for heading, table in report.writing_tables(results).items():
    texts = [
      each["texts"]
      for each in results["written"]
      if heading.startswith(f"{each['scenario']}:")
    ][:_TEXTS_SHOWN]
    shown = Table([*texts[0]], [Row([*each.values()]) for each in texts])
    name = heading.partition(":")[0]
    sections += [
      Section(heading, "", [table]),
      Section(f"{name}: some of the texts", "", [shown], is_text=True),
    ]
  return sections


def _scenario_section(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> Section:
  table = report.scenario_table(results, scenario, ends=True)
  tables = [with_intervals(table, results, scenario)]
  if scenario["matcher"]:
    end_to_end = report.end_to_end_table(results, scenario)
    tables.append(dataclasses.replace(end_to_end, title=report.END_TO_END))
  return Section(
    f"{scenario['name']} {scenario['aspects']}",
    f"{report.described(scenario)} "
    f"{report.subtitle(scenario, split=results['split'])}.",
    tables,
    verdicts=report.verdict(results, scenario),
  )


def write_page(
  out_path: pathlib.Path,
  *,
  title: str,
  notes: Sequence[str],
  sections: Sequence[Section],
  training: Sequence[str],
  provenance: Mapping[str, str],
  examples: Sequence[Mapping[str, Any]] = (),
) -> None:
  """Writes a report whole or not at all; all text is escaped.

  It loads nothing, so it can be mailed or archived.

  Args:
    out_path: the .html file, replaced if it exists.
    title: the page's heading.
    notes: paragraphs that follow the verdicts of all sections.
    sections: in their order.
    training: SVGs of `training_curves`.
    provenance: what made it, by name.
    examples: of `_example`.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("instructrec_jax.evaluation"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["with_code"] = _with_code
  page = environment.get_template("report.html.jinja").render(
    title=title,
    notes=notes,
    sections=sections,
    training=training,
    provenance=provenance,
    examples=examples,
    meanings=report.meanings,
  )
  with storage.staged_file(pathlib.Path(out_path)) as partial:
    partial.write_text(page.lstrip(), encoding="utf-8")


def _with_code(text: str) -> markupsafe.Markup:
  """Returns escaped text with what stands between backticks as code."""
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))


def with_intervals(
  table: Table, results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> Table:
  """Adds a plot of a scenario's first metric, ranker by ranker."""
  labels = report.labels_in(results, scenario)
  metric = scenario["metrics"][0]
  rankers = report.by_ranker(results["rows"], scenario=scenario["name"])
  figure = plots.interval_plot(
    {
      labels[name]: tuple(rows[metric][end] for end in ("value", "low", "high"))
      for name, rows in rankers.items()
      if metric in rows
    },
    label=report.column_head(metric),
    highlight=[labels[name] for name in rankers if name == "model"],
  )
  return dataclasses.replace(table, figure=figure)


def training_curves(log: pathlib.Path) -> list[str]:
  """Returns SVGs of loss and validation HR@1 over steps, if it has them.

  Raises:
    InputError: the log is missing or not JSON lines.
  """
  records = list(_read_log(log))
  return [
    plots.curve_plot(curves, label=label)
    for label, names in (
      ("loss", ("validation/loss", "loss")),
      ("validation HR@1", ("validation/hr@1",)),
    )
    if (curves := _curves(records, names))
  ]


def _read_log(log: pathlib.Path) -> Iterable[dict[str, Any]]:
  try:
    lines = log.read_text(encoding="utf-8").splitlines()
  except FileNotFoundError:
    raise InputError(f"{log}: no such training log.") from None
  for number, line in enumerate(lines, start=1):
    try:
      yield json.loads(line)
    except ValueError:
      raise InputError(f"{log}, line {number}: not a line of JSON.") from None


def _curves(
  records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, tuple[list[int], list[float]]]:
  curves = {}
  for name in names:
    points = [(r["step"], r[name]) for r in records if name in r]
    points = [point for point in points if math.isfinite(point[1])]
    if points:
      steps, values = zip(*points, strict=True)
      curves[name] = (list(steps), list(values))
  return curves


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an example with its candidates from the likeliest down."""
  scores, target = example["scores"], example["target"]
  order = sorted(range(len(scores)), key=lambda i: -scores[i])
  place = None if target is None else order.index(target) + 1
  return {
    "instruction": example["instruction"],
    "outcome": ""
    if place is None
    else "a hit"
    if place == 1
    else f"a miss: the true answer has place {place}",
    "ranking": [
      {
        "text": example["candidates"][index],
        "score": f"{scores[index]:.2f}",
        "is_target": index == target,
      }
      for index in order
    ],
  }
