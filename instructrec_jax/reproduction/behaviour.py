"""How the rankers behave: by the target's place, and by its popularity."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.evaluation import plots, report
from instructrec_jax.reproduction import commands
from instructrec_jax.reproduction.deciles import SCENARIO
from instructrec_jax.reproduction.sections import (
  Grid,
  Row,
  Section,
  read_results,
)
from instructrec_jax.reproduction.settings import Settings

_STEP = "table_6"


def section(settings: Settings) -> Section:
  """Returns HR@1 by position and by decile, of Table 6's requests."""
  title = "HR@1 by place and popularity"
  caption = f"of {SCENARIO}'s requests; ± is half the width of the 95% interval"
  if not commands.decile_rankers(settings):
    return Section(
      title, caption, lacking=[f"{SCENARIO}: there is nothing to count"]
    )
  results = read_results(settings.out, _STEP)
  deciles = storage.read_json(settings.out / "deciles.json")
  by_position = {
    entry["ranker"]: entry["by_position"] for entry in results["positions"]
  }
  by_decile = {entry["ranker"]: entry["by_decile"] for entry in deciles}
  return Section(
    title,
    caption,
    [
      _grid(
        "by the target's place in the prompt",
        results,
        by_position,
        groups="place in the prompt",
      ),
      _grid(
        "by the target's popularity, in tenths of the catalogue "
        "(10: bought most)",
        results,
        by_decile,
        groups="decile of popularity",
      ),
    ],
  )


def _grid(
  heading: str,
  results: Mapping[str, Any],
  means: Mapping[str, Sequence[Mapping[str, Any]]],
  *,
  groups: str,
) -> Grid:
  labels = results["labels"]
  numbers = sorted({m["group"] for of_one in means.values() for m in of_one})
  rows = []
  for name, of_ranker in means.items():
    found = {mean["group"]: mean for mean in of_ranker}
    cells = [report.cell(found.get(number)) for number in numbers]
    rows.append(Row([labels[name], *cells], "model" * (name == "model")))
  first = next(iter(means.values()))
  counts = {mean["group"]: mean["requests"] for mean in first}
  rows.append(Row(["requests", *(f"{counts[n]:,}" for n in numbers)]))
  curves = {
    labels[name]: [
      (mean["group"] + 1, mean["value"], mean["low"], mean["high"])
      for mean in means[name]
    ]
    for name in _drawn(results)
    if name in means
  }
  return Grid(
    heading,
    ["ranker", *(str(number + 1) for number in numbers)],
    rows,
    figures=[plots.group_plot(curves, label="HR@1", groups=groups)]
    if curves
    else [],
  )


def _drawn(results: Mapping[str, Any]) -> list[str]:
  """Returns whom a plot has room for: the best baseline, and the model."""
  against = [
    c["against"] for c in results["comparisons"] if c["scenario"] == SCENARIO
  ]
  return [*dict.fromkeys(against), "model"]
