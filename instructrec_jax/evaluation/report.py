"""The results as a table for people, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructrec_jax.instructions.scenarios import POINTWISE

CAPTION = (
  "± is half the width of the 95% bootstrap interval over users; tied scores "
  "count as their expected value over random orders; p is of the paired "
  "bootstrap, corrected for the comparisons with one ranker by Holm's method."
)


END_TO_END = (
  "End to end, where a target that the matcher did not retrieve is not found:"
)


def markdown(results: Mapping[str, Any]) -> str:
  """Returns one block a scenario of `evaluate`'s results."""
  blocks = [_block(results, scenario) for scenario in results["scenarios"]]
  return "\n\n".join([*blocks, CAPTION, *mistakes(results)]) + "\n"


def mistakes(results: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for each figure that no ranking can have."""
  return [
    f"This cannot be, so there is a mistake in the program: {sentence}"
    for sentence in results["impossible"]
  ]


def heading(scenario: Mapping[str, Any], *, split: str) -> str:
  """Returns "sequential <P1,I0,T3>: 10 candidates, 500 test requests"."""
  return f"{scenario['name']} {scenario['aspects']}: " + subtitle(
    scenario, split=split
  )


def subtitle(scenario: Mapping[str, Any], *, split: str) -> str:
  """Returns "10 candidates, 500 test requests (the paper's Table 6)"."""
  kinds = {"items": "searched items, ", "hard": "hard negatives, "}
  what = "up to " if scenario["candidates"] == "catalogue" else ""
  candidates = f"{what}{scenario['candidate_count']:,} candidates"
  if tuple(scenario["metrics"]) == POINTWISE:
    candidates = "Yes or No"
  table = f" (the paper's {scenario['table']})" if scenario["table"] else ""
  return (
    f"{kinds.get(scenario['candidates'], '')}{candidates}"
    f"{', in a tournament' if scenario['tournament'] else ''}, "
    f"{scenario['requests']:,} {split} requests{table}"
  )


def cell(row: Mapping[str, Any] | None) -> str:
  """Returns ".576 ±.004", or a dash where there is no such figure."""
  if row is None:
    return "-"
  return f"{share(row['value'])} ±{share((row['high'] - row['low']) / 2)}"


def column_head(metric: str) -> str:
  """Returns "HR@1" or "LOG LOSS"."""
  return metric.upper().replace("_", " ")


def share(value: float) -> str:
  """Returns three decimals without the leading zero, as tables print shares."""
  return f"{value:.3f}".removeprefix("0")


def verdicts(results: Mapping[str, Any], *, scenario: str) -> list[str]:
  """Returns one sentence a ranker on how it differs from the best baseline.

  The floor and the ceiling are left to results.json.
  """
  of_scenario = [c for c in results["comparisons"] if c["scenario"] == scenario]
  return _verdicts(of_scenario, results["labels"])


def row_label(
  results: Mapping[str, Any], scenario: Mapping[str, Any], ranker: str
) -> str:
  """Returns how a table calls a row; where it is of a sample, of how many."""
  label = results["labels"][ranker]
  for entry in results["chat"]:
    if (entry["scenario"], entry["ranker"]) == (scenario["name"], ranker):
      if entry["n"] < entry["of"]:
        label += f" (of {entry['n']:,})"
  return label


def by_ranker(
  results: Mapping[str, Any], *, scenario: str
) -> dict[str, dict[str, dict[str, Any]]]:
  """Returns a scenario's rows as ranker -> metric -> row, in table order."""
  table = {}
  for row in results["rows"]:
    if row["scenario"] == scenario:
      table.setdefault(row["ranker"], {})[row["metric"]] = row
  return table


def end_to_end(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> list[list[str]]:
  """Returns each ranker's label and cells, where nothing was forced."""
  of_scenario = {"rows": results["end_to_end"]}
  table = by_ranker(of_scenario, scenario=scenario["name"])
  return [
    [
      results["labels"][ranker],
      *(cell(rows.get(metric)) for metric in scenario["metrics"]),
    ]
    for ranker, rows in table.items()
  ]


def remarks(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> list[str]:
  """Returns what must be known to read a scenario's block, in sentences."""
  name, labels = scenario["name"], results["labels"]

  def of(section: str) -> list[Mapping[str, Any]]:
    return [entry for entry in results[section] if entry["scenario"] == name]

  return [
    *verdicts(results, scenario=name),
    *_how_asked(scenario, asked="model" in labels),
    *(_chosen_normalisation(choice) for choice in of("normalisations")),
    *(_position_bias(e) for e in of("positions") if e["ranker"] == "model"),
    *(_popularity(e) for e in of("popularity") if e["ranker"] == "model"),
    *(_calibration(results, entry) for entry in of("temperatures")),
    *_own_negatives(scenario, labels),
    *(sentence for entry in of("chat") for sentence in _chat(entry, labels)),
  ]


def _block(results: Mapping[str, Any], scenario: Mapping[str, Any]) -> str:
  columns = scenario["metrics"]
  lines = [["ranker", *map(column_head, columns)]]
  for ranker, rows in by_ranker(results, scenario=scenario["name"]).items():
    label = row_label(results, scenario, ranker)
    lines.append([label, *(cell(rows.get(metric)) for metric in columns)])
  text = [
    f"### {heading(scenario, split=results['split'])}",
    "",
    *_aligned(lines),
    "",
    *(f"- {sentence}" for sentence in remarks(results, scenario)),
    f"- candidates sha256 {scenario['candidates_sha256'][:16]}",
  ]
  if scenario["matcher"]:
    lines = [lines[0], *end_to_end(results, scenario)]
    text += ["", END_TO_END, "", *_aligned(lines)]
  for entry in results["chat"]:
    if entry["scenario"] == scenario["name"] and entry["n"] < entry["of"]:
      text += ["", *_same_requests(results, entry, columns)]
  for choice in results["templates"]:
    if choice["scenario"] == scenario["name"] and len(choice["forms"]) > 1:
      text += ["", *_templates(choice, split=results["split"])]
  return "\n".join(text)


def _same_requests(
  results: Mapping[str, Any],
  entry: Mapping[str, Any],
  columns: Sequence[str],
) -> list[str]:
  """Returns all rankers on a chat model's sample as a table."""
  lines = [["ranker", *map(column_head, columns)]]
  table = by_ranker(entry, scenario=entry["scenario"])
  for ranker, rows in table.items():
    cells = (cell(rows.get(metric)) for metric in columns)
    lines.append([results["labels"][ranker], *cells])
  return [
    f"All of them on the same {entry['n']:,} requests:",
    "",
    *_aligned(lines),
  ]


def _verdicts(
  comparisons: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> list[str]:
  return [
    f"{labels[c['ranker']]} - {labels[c['against']]}: "
    f"{c['metric'].upper()} {_signed(c['value'])} "
    f"[{_signed(c['low'])}, {_signed(c['high'])}], "
    f"p {_p_value(c['p_holm'], least=c['p'] < 0.002)}"
    for c in comparisons
    if c["metric"] == "hr@1" and c["ranker"] not in ("random", "planted")
  ]


def _chat(entry: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
  """Returns what a chat model was asked, did, and is worth beside others."""
  asked = f"all {entry['n']:,} requests"
  if entry["n"] < entry["of"]:
    asked = f"{entry['n']:,} of the {entry['of']:,} requests, drawn at random"
  return [
    f"{entry['model']} was asked {asked}, with the candidates in a random "
    f"order (seed {entry['seed']}); {entry['illegal']:.1%} of the "
    f"{entry['lines']:,} lines of its answers name no candidate (illegal), "
    f"{entry['duplicates']:,} repeat one; of the answers {entry['refused']:,} "
    f"were refused, {entry['truncated']:,} cut off, {entry['failed']:,} failed "
    f"and {entry['short']:,} left candidates out; what an answer does not name "
    "is tied behind what it names",
    *(
      f"{sentence}, on these {entry['n']:,}"
      for sentence in _verdicts(entry["comparisons"], labels)
    ),
  ]


def _templates(choice: Mapping[str, Any], *, split: str) -> list[str]:
  """Returns every form's figures as a table, the chosen one marked."""
  metric, figures = choice["metric"].upper(), ("validation", "test")
  lines = [["template", f"validation {metric}", f"{split} {metric}"]]
  for form in choice["forms"]:
    mark = " (chosen)" if form["form"] == choice["chosen"] else ""
    lines.append([form["form"] + mark, *(share(form[f]) for f in figures)])
  lines.append(
    ["mean ± sd"]
    + [f"{share(choice[f]['mean'])} ±{share(choice[f]['sd'])}" for f in figures]
  )
  return [
    f"The model's template is the best of {len(choice['forms'])} on "
    f"{choice['validation_requests']:,} validation requests:",
    "",
    *_aligned(lines),
  ]


def _how_asked(scenario: Mapping[str, Any], *, asked: bool) -> list[str]:
  if not asked or not scenario["template"]:
    return []
  orders = ""
  if scenario["permutations"] > 1:
    orders = f", scores averaged over {scenario['permutations']} orders"
  return [f"the model is asked in the words of {scenario['template']}{orders}"]


def _chosen_normalisation(choice: Mapping[str, Any]) -> str:
  values = ", ".join(
    f"{name} {share(value)}" for name, value in choice["validation"].items()
  )
  return (
    f"chosen normalisation: {choice['chosen']}, by {choice['metric'].upper()} "
    f"on {choice['validation_requests']:,} validation requests ({values})"
  )


def _position_bias(entry: Mapping[str, Any]) -> str:
  return (
    "the model's HR@1 by the target's place in the prompt: largest - smallest "
    f"{share(entry['spread'])}, p {_p_value(entry['p'])}"
  )


def _popularity(entry: Mapping[str, Any]) -> str:
  groups = ", ".join(
    f"{share(mean['value'])} for {group} targets"
    for group, mean in entry["hr@1_by"].items()
  )
  return (
    "the model's first choices: mean popularity percentile "
    f"{share(entry['popularity@1'])} (of all candidates "
    f"{share(entry['popularity_candidates'])}), {share(entry['coverage@1'])} "
    f"of the catalogue; HR@1 {groups}"
  )


def _calibration(results: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
  rows = by_ranker(results, scenario=entry["scenario"])[entry["ranker"]]
  return (
    f"{results['labels'][entry['ranker']]} at temperature "
    f"{entry['value']:.2f}, fitted on validation: log loss "
    f"{share(rows['log_loss_scaled']['value'])}, ECE "
    f"{share(rows['ece_scaled']['value'])}"
  )


def _own_negatives(
  scenario: Mapping[str, Any], labels: Mapping[str, str]
) -> list[str]:
  matcher = scenario["matcher"]
  if not matcher:
    return []
  judged = ""
  if matcher["name"] in labels:
    judged = f", so the row {labels[matcher['name']]} is judged on its own"
  return [
    f"the negatives are what {matcher['name']} retrieves for the history"
    f"{judged}, and the target; by itself its recall is "
    + ", ".join(f"{share(r)} at {k}" for k, r in matcher["recall"].items())
  ]


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


def _p_value(p: float, *, least: bool = False) -> str:
  """Returns "= .031"; of 1000 resamples, the least p is only a bound."""
  if least:
    return f"< {share(p)}"
  return "< .002" if p < 0.002 else f"= {share(p)}"
