"""Self-contained HTML pages of a run: tables, curves, worked examples."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import plots, report
from instructrec_jax.tables import Table


def write_html_report(
  out_path: pathlib.Path,
  *,
  title: str,
  results: Mapping[str, Any],
  training_log: pathlib.Path | None,
  examples: Sequence[Mapping[str, Any]],
  notes: Sequence[str],
) -> None:
  """Writes the page; it loads nothing, so it can be mailed or archived.

  Args:
    out_path: the .html file, replaced if it exists.
    title: the page's heading.
    results: what `evaluate` returned.
    training_log: a MODEL_DIR's metrics.jsonl, if a model was trained.
    examples: each with "instruction", "candidates" (texts), "scores" (in
      their order, higher wins) and "target" (index of the true answer, or
      None).
    notes: paragraphs of plain text that follow the heading.

  Raises:
    InputError: the training log is missing or not JSON lines.
  """
  write_page(
    out_path,
    "evaluation.html.jinja",
    title=title,
    notes=notes,
    blocks=[
      {
        "name": scenario["name"],
        "aspects": scenario["aspects"],
        "subtitle": report.subtitle(scenario, split=results["split"]),
        "table": with_intervals(
          report.scenario_table(results, scenario, ends=True),
          results,
          scenario,
        ),
        "end_to_end": scenario["matcher"]
        and report.end_to_end_table(results, scenario),
      }
      for scenario in results["scenarios"]
    ],
    end_to_end=report.END_TO_END,
    costs=report.cost_caption(results),
    inconsistencies=report.inconsistencies(results),
    training=training_curves(training_log) if training_log else [],
    examples=[_example(example) for example in examples],
    results=results,
  )


def write_page(out_path: pathlib.Path, template: str, **values: Any) -> None:
  """Renders one of `templates/` whole or not at all; all text is escaped.

  A template extends `base.html.jinja`, which wants `title`, `notes`
  (paragraphs) and `training` (of `training_curves`).
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("instructrec_jax.evaluation"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  page = environment.get_template(template).render(values)
  with storage.staged_file(pathlib.Path(out_path)) as partial:
    partial.write_text(page.lstrip(), encoding="utf-8")


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
  scores = example["scores"]
  return {
    "instruction": example["instruction"],
    "ranking": [
      {
        "text": example["candidates"][index],
        "score": f"{scores[index]:.2f}",
        "is_target": index == example["target"],
      }
      for index in sorted(range(len(scores)), key=lambda i: -scores[i])
    ],
  }
