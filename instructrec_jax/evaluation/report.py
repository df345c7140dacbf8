"""The results as a table for people, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

CAPTION = (
  "± is half the width of the 95% bootstrap interval over users; tied scores "
  "count as their expected value over random orders."
)


def markdown(results: Mapping[str, Any]) -> str:
  """Returns one block a scenario of `evaluate`'s results."""
  blocks = [_block(results, scenario) for scenario in results["scenarios"]]
  return "\n\n".join([*blocks, CAPTION]) + "\n"


def heading(scenario: Mapping[str, Any], *, split: str) -> str:
  """Returns "sequential <P1,I0,T3>: 10 candidates, 500 test requests"."""
  return (
    f"{scenario['name']} {scenario['aspects']}: "
    f"{scenario['negatives'] + 1} candidates, "
    f"{scenario['requests']:,} {split} requests"
  )


def cell(row: Mapping[str, Any]) -> str:
  """Returns ".576 ±.004"."""
  return f"{share(row['value'])} ±{share((row['high'] - row['low']) / 2)}"


def share(value: float) -> str:
  """Returns three decimals without the leading zero, as tables print shares."""
  return f"{value:.3f}".removeprefix("0")


def verdicts(results: Mapping[str, Any], *, scenario: str) -> list[str]:
  """Returns one sentence a ranker on how it differs from the best baseline.

  The floor and the ceiling are left to results.json.
  """
  return [
    f"{results['labels'][c['ranker']]} - {results['labels'][c['against']]}: "
    f"{c['metric'].upper()} {_signed(c['value'])} "
    f"[{_signed(c['low'])}, {_signed(c['high'])}], p {_p_value(c['p'])}"
    for c in results["comparisons"]
    if c["scenario"] == scenario
    and c["metric"] == "hr@1"
    and c["ranker"] not in ("random", "planted")
  ]


def by_ranker(
  results: Mapping[str, Any], *, scenario: str
) -> dict[str, dict[str, dict[str, Any]]]:
  """Returns a scenario's rows as ranker -> metric -> row, in table order."""
  table = {}
  for row in results["rows"]:
    if row["scenario"] == scenario:
      table.setdefault(row["ranker"], {})[row["metric"]] = row
  return table


def _block(results: Mapping[str, Any], scenario: Mapping[str, Any]) -> str:
  columns = scenario["metrics"]
  lines = [["ranker", *(metric.upper() for metric in columns)]]
  for ranker, rows in by_ranker(results, scenario=scenario["name"]).items():
    label = results["labels"][ranker]
    lines.append([label, *(cell(rows[metric]) for metric in columns)])
  text = [
    f"### {heading(scenario, split=results['split'])}",
    "",
    *_aligned(lines),
    "",
    *(f"- {s}" for s in verdicts(results, scenario=scenario["name"])),
    f"- candidates sha256 {scenario['candidates_sha256'][:16]}",
  ]
  return "\n".join(text)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  """Returns a Markdown table whose columns also line up in a terminal."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  ruler = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
  rows = [lines[0], ruler, *lines[1:]]
  return [
    "| "
    + " | ".join(
      [row[0].ljust(widths[0])]
      + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
    )
    + " |"
    for row in rows
  ]


def _signed(value: float) -> str:
  return f"{value:+.3f}".replace("0.", ".", 1)


def _p_value(p: float) -> str:
  return "< .002" if p < 0.002 else f"= {share(p)}"
