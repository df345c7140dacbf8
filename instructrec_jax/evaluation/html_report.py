"""One self-contained HTML page of a run: table, curves, worked examples."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import plots, report

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1c1e21;
  --quiet: #6a7078; --line: #e2e3e5; --accent: #1f5fbf; --wash: #eef3fb; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b;
  --ink: #e4e6e8; --quiet: #969da6; --line: #30343a; --accent: #7fb0f5;
  --wash: #1d2735; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 50rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
h2 small, h3 small, .quiet, footer { color: var(--quiet);
  font-size: .84rem; font-weight: normal; }
svg { display: block; width: 100%; height: auto; }
.curves { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
.curves figure { flex: 1 1 17rem; max-width: 24rem; }
figure { margin: .6rem 0; max-width: 36rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .45rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-size: .8rem; font-weight: 600; }
th:first-child { position: sticky; left: 0; background: var(--paper);
  text-align: left; padding-left: 0; font-weight: 600; }
td small { display: block; color: var(--quiet); font-size: .74rem; }
tr.model th, tr.model td { color: var(--accent); font-weight: 600; }
tr.paper th, tr.paper td { color: var(--quiet); font-weight: normal;
  font-style: italic; }
blockquote { margin: .5rem 0 .8rem; padding: .6rem .9rem;
  border-left: 3px solid var(--line); background: var(--wash);
  font-size: .92rem; overflow-wrap: anywhere; }
ol { list-style: none; margin: 0; padding: 0; font-size: .92rem; }
ol li { display: grid; grid-template-columns: 1.6rem 1fr 4.2rem; gap: .5rem;
  padding: .3rem .4rem; border-bottom: 1px solid var(--line); }
ol li > :first-child, ol li > :last-child { color: var(--quiet);
  text-align: right; font-variant-numeric: tabular-nums; }
ol li.target { background: var(--wash); font-weight: 600; }
ol li.target b { color: var(--accent); font-size: .78rem; margin-left: .4rem;
  white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; padding-top: .8rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CAPTION = (
  "Small print: the 95% bootstrap interval over users. Tied scores count as "
  "their expected value over random orders."
)


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
  sections = [
    f"<h1>{escape(title)}</h1>",
    *(f"<p>{escape(note)}</p>" for note in notes),
    *(_scenario(results, scenario) for scenario in results["scenarios"]),
    f'<p class="quiet">{_CAPTION}</p>',
    *(f"<p>{escape(line)}</p>" for line in report.mistakes(results)),
    training_section(training_log),
    _examples(examples),
    _footer(results),
  ]
  write_page(out_path, title=title, sections=sections)


def write_page(
  out_path: pathlib.Path, *, title: str, sections: Sequence[str]
) -> None:
  """Writes sections, which are HTML, as one page in the report's style."""
  body = "\n".join(filter(None, sections))
  with storage.staged_file(pathlib.Path(out_path)) as partial:
    partial.write_text(
      _PAGE.format(title=escape(title), style=_STYLE, body=body),
      encoding="utf-8",
    )


def _scenario(results: Mapping[str, Any], scenario: Mapping[str, Any]) -> str:
  rankers = report.by_ranker(results, scenario=scenario["name"])
  labels = results["labels"]
  first = scenario["metrics"][0]
  chart = plots.interval_plot(
    {
      labels[name]: tuple(rows[first][end] for end in ("value", "low", "high"))
      for name, rows in rankers.items()
    },
    label=first.upper(),
    highlight=[labels[name] for name in rankers if name == "model"],
  )
  heads = "".join(
    f"<th>{report.column_head(metric)}</th>" for metric in scenario["metrics"]
  )
  lines = "".join(
    f'<tr class="{escape(name)}">'
    f"<th>{escape(report.row_label(results, scenario, name))}</th>"
    + "".join(_cell(rows.get(metric)) for metric in scenario["metrics"])
    + "</tr>\n"
    for name, rows in rankers.items()
  )
  remarks = "".join(
    f"<br>{escape(sentence)}" for sentence in report.remarks(results, scenario)
  )
  behind = ""
  if scenario["matcher"]:
    cells = "".join(
      f"<tr><th>{escape(label)}</th>"
      + "".join(f"<td>{value}</td>" for value in values)
      + "</tr>\n"
      for label, *values in report.end_to_end(results, scenario)
    )
    behind = (
      f'<p class="quiet">{report.END_TO_END}</p>\n<div class="wide"><table>'
      f"<thead><tr><th></th>{heads}</tr></thead>\n"
      f"<tbody>{cells}</tbody></table></div>"
    )
  return (
    f"<h2>{escape(scenario['name'])} "
    f"<small>{escape(scenario['aspects'])}</small></h2>\n"
    f'<p class="quiet">{report.subtitle(scenario, split=results["split"])}'
    f"{remarks}</p>\n"
    f"<figure>{chart}</figure>\n"
    f'<div class="wide"><table><thead><tr><th></th>{heads}</tr></thead>\n'
    f"<tbody>{lines}</tbody></table></div>\n{behind}"
  )


def _cell(row: Mapping[str, Any] | None) -> str:
  if row is None:
    return "<td>-</td>"
  interval = f"{report.share(row['low'])}–{report.share(row['high'])}"
  return f"<td>{report.share(row['value'])}<small>{interval}</small></td>"


def training_section(log: pathlib.Path | None) -> str:
  """Returns loss and validation HR@1 over steps; nothing if it has neither.

  Raises:
    InputError: the log is missing or not JSON lines.
  """
  if log is None:
    return ""
  records = list(_read_log(pathlib.Path(log)))
  figures = [
    plots.curve_plot(curves, label=label)
    for label, names in (
      ("loss", ("validation/loss", "loss")),
      ("validation HR@1", ("validation/hr@1",)),
    )
    if (curves := _curves(records, names))
  ]
  if not figures:
    return ""
  boxes = "".join(f"<figure>{figure}</figure>" for figure in figures)
  return f'<h2>Training</h2>\n<div class="curves">{boxes}</div>'


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


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
  if not examples:
    return ""
  return "<h2>Worked examples</h2>\n" + "\n".join(
    _example(number, example) for number, example in enumerate(examples, 1)
  )


def _example(number: int, example: Mapping[str, Any]) -> str:
  scores, target = example["scores"], example["target"]
  lines = []
  order = sorted(range(len(scores)), key=lambda index: -scores[index])
  for rank, index in enumerate(order, start=1):
    opening, mark = "<li>", ""
    if index == target:
      opening, mark = '<li class="target">', "<b>true answer</b>"
    lines.append(
      f"{opening}<span>{rank}</span>"
      f"<span>{escape(example['candidates'][index])}{mark}</span>"
      f"<span>{scores[index]:.2f}</span></li>\n"
    )
  return (
    f"<h3>Example {number} <small>log-likelihood on the right</small></h3>\n"
    f"<blockquote>{escape(example['instruction'])}</blockquote>\n"
    f"<ol>{''.join(lines)}</ol>"
  )


def _footer(results: Mapping[str, Any]) -> str:
  hashes = "".join(
    f"<br>{escape(scenario['name'])} candidates sha256 "
    f"<code>{scenario['candidates_sha256']}</code>"
    for scenario in results["scenarios"]
  )
  return (
    f"<footer>dataset <code>{escape(results['dataset'])}</code>, bootstrap "
    f"seed {results['seed']}{hashes}</footer>"
  )
