"""`evaluate`'s results for people: tables, and remarks in sentences."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructrec_jax.evaluation import steering, writing
from instructrec_jax.evaluation.costs import amount
from instructrec_jax.evaluation.probe import to_table
from instructrec_jax.evaluation.rankers import REASONED, UNLISTED
from instructrec_jax.instructions.scenarios import POINTWISE
from instructrec_jax.tables import Cell, Row, Table

CAPTION = (
  "± is half the width of the 95% bootstrap interval over users; tied scores "
  "count as their expected value over random orders; p is of the paired "
  "bootstrap, corrected for the comparisons with one ranker by Holm's method."
)
PROBE = "Contamination probe"
STEERING = "Steering"
COSTS = ("ms", "FLOPs", "parameters")
END_TO_END = (
  "End to end, where a target that the matcher did not retrieve is not found:"
)


def markdown(results: Mapping[str, Any]) -> str:
  """Returns one block a scenario of `evaluate`'s results."""
  blocks = []
  for scenario in results["scenarios"]:
    name = scenario["name"]
    main = scenario_table(results, scenario)
    sha256 = f"candidates sha256 {scenario['candidates_sha256'][:16]}"
    blocks += [
      f"### {heading(scenario, split=results['split'])}",
      dataclasses.replace(main, notes=[*main.notes, sha256]).markdown(),
    ]
    if scenario["matcher"]:
      table = end_to_end_table(results, scenario)
      blocks += [END_TO_END, table.markdown()]
    for entry in _of(results["chat"], name):
      if entry["n"] < entry["of"]:
        table = _table(labels_in(results, scenario), entry["rows"], scenario)
        blocks += [
          f"All of them on the same {entry['n']:,} requests:",
          table.markdown(),
        ]
    for choice in _of(results["templates"], name):
      if len(choice["forms"]) > 1:
        blocks += [
          f"The model's template is the best of {len(choice['forms'])} on "
          f"{choice['validation_requests']:,} validation requests:",
          _template_table(choice, split=results["split"]).markdown(),
        ]
  if results["probe"]:
    blocks += [f"### {PROBE}", probe_table(results).markdown()]
  for title, table in steering_tables(results).items():
    blocks += [f"### {title}", table.markdown()]
  for title, table in writing_tables(results).items():
    blocks += [f"### {title}", table.markdown()]
  blocks += [CAPTION, cost_caption(results), *inconsistencies(results)]
  return "\n\n".join(blocks) + "\n"


def probe_table(results: Mapping[str, Any]) -> Table:
  """Returns what models know of the data beforehand; see `probe`."""
  return to_table(results["probe"], results["labels"])


def cost_caption(results: Mapping[str, Any]) -> str:
  """Returns what the columns of costs are."""
  return (
    "ms: wall time of a request, of many in a batch, on "
    f"{results['device']}, without what is compiled or fitted; FLOPs: of a "
    "request's matrix products; parameters: weights, counts or an index, all "
    "that is kept of training; - is not known."
  )


def scenario_table(
  results: Mapping[str, Any],
  scenario: Mapping[str, Any],
  *,
  ends: bool = False,
  costs: bool = True,
) -> Table:
  """Returns a scenario's rankers by its metrics, with remarks as notes.

  `ends` shows the two ends of intervals, not half their width; `costs` what a
  request costs.
  """
  labels = labels_in(results, scenario)
  for entry in _of(results["chat"], scenario["name"]):
    if entry["n"] < entry["of"]:
      labels[entry["ranker"]] += f" (of {entry['n']:,})"
  table = _table(labels, results["rows"], scenario, ends=ends)
  if costs:
    cost_of = {e["ranker"]: e for e in _of(results["costs"], scenario["name"])}
    names = by_ranker(results["rows"], scenario=scenario["name"])
    rows = [
      Row([*row.cells, *_cost_cells(cost_of.get(name, {}))], row.kind)
      for name, row in zip(names, table.rows, strict=True)
    ]
    table = dataclasses.replace(
      table, columns=[*table.columns, *COSTS], rows=rows
    )
  return dataclasses.replace(table, notes=remarks(results, scenario))


def steering_tables(results: Mapping[str, Any]) -> dict[str, Table]:
  """Returns a table of steering for each scenario that has one, by its title.

  Results of before there was any have none.
  """
  steered = results.get("steering", ())
  return {
    f"{STEERING}, {name}": steering.to_table(
      _of(steered, name), results["labels"]
    )
    for name in dict.fromkeys(row["scenario"] for row in steered)
  }


def writing_tables(results: Mapping[str, Any]) -> dict[str, Table]:
  """Returns a table for each task of writing, by its title.

  Results of before there was any have none.
  """
  return writing.to_tables(results.get("writing", ()), results["labels"])


_READS = {
  "P1": "the titles that somebody has bought",
  "P2": "what somebody likes, in words",
  "I1": "a wish, roughly told",
  "I2": "a wish, told exactly",
}
_ANSWERS = {
  "T0": "says Yes or No to one candidate",
  "T1": "chooses between two candidates",
  "T2": "names an item without seeing the candidates listed",
  "T3": "chooses among the candidates that are listed",
}
_MEANS = {
  "HR@": "hit rate: the share of requests whose true item is among the first "
  "{}; higher is better",
  "NDCG@": "as HR@{0}, but an item further down counts less: 1 for first "
  "place, .63 for second, .5 for third, nothing after place {0}",
  "AUC": "how often a true pair of user and item scores above a false one; .5 "
  "is chance",
  "LOG LOSS": "how surprised the scores are by the truth; lower is better",
  "ECE": "how far the probabilities are from the true frequencies; 0 is best",
  "ms": "milliseconds that a request takes, one of many in a batch",
  "FLOPs": "multiplications and additions of a request's matrix products",
  "parameters": "numbers that are kept of training: weights, counts, an index",
}


def described(scenario: Mapping[str, Any]) -> str:
  """Returns what the model reads and does in a scenario, as a sentence."""
  codes = re.findall(r"[PIT]\d", scenario["aspects"])
  reads = [_READS[code] for code in codes if code in _READS]
  does = [_ANSWERS[code] for code in codes if code in _ANSWERS]
  return f"The model reads {_listed(reads)}, and {_listed(does)}."


def meanings(columns: Sequence[str]) -> dict[str, str]:
  """Returns what each column of a table means, by its head, where known."""
  found = {}
  for head in columns:
    for start, meaning in _MEANS.items():
      if head == start or (start[-1] == "@" and head.startswith(start)):
        found[head] = meaning.format(head.removeprefix(start))
  return found


def verdict(
  results: Mapping[str, Any], scenario: Mapping[str, Any], *, where: str = ""
) -> list[str]:
  """Returns how the model does in a scenario, in sentences; [] without one.

  Args:
    results: of `evaluate`.
    scenario: one of theirs.
    where: what is added to its name, as the dataset if that is another one.
  """
  labels = labels_in(results, scenario)
  metric = scenario["metrics"][0]
  rows = {
    name: row[metric]["value"]
    for name, row in by_ranker(
      results["rows"], scenario=scenario["name"]
    ).items()
    if metric in row
  }
  compared = [
    c
    for c in _of_model(results["comparisons"], scenario["name"])
    if c["metric"] == metric and c["against"] in rows
  ]
  if "model" not in rows or not compared:
    return []
  first = compared[0]
  how = "beats" if first["value"] > 0 else "is behind"
  if first["low"] <= 0 <= first["high"]:
    how = f"on {scenario['requests']:,} requests cannot be told from"
  of, against = rows["model"], rows[first["against"]]
  if metric.startswith("hr@"):
    k = metric.removeprefix("hr@")
    place = "first" if k == "1" else f"among its first {k}"
    how += (
      f" the best baseline: it ranks the true item {place} in "
      f"{_percent(of)} of the requests, {labels[first['against']]} in "
      f"{_percent(against)}. That is "
      f"{100 * first['value']:+.1f} points (95% interval "
      f"{100 * first['low']:+.1f} to {100 * first['high']:+.1f})"
    )
  else:
    how += (
      f" the best baseline, {labels[first['against']]}: {column_head(metric)} "
      f"{share(of)} against {share(against)}, a difference of "
      f"{_signed(first['value'])} (95% interval {_signed(first['low'])} to "
      f"{_signed(first['high'])})"
    )
  if ceiling := rows.get("planted"):
    how += (
      f", and {of / ceiling:.0%} of the ceiling that no ranker can pass, "
      + (_percent if metric.startswith("hr@") else share)(ceiling)
    )
  sentence = f"{scenario['name']}{where}: the model {how}."
  more = [
    f" {labels[c['against']]}, which sees more than the model, has "
    f"{share(rows[c['against']])}."
    for c in compared[1:]
  ]
  return [sentence + "".join(more)]


def end_to_end_table(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> Table:
  """Returns end-to-end accuracy: unretrieved targets count as misses."""
  return _table(labels_in(results, scenario), results["end_to_end"], scenario)


def labels_in(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> dict[str, str]:
  """Returns how a scenario's table calls the rankers.

  One that sees more of users than the prompt shows is named so.
  """
  labels = dict(results["labels"])
  for name, more in scenario["sees_beside"].items():
    # The name itself tells of categories.
    told = [what for what in more if what not in name]
    labels[name] += "".join(f" +{what}" for what in told)
  return labels


def inconsistencies(results: Mapping[str, Any]) -> list[str]:
  """Returns a sentence for each figure that no ranking can have."""
  return [
    f"Internal error: inconsistent metrics: {sentence}"
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


def cell(row: Mapping[str, Any] | None, *, ends: bool = False) -> Cell | str:
  """Returns ".576 ±.004" or ".576 .572–.580"; "-" where there is no figure."""
  if row is None:
    return "-"
  if ends:
    interval = f"{share(row['low'])}–{share(row['high'])}"
  else:
    interval = f"±{share((row['high'] - row['low']) / 2)}"
  return Cell(share(row["value"]), interval)


def column_head(metric: str) -> str:
  """Returns "HR@1" or "LOG LOSS"."""
  return metric.upper().replace("_", " ")


def share(value: float) -> str:
  """Returns three decimals without the leading zero, as tables print shares."""
  return f"{value:.3f}".removeprefix("0")


def _percent(value: float) -> str:
  """Returns "84.1%" where tables have .841, however .8405 is rounded."""
  return f"{round(value, 3):.1%}"


def by_ranker(
  rows: Iterable[Mapping[str, Any]], *, scenario: str
) -> dict[str, dict[str, Mapping[str, Any]]]:
  """Returns a scenario's rows as ranker -> metric -> row, in table order."""
  table: dict[str, dict[str, Mapping[str, Any]]] = {}
  for row in _of(rows, scenario):
    table.setdefault(row["ranker"], {})[row["metric"]] = row
  return table


def remarks(
  results: Mapping[str, Any], scenario: Mapping[str, Any]
) -> list[str]:
  """Returns what must be known to read a scenario's table, in sentences."""
  name, labels = scenario["name"], labels_in(results, scenario)
  return [
    *_differences(
      _of(results["comparisons"], name), labels, results["resamples"]
    ),
    *_reasoning(_of(results["comparisons"], name), labels),
    *_prompt(scenario, asked="model" in labels),
    *map(_normalisation, _of(results["normalisations"], name)),
    *map(_position_bias, _of_model(results["positions"], name)),
    *map(_popularity, _of_model(results["popularity"], name)),
    *(_calibration(results, e) for e in _of(results["temperatures"], name)),
    *_hard_negatives(scenario, labels),
    *_limits(scenario),
    *(
      f"{labels[run]} lists {missing['of'] - missing['missing']:,} of the "
      f"{missing['of']:,} candidates; the others are tied behind those"
      for run, missing in scenario["runs"].items()
      if missing["missing"]
    ),
    _seen(scenario, labels),
    *(
      line
      for e in _of(results["chat"], name)
      for line in _chat(e, labels, results["resamples"])
    ),
  ]


def _of(
  entries: Iterable[Mapping[str, Any]], scenario: str
) -> list[Mapping[str, Any]]:
  return [entry for entry in entries if entry["scenario"] == scenario]


def _of_model(
  entries: Iterable[Mapping[str, Any]], scenario: str
) -> list[Mapping[str, Any]]:
  return [e for e in _of(entries, scenario) if e["ranker"] == "model"]


def _table(
  labels: Mapping[str, str],
  rows: Iterable[Mapping[str, Any]],
  scenario: Mapping[str, Any],
  *,
  ends: bool = False,
) -> Table:
  """Returns rankers, by their labels, by a scenario's metrics."""
  metrics = scenario["metrics"]
  return Table(
    ["ranker", *map(column_head, metrics)],
    [
      Row(
        [labels[name], *(cell(figures.get(m), ends=ends) for m in metrics)],
        "model" if name == "model" else "",
      )
      for name, figures in by_ranker(rows, scenario=scenario["name"]).items()
    ],
  )


def _template_table(choice: Mapping[str, Any], *, split: str) -> Table:
  """Returns every form's figures, the chosen one marked.

  Results of before there were any do not say which list no candidates.
  """
  metric, figures = choice["metric"].upper(), ("validation", "test")
  rows = []
  for form in choice["forms"]:
    name = form["form"] + ", no list" * form.get("unlisted", False)
    mark = " (chosen)" if form["form"] == choice["chosen"] else ""
    rows.append(Row([name + mark, *(share(form[f]) for f in figures)]))
  means = (
    Cell(share(f["mean"]), f"±{share(f['sd'])}")
    for f in (choice[figure] for figure in figures)
  )
  rows.append(Row(["mean ± sd", *means]))
  return Table(["template", f"validation {metric}", f"{split} {metric}"], rows)


def _cost_cells(cost: Mapping[str, Any]) -> list[str]:
  ms = cost.get("ms")
  return [
    "-" if ms is None else f"{ms:.2g}" if ms < 10 else f"{ms:,.0f}",
    amount(cost.get("flops")),
    amount(cost.get("parameters")),
  ]


def _differences(
  comparisons: Iterable[Mapping[str, Any]],
  labels: Mapping[str, str],
  resamples: int,
) -> list[str]:
  """Returns how each ranker differs from the best baseline in HR@1.

  The floor and the ceiling are left to results.json.
  """
  return [
    f"{labels[c['ranker']]} - {labels[c['against']]}: "
    f"{c['metric'].upper()} {_signed(c['value'])} "
    f"[{_signed(c['low'])}, {_signed(c['high'])}], "
    f"p {_p_value(c['p_holm'], least=c['p'] * (resamples + 1) < 2.5)}"
    for c in comparisons
    if c["metric"] == "hr@1"
    and c["ranker"] not in ("random", "planted")
    and c["against"] not in ("model", UNLISTED)
  ]


def _reasoning(
  comparisons: Iterable[Mapping[str, Any]], labels: Mapping[str, str]
) -> list[str]:
  """Returns what reasoning gains or costs the model, by metric."""
  told: dict[str, list[str]] = {}
  for c in comparisons:
    if c["ranker"] == REASONED and c["against"] in ("model", UNLISTED):
      told.setdefault(c["against"], []).append(
        f"{column_head(c['metric'])} {_signed(c['value'])} "
        f"[{_signed(c['low'])}, {_signed(c['high'])}]"
      )
  return [
    f"{labels[REASONED]} - {labels[against]}: {', '.join(figures)}"
    for against, figures in told.items()
  ]


def _chat(
  entry: Mapping[str, Any], labels: Mapping[str, str], resamples: int
) -> list[str]:
  """Returns what a chat model was asked and answered, and how it compares."""
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
      for sentence in _differences(entry["comparisons"], labels, resamples)
    ),
  ]


def _prompt(scenario: Mapping[str, Any], *, asked: bool) -> list[str]:
  if not asked or not scenario["template"]:
    return []
  orders = ""
  if scenario["permutations"] > 1:
    orders = f", scores averaged over {scenario['permutations']} orders"
  return [f"the model is asked in the words of {scenario['template']}{orders}"]


def _normalisation(choice: Mapping[str, Any]) -> str:
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
  rows = by_ranker(results["rows"], scenario=entry["scenario"])[entry["ranker"]]
  return (
    f"{results['labels'][entry['ranker']]} at temperature "
    f"{entry['value']:.2f}, fitted on validation: log loss "
    f"{share(rows['log_loss_scaled']['value'])}, ECE "
    f"{share(rows['ece_scaled']['value'])}"
  )


def _hard_negatives(
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


def _limits(scenario: Mapping[str, Any]) -> list[str]:
  """Returns what no ranker can know of these requests."""
  lines = []
  if scenario["tied_times"]:
    lines.append(
      f"{scenario['tied_times']:.1%} of the targets have the time of another "
      "of the user's purchases, and which of them came last is not known: "
      f"they are ordered {scenario['tied_order']}"
    )
  if scenario["same_query"] is not None:
    lines.append(
      f"{scenario['same_query']:.1%} of the requests have a negative that the "
      "very same query asks for"
    )
  return lines


def _seen(scenario: Mapping[str, Any], labels: Mapping[str, str]) -> str:
  """Returns what each row's ranker saw, those that saw the same together."""
  rankers: dict[tuple[str, ...], list[str]] = {}
  for name, seen in scenario["sees"].items():
    seen = ["what its maker knows"] if seen is None else seen
    rankers.setdefault(tuple(seen), []).append(labels[name])
  groups = (
    f"{', '.join(names)} saw {_listed(seen)}" for seen, names in rankers.items()
  )
  return (
    f"{'; '.join(groups)} (of items the model reads titles alone; purchases "
    "are those of training, by item)"
  )


def _listed(seen: Sequence[str]) -> str:
  *others, last = seen or ("nothing",)
  return f"{', '.join(others)} and {last}" if others else last


def _signed(value: float) -> str:
  return f"{value:+.3f}".replace("0.", ".", 1)


def _p_value(p: float, *, least: bool = False) -> str:
  """Returns "= .031"; the least p of some resamples is only a bound."""
  if p < 0.001:
    return "< .001"
  return f"{'<' if least else '='} {share(p)}"
