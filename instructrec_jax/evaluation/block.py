"""One scenario's block of the results: ranked, measured, summarised.

`evaluate_scenario` has the template that validation selects, and ranks each
request's candidates or judges single items: scored in batches (`scores`),
measured (`metrics`, `diagnostics`) and summarised (`summaries`).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.data.cleaning import specific_intentions
from instructrec_jax.data.held_out import matcher, retrieved
from instructrec_jax.data.splits import Targets, tied_share
from instructrec_jax.evaluation import chat_sample, selection, summaries
from instructrec_jax.evaluation.costs import Metered
from instructrec_jax.evaluation.diagnostics import Exposure, same_query
from instructrec_jax.evaluation.metrics import fit_temperature, metrics_of_ranks
from instructrec_jax.evaluation.plan import Plan
from instructrec_jax.evaluation.prompt_rankers import (
  PermutedRanker,
  SharedScores,
  TournamentRanker,
)
from instructrec_jax.evaluation.rankers import (
  LABELS,
  RANKERS,
  REASONED,
  TEXT_READERS,
  UNLISTED,
  entry_of,
)
from instructrec_jax.evaluation.requests import RequestSource
from instructrec_jax.evaluation.runs import RunWriter
from instructrec_jax.evaluation.scores import (
  ScoreLog,
  score_batches,
  score_margins,
)
from instructrec_jax.evaluation.selection import SELECT
from instructrec_jax.instructions.scenarios import Scenario
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import Ranker
from instructrec_jax.scoring.normalisation import Normalisation

# Rows that answer with letters of a list, or are compared with such prompts.
_OF_LISTS = frozenset({LABELS, REASONED, UNLISTED})

Block = dict[str, list[dict[str, Any]]]
"""What a scenario adds to the lists of results.json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What all scenarios of an evaluation share.

  Attributes:
    rankers: by name, in the table's order, metered; those that `is_selected`
      are `NormalisingRanker`s.
    chat: a chat model's samples, by scenario, where one was asked.
    counts: training purchases of each item.
    scores: the folder that keeps each request's scores, if any.
    trec: the folder of runs for other tools, if any.
  """

  plan: Plan
  rankers: Mapping[str, Metered]
  chat: Mapping[str, chat_sample.ChatSample]
  counts: np.ndarray
  scores: pathlib.Path | None
  trec: pathlib.Path | None

  def log(self, scenario: Scenario) -> ScoreLog:
    """Returns what keeps a scenario's scores."""
    writer = None
    if self.trec is not None:
      writer = RunWriter(self.trec, scenario, self.plan.folder.items)
    return ScoreLog(scenario, folder=self.scores, runs=writer)

  def wrap(self, ranker: Ranker, scenario: Scenario) -> Ranker:
    """Lets a model permute candidates and play tournaments, where due."""
    if self.plan.orders(scenario) > 1:
      ranker = PermutedRanker(
        ranker, permutations=self.plan.permutations, seed=self.plan.seed
      )
    if scenario.tournament:
      ranker = TournamentRanker(ranker, seed=self.plan.seed)
    return ranker


def evaluate_scenario(
  run: Run, scenario: Scenario, source: RequestSource
) -> Block:
  """Returns what a scenario adds to the results."""
  plan = run.plan
  evaluate_block = _judge_items if scenario.pointwise else _rank_candidates
  # A crowd's wordings are held out, and not chosen among.
  if plan.forms is None or scenario.crowd:
    return evaluate_block(run, scenario, source, form=None)
  assert plan.selected
  model = run.wrap(run.rankers[plan.selected], scenario)
  unlisted = _OF_LISTS.isdisjoint(plan.rankers)
  best, choice = selection.choose_template(
    scenario, model, forms=plan.forms, unlisted=unlisted, limit=plan.limit
  )
  source = plan.requests(scenario, plan.split, form=best)
  is_unlisted = selection.is_unlisted(scenario, best)
  asked = scenario.unlisted if is_unlisted else scenario
  block = evaluate_block(run, asked, source, form=best)
  first_metric = (plan.selected, scenario.metrics[0])
  (value,) = [
    row["value"]
    for row in block["rows"]
    if (row["ranker"], row["metric"]) == first_metric
  ]
  choice = selection.add_test_metrics(
    choice,
    scenario,
    model,
    forms=plan.forms,
    unlisted=unlisted,
    split=plan.split,
    limit=plan.limit,
    of_best=value,
  )
  return {**block, "templates": [choice]}


def labels(run: Run, *, text_encoder: str | None) -> dict[str, str]:
  """Returns how tables call the rows.

  Args:
    text_encoder: the one of those that read texts, if not their own.
  """
  plan, found = run.plan, {}
  for name, ranker in run.rankers.items():
    found[name] = entry_of(name).label or ranker.name
    if text_encoder is not None and name in TEXT_READERS:
      found[name] += f" ({pathlib.PurePath(text_encoder).name})"
    if entry_of(name).is_selected and plan.normalisation != Normalisation.SUM:
      found[_second_row(name, plan)] = f"{name} ({plan.normalisation})"
  for sample in run.chat.values():
    found[chat_sample.NAME] = sample.model
  return found


def _rank_candidates(
  run: Run, scenario: Scenario, source: RequestSource, *, form: Form | None
) -> Block:
  """Ranks the candidates of all requests with all rankers."""
  plan = run.plan
  second, choices = plan.normalisation, []
  if second == SELECT:
    assert plan.selected
    choice = selection.choose_normalisation(
      scenario,
      run.rankers[plan.selected],
      wrap=functools.partial(run.wrap, scenario=scenario),
      source=plan.requests(
        scenario,
        "validation",
        form=form,
        limit=selection.sample_size(scenario, plan.limit),
      ),
    )
    second, choices = choice["chosen"], [choice]
  rankers = _rows(run, scenario, second)
  for ranker in (*run.rankers.values(), *plan.runs.values()):
    ranker.start()

  ranks: dict[str, list] = {name: [] for name in rankers}
  exposures = {name: Exposure(run.counts) for name in rankers}
  slots, target_items = [], []
  queries, negatives = [], []
  with run.log(scenario) as log:
    for batch, score in score_batches(source, rankers, label=scenario.name):
      log.add_requests(batch)
      for request in batch:
        target = request.target or 0
        slots.append(target)
        target_items.append(request.candidate_items[target])
        if "query" in scenario.shows:
          queries.append(request.query)
          negatives.append(np.delete(request.candidate_items, target))
      for name in rankers:
        scores = score(name)
        ranks[name].append(log.add_ranks(name, batch, scores))
        exposures[name].add(batch, scores)
    metrics = {
      name: metrics_of_ranks(
        *map(np.concatenate, zip(*of_batches, strict=True))
      )
      for name, of_batches in ranks.items()
    }
    costs = _costs(run, scenario, [*rankers], requests=source.count)
    rows, comparisons = summaries.summarise_ranking(
      scenario, metrics, seed=plan.seed, resamples=plan.resamples
    )
    chat = []
    if scenario.name in run.chat:
      chat_rows, entry = chat_sample.summarise(
        scenario,
        run.chat[scenario.name],
        metrics,
        requests=source.count,
        log=log,
        seed=plan.seed,
        resamples=plan.resamples,
      )
      rows, chat = rows + chat_rows, [entry]

  end_to_end = []
  found = retrieved(scenario, folder=plan.folder, split=plan.split)
  if found is not None:
    is_found = np.array(
      [found[user] for user in log.users if user is not None], float
    )
    behind_matcher = {
      name: {metric: values * is_found for metric, values in by_metric.items()}
      for name, by_metric in metrics.items()
    }
    end_to_end, _ = summaries.summarise_ranking(
      scenario, behind_matcher, seed=plan.seed, resamples=plan.resamples
    )
  positions = []
  if scenario.lists_candidates and plan.orders(scenario) == 1:
    positions = summaries.summarise_positions(
      scenario, metrics, slots=np.array(slots), seed=plan.seed
    )
  names = [*rankers, *(entry["ranker"] for entry in chat)]
  description = _description(run, scenario, source, log, names)
  if queries:
    asked_alike = same_query(
      queries,
      target_items,
      negatives,
      item_queries=specific_intentions(plan.folder.items),
    )
    description["same_query"] = float(asked_alike.mean())
  return {
    "scenarios": [description],
    "rows": rows,
    "costs": costs,
    "end_to_end": end_to_end,
    "comparisons": comparisons,
    "chat": chat,
    "positions": positions,
    "popularity": summaries.summarise_popularity(
      scenario,
      metrics,
      exposures=exposures,
      targets=np.array(target_items),
      counts=run.counts,
      seed=plan.seed,
    ),
    "normalisations": choices,
  }


def _judge_items(
  run: Run, scenario: Scenario, source: RequestSource, *, form: Form | None
) -> Block:
  """Judges single items: Yes or No."""
  plan = run.plan
  rankers = {
    name: ranker
    for name, ranker in run.rankers.items()
    if plan.applies(name, scenario)
  }
  for ranker in (*rankers.values(), *plan.runs.values()):
    ranker.start()
  with run.log(scenario) as log:
    margins, labels = score_margins(
      source, rankers, label=scenario.name, log=log
    )
  costs = _costs(run, scenario, [*rankers], requests=source.count)
  temperatures = {}
  if name := plan.selected:
    on_validation, answers = score_margins(
      plan.requests(scenario, "validation", form=form),
      {name: rankers[name]},
      label=f"{scenario.name}, temperature",
    )
    temperatures[name] = fit_temperature(on_validation[name], answers)
  return {
    "scenarios": [_description(run, scenario, source, log, [*rankers])],
    "rows": summaries.summarise_pointwise(
      scenario,
      margins=margins,
      labels=labels,
      temperatures=temperatures,
      seed=plan.seed,
      resamples=plan.resamples,
    ),
    "costs": costs,
    "temperatures": [
      {"scenario": scenario.name, "ranker": name, "value": value}
      for name, value in temperatures.items()
    ],
  }


def _rows(run: Run, scenario: Scenario, second: str) -> dict[str, Ranker]:
  """Returns the rankers by row; the model's second row has a normalisation."""
  plan = run.plan
  rows: dict[str, Ranker] = {}
  for name, ranker in run.rankers.items():
    entry = entry_of(name)
    if not plan.applies(name, scenario):
      continue
    if entry.is_ceiling and not scenario.history_alone and rows:
      continue
    if not entry.is_language_model:
      # It can rank a hundred candidates as well as ten, in any order.
      rows[name] = ranker
    elif not entry.is_selected or plan.normalisation == Normalisation.SUM:
      rows[name] = run.wrap(ranker, scenario)
    else:
      shared = SharedScores(ranker, (Normalisation.SUM, second))
      by_sum, by_second = map(shared.ranker, (Normalisation.SUM, second))
      rows[name] = run.wrap(by_sum, scenario)
      rows[_second_row(name, plan)] = run.wrap(by_second, scenario)
  return rows


def _second_row(name: str, plan: Plan) -> str:
  return f"{name}_{plan.normalisation}"


def _ranker_of(row: str, plan: Plan) -> str:
  """Returns the ranker of a row; the inverse of `_second_row`."""
  return row if row in RANKERS else row.removesuffix(f"_{plan.normalisation}")


def _costs(
  run: Run, scenario: Scenario, rows: Sequence[str], *, requests: int
) -> list[dict[str, Any]]:
  """Returns what a request took since the rankers' `start`.

  Rows of two normalisations share what was computed once, and its cost.
  """
  plan = run.plan
  return [
    {
      "scenario": scenario.name,
      "ranker": row,
      **run.rankers[_ranker_of(row, plan)].cost(requests),
      # What another tool took is not known.
      **(dict.fromkeys(["ms", "flops"]) if row in plan.runs else {}),
    }
    for row in rows
  ]


def _description(
  run: Run,
  scenario: Scenario,
  source: RequestSource,
  log: ScoreLog,
  rows: Sequence[str],
) -> dict[str, Any]:
  """Returns what must be known of a scenario's requests, and of its rows."""
  plan = run.plan
  entries = {row: entry_of(_ranker_of(row, plan)) for row in rows}
  return {
    **dataclasses.asdict(scenario),
    "aspects": scenario.label,
    "candidate_count": source.candidates,
    "requests": source.count,
    "source": str(source.path),
    "candidates_sha256": log.candidates_sha256,
    "template": source.template,
    "permutations": plan.orders(scenario),
    "matcher": matcher(scenario, folder=plan.folder, split=plan.split),
    # Nobody says what another tool saw.
    "sees": {
      row: None if row in plan.runs else entry.sees(scenario)
      for row, entry in entries.items()
    },
    "sees_beside": {
      row: entry.sees_beside(scenario) for row, entry in entries.items()
    },
    "tied_times": _tied_share(plan, scenario, log.users),
    # Folders of before do not say; they kept the order of their files.
    "tied_order": plan.folder.manifest.get("ties", {}).get(
      "order", "as the file has them"
    ),
    "same_query": None,
    "runs": {
      name: {"missing": ranker.missing, "of": ranker.candidates}
      for name, ranker in plan.runs.items()
      if name in rows
    },
  }


def _tied_share(
  plan: Plan, scenario: Scenario, users: Sequence[int | None]
) -> float | None:
  """Returns the share of targets whose time is another purchase's, too."""
  if scenario.candidates == "items":
    return None
  targets = getattr(plan.folder.splits, plan.split)
  ranked = np.isin(targets.users, [u for u in users if u is not None])
  return tied_share(
    Targets(targets.users[ranked], targets.positions[ranked]),
    plan.folder.sequences,
    plan.folder.timestamps,
  )
