"""Evaluation: every ranker on the same candidates, from requests to the table.

`evaluate` checks the arguments, asks the chat model, loads the rankers and
adds up the blocks of `_evaluate_scenario`: the template that validation
selects, then `_rank_candidates` or `_judge_items`, which score the requests
(`scores`), take their metrics (`metrics`, `diagnostics`) and summarise them
(`summaries`).
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax import storage
from instructrec_jax.baselines.chat import ChatOptions, ChatRanker
from instructrec_jax.baselines.popularity import training_counts
from instructrec_jax.data.cleaning import specific_intentions
from instructrec_jax.data.folder import MANIFEST_FILE, DatasetFolder
from instructrec_jax.data.held_out import matcher, retrieved
from instructrec_jax.data.splits import Targets, tied_share
from instructrec_jax.errors import InputError, check_counts, check_seed
from instructrec_jax.evaluation import (
  chat_sample,
  consistency,
  html_report,
  report,
  selection,
  steering,
  summaries,
)
from instructrec_jax.evaluation import probe as probe_lib
from instructrec_jax.evaluation import runs as runs_lib
from instructrec_jax.evaluation.costs import Metered, device
from instructrec_jax.evaluation.diagnostics import (
  Exposure,
  same_query,
)
from instructrec_jax.evaluation.metrics import (
  RESAMPLES,
  fit_temperature,
  metrics_of_ranks,
)
from instructrec_jax.evaluation.prompt_rankers import (
  PermutedRanker,
  SharedScores,
  TournamentRanker,
)
from instructrec_jax.evaluation.rankers import (
  RANKERS,
  REASONED,
  TEXT_READERS,
  UNLISTED,
  entry_of,
  find_rankers,
  load_ranker,
  with_rankers,
)
from instructrec_jax.evaluation.requests import (
  RequestSource,
  TemplateForms,
  find_available,
  find_requests,
)
from instructrec_jax.evaluation.runs import RunRanker, RunWriter, is_run
from instructrec_jax.evaluation.scores import (
  FOLDER,
  ScoreLog,
  score_batches,
  score_margins,
)
from instructrec_jax.evaluation.selection import SELECT
from instructrec_jax.evaluation.writer import ModelWriter
from instructrec_jax.evaluation.writing import Tasks, evaluate_writing
from instructrec_jax.instructions.scenarios import Scenario, find_writing
from instructrec_jax.instructions.templates import Form
from instructrec_jax.records import Ranker
from instructrec_jax.scoring.normalisation import BOUNDED, Normalisation
from instructrec_jax.teacher.budget import Estimate

# The lists in results.json.
_LISTS = (
  "scenarios",
  "rows",
  "costs",
  "end_to_end",
  "comparisons",
  "chat",
  "positions",
  "popularity",
  "temperatures",
  "templates",
  "normalisations",
  "probe",
  "steering",
  "writing",
  "written",
)

# Rankers whose scores may be asked for any candidates: those that read queries,
# and one that reads none, to compare with.
_STEERED = ("popularity", "bm25", "zero_shot", "model")

Block = dict[str, list[dict[str, Any]]]
"""What a scenario adds to those lists."""


def evaluate(
  *,
  dataset: pathlib.Path,
  out: pathlib.Path | None,
  model: pathlib.Path | None = None,
  zero_shot: pathlib.Path | None = None,
  chat: ChatOptions | None = None,
  text_encoder: str | None = None,
  scenarios: Sequence[str] = ("all",),
  rankers: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  permutations: int = 1,
  select_template: bool = False,
  normalisation: str = Normalisation.SUM,
  resamples: int = RESAMPLES,
  seed: int = 0,
  trec: bool = False,
  probe: bool = False,
  cutoff: str | None = None,
  steer: bool = False,
  reason: bool = False,
  force: bool = False,
) -> dict[str, Any]:
  """Ranks a dataset folder's requests and writes a folder of results.

  The folder holds results.json, results.md, and each request's scores as
  scores/SCENARIO.parquet (see `scores`), which `compare` reads.

  Baselines are fitted on the training interactions. Without a model, a folder
  that has candidates but no built instructions will do.

  Args:
    dataset: a folder of `prepare`, or of `build` if a model is to be ranked.
      It need not be the one that the model was tuned on.
    out: the folder to write; None writes nothing: of several processes, all
      rank, and one writes.
    model: a folder of `train` or `export`.
    zero_shot: another such folder, of a model that was not tuned, for the row
      `zero_shot`.
    chat: of the ranker `chat`, which is asked first: a cap that is reached
      then costs no time.
    text_encoder: a model that encodes texts for DSSM, TEM and the two-tower
      matcher, in place of their own word vectors: a folder with a BERT, or a
      sentence-transformers model (see `text_reader.SentenceReader`).
    scenarios: names from `scenarios.SCENARIOS`; "all" is every one that the
      folder has requests for. Or from `scenarios.WRITING`; "writing" is every
      one that the folder has texts of.
    rankers: names from `rankers.RANKERS`; "all" is every one that is
      available. The path of a file is another tool's run (see `runs`).
    split: "validation" or "test".
    limit: only a random sample of so many requests of each scenario.
    permutations: orders of the candidates in the prompt that the model's
      scores are averaged over, where the prompt lists them.
    select_template: rank each scenario with the template form that is best
      for the model on validation, not with the one that was built. Every form
      ranks the same requests, so the time grows with their number.
    normalisation: one of `scoring.normalisation.Normalisation`, or "select":
      the best on validation, chosen for each scenario. The row `model` is
      always of the sum; another normalisation gets a row of its own.
    resamples: of the bootstrap.
    seed: of that sample, of the orders and of the bootstrap.
    trec: also write trec/SCENARIO.qrels and trec/SCENARIO.RANKER.run, for
      other tools (see `runs`).
    probe: also ask the models whether they have seen the data; see `probe`.
    cutoff: of the probe, the last day of the models' training data.
    steer: also ask again with the words of queries changed; see `steering`.
    reason: add the rankers "reasoned", the model behind its own words, and
      "unlisted", without them in a prompt as short; see `reasoned_ranker`.
    force: replace `out` if it exists.

  Returns:
    What results.json holds: `rows` of scenario, ranker, metric, value, low,
    high (the 95% interval) and n; `costs`, what a request costs each of them
    (see `costs`) on the `device`; `comparisons` of every ranker with the best
    baseline; `chat`, how well-formed a chat model's answers were, and all
    rankers on its sample; `positions`, HR@1 by the target's place in the
    prompt, unless that is permuted; `popularity`, what is recommended, and
    HR@1 on head and tail; `temperatures` of pointwise rankers; `templates` and
    `normalisations`, what was chosen among them; `probe`, `steering` and
    `writing`, see there; `written`, texts to read; `scenarios` with the hash of
    their candidates; `labels`, how tables call the rankers; `impossible`,
    sentences on inconsistent metrics, which are internal errors; the arguments.

  Raises:
    InputError: an argument is unknown or something is missing, a folder's
      requests were built from other candidates than it holds, or `out` would
      replace what is read.
  """
  folder = DatasetFolder.open(dataset)
  _check(split, limit, permutations, seed)
  if reason and model is None:
    raise InputError("--reason has a model tell the taste: add --model.")
  tasks, ranked = find_writing(scenarios)
  asked = rankers
  if reason:
    found = find_available(ranked, folder=folder, split=split, need_text=True)
    asked = (*rankers, REASONED)
    if not any(map(entry_of(REASONED).applies, found)):
      raise InputError(
        "--reason is of scenarios of a history alone, and there is none: name "
        "one in --scenarios, such as sequential."
      )
    # Where candidates are listed it is what else differs.
    asked += (UNLISTED,) * any(map(entry_of(UNLISTED).applies, found))
  names = find_rankers(
    asked,
    folder=folder,
    model=model,
    zero_shot=zero_shot,
    chat=chat is not None,
  )
  check_counts(most=1_000_000, resamples=resamples)
  if text_encoder is not None and not set(TEXT_READERS) & set(names):
    raise InputError(
      "--text-encoder is used by none of the rankers chosen: name one of "
      f"{', '.join(TEXT_READERS)} in --rankers."
    )
  if permutations > 1 and not any(entry_of(n).is_language_model for n in names):
    raise InputError("--permutations is of a model's prompt: add --model.")
  _check_choices(
    select_template,
    normalisation,
    has_model=any(entry_of(name).is_selected for name in names)
    # A search by bounds, too, but without templates to choose from.
    or (
      "catalogue" in names and normalisation in BOUNDED and not select_template
    ),
  )
  models = {"model": model, "zero_shot": zero_shot}
  models = {name: path for name, path in models.items() if path is not None}
  probed = models if probe else {}
  if probe and not probed:
    raise InputError("--probe asks a model: add --model or --zero-shot.")
  if cutoff is not None:
    if not probe:
      raise InputError("--cutoff is of --probe: add it.")
    probe_lib.parse_cutoff(cutoff)
  if steer and not set(_STEERED) & set(names):
    raise InputError(
      "--steer changes what rankers read: name one of "
      f"{', '.join(_STEERED)} in --rankers."
    )
  need_text = steer or any(entry_of(name).reads_prompt for name in names)
  if tasks and not models:
    raise InputError(
      f"{tasks[0].name} is written by a model: add --model, or leave the "
      "scenario out."
    )
  source_of_texts, texts = None, {}
  if tasks:
    # What it lacks is told before anything is ranked.
    source_of_texts = Tasks(folder, split=split, seed=seed)
    texts = source_of_texts.find(tasks, limit=limit)
  chosen, sources = [], []
  if ranked:
    chosen, sources = _find(
      ranked,
      names,
      folder=folder,
      split=split,
      need_text=need_text,
      limit=limit,
      seed=seed,
    )
  if not chosen:
    # Nothing is ranked, so there is nothing to fit or to load.
    names = []
  if steer and not any(map(_is_steered, chosen)):
    raise InputError(
      "--steer changes the words of a query, and none of the scenarios has "
      "one: name one of a search in --scenarios, such as personalised_i2."
    )
  # What has no bound is left to the row of the model.
  searched = normalisation if normalisation in BOUNDED else Normalisation.SUM
  forms = TemplateForms(folder, seed=seed) if select_template else None
  runs = {
    pathlib.PurePath(name).name: RunRanker(pathlib.Path(name), folder.items)
    for name in names
    if is_run(name)
  }
  covered = {
    name: _covered(run, chosen, sources, split) for name, run in runs.items()
  }
  staged = contextlib.nullcontext()
  if out is not None:
    staged = storage.staged_folder(
      pathlib.Path(out),
      force=force,
      made_by="evaluate",
      inputs=(dataset, model, zero_shot, *(run.path for run in runs.values())),
    )
  with staged as partial:
    samples = {}
    if chat is not None:
      asked = ChatRanker(chat, folder, seed=seed)
      samples = {
        scenario.name: chat_sample.ask(asked, source, seed=seed)
        for scenario, source in zip(chosen, sources, strict=True)
        if entry_of(chat_sample.NAME).applies(scenario)
      }
    run = _Run(
      folder=folder,
      rankers={
        name: Metered(
          load_ranker(
            name,
            folder=folder,
            model=model,
            zero_shot=zero_shot,
            text_encoder=text_encoder,
            normalisation=searched,
          ),
          warm_up=entry_of(name).warm_up,
        )
        for name in names
        if name != chat_sample.NAME and not is_run(name)
      }
      | {name: Metered(run) for name, run in runs.items()},
      runs=runs,
      covered=covered,
      text_encoder=text_encoder,
      chat=samples,
      counts=training_counts(folder),
      forms=forms,
      need_text=need_text,
      split=split,
      limit=limit,
      permutations=permutations,
      normalisation=str(normalisation),
      resamples=resamples,
      seed=seed,
      scores=None if partial is None else partial / FOLDER,
      trec=partial / runs_lib.FOLDER if trec and partial else None,
    )
    results: dict[str, Any] = {
      "dataset": str(dataset),
      "dataset_sha256": storage.sha256_of(folder.path / MANIFEST_FILE),
      "model": None if model is None else str(model),
      "zero_shot": None if zero_shot is None else str(zero_shot),
      "text_encoder": text_encoder,
      "split": split,
      "limit": limit,
      "permutations": permutations,
      "normalisation": str(normalisation),
      "resamples": resamples,
      "seed": seed,
      "cutoff": cutoff,
      "device": device(),
      "labels": _labels(run),
      **{name: [] for name in _LISTS},
    }
    for scenario, source in zip(chosen, sources, strict=True):
      block = _evaluate_scenario(run, scenario, source)
      for name, entries in block.items():
        results[name] += entries
    if probed:
      results["probe"] = probe_lib.probe(
        {
          name: run.rankers.get(name)
          or load_ranker(name, folder=folder, model=model, zero_shot=zero_shot)
          for name in probed
        },
        folder,
        split=split,
        cutoff=cutoff,
        limit=limit,
        resamples=resamples,
        seed=seed,
      )
    if steer:
      results["steering"] = _steer(run, chosen, sources)
    if source_of_texts is not None:
      results["writing"], results["written"] = evaluate_writing(
        texts,
        {n: ModelWriter(pathlib.Path(path)) for n, path in models.items()},
        source_of_texts,
        resamples=resamples,
        seed=seed,
      )
    sizes = {s["name"]: s["candidate_count"] for s in results["scenarios"]}
    results["impossible"] = [
      sentence
      for rows in (results["rows"], *(c["rows"] for c in results["chat"]))
      for sentence in consistency.impossible(rows, candidates=sizes)
    ]
    if partial is not None:
      storage.write_json(partial / "results.json", results)
      (partial / "results.md").write_text(
        report.markdown(results), encoding="utf-8"
      )
      log = model and pathlib.Path(model) / "metrics.jsonl"
      html_report.write_html_report(
        partial / "report.html",
        title=f"Rankers on {folder.path.name}",
        results=results,
        training_log=log if log and log.is_file() else None,
      )
  return results


def estimate_chat(
  chat: ChatOptions,
  *,
  dataset: pathlib.Path,
  scenarios: Sequence[str] = ("all",),
  split: str = "test",
  limit: int | None = None,
  seed: int = 0,
) -> Estimate:
  """Returns what `evaluate` would send to `chat` at most; sends nothing."""
  folder = DatasetFolder.open(dataset)
  _check(split, limit, 1, seed)
  ranker = ChatRanker(chat, folder, seed=seed)
  _, ranked = find_writing(scenarios)
  if not ranked:
    raise InputError(
      "a chat model ranks, and all the scenarios are of writing: name others."
    )
  chosen, sources = _find(
    ranked,
    [chat_sample.NAME],
    folder=folder,
    split=split,
    need_text=True,
    limit=limit,
    seed=seed,
  )
  return ranker.estimate(
    [
      request
      for source in sources
      for request in chat_sample.draw(ranker, source, seed=seed)[1]
    ]
  )


@dataclasses.dataclass(frozen=True)
class _Run:
  """What all scenarios of an evaluation share.

  Attributes:
    rankers: by name, in the table's order, metered; those that `is_selected`
      are `NormalisingRanker`s.
    chat: a chat model's samples, by scenario, where one was asked.
    counts: training purchases of each item.
    forms: to select templates from; None ranks what was built.
    need_text: some ranker reads instructions.
    runs: those of the rankers that are other tools' runs.
    covered: for each of these, the names of the scenarios that it ranks.
    normalisation: of the model's second row, if it is not the sum; or "select".
    scores: the folder that keeps each request's scores, if any.
    trec: the folder of runs for other tools, if any.
  """

  folder: DatasetFolder
  rankers: Mapping[str, Metered]
  chat: Mapping[str, chat_sample.ChatSample]
  counts: np.ndarray
  forms: TemplateForms | None
  need_text: bool
  split: str
  limit: int | None
  permutations: int
  normalisation: str
  resamples: int
  seed: int
  text_encoder: str | None
  runs: Mapping[str, RunRanker]
  covered: Mapping[str, frozenset[str]]
  scores: pathlib.Path | None
  trec: pathlib.Path | None

  @property
  def selected(self) -> str | None:
    """Name of the ranker that templates and normalisations are chosen for."""
    return next((n for n in self.rankers if entry_of(n).is_selected), None)

  def orders(self, scenario: Scenario) -> int:
    """Returns how many orders of the candidates the model reads."""
    return self.permutations if scenario.reranks else 1

  def requests(
    self,
    scenario: Scenario,
    split: str,
    *,
    form: Form | None,
    limit: int | None = None,
  ) -> RequestSource:
    """Returns requests rendered with a form, or the built ones."""
    limit = limit or self.limit
    if form and self.forms:
      return self.forms.requests(scenario, form=form, split=split, limit=limit)
    return find_requests(
      scenario,
      folder=self.folder,
      split=split,
      need_text=self.need_text,
      limit=limit,
      seed=self.seed,
    )

  def applies(self, name: str, scenario: Scenario) -> bool:
    """Whether a ranker can rank the scenario's requests."""
    if name in self.covered:
      return scenario.name in self.covered[name]
    return entry_of(name).applies(scenario)

  def log(self, scenario: Scenario) -> ScoreLog:
    """Returns what keeps a scenario's scores."""
    writer = None
    if self.trec is not None:
      writer = RunWriter(self.trec, scenario, self.folder.items)
    return ScoreLog(scenario, folder=self.scores, runs=writer)

  def wrap(self, ranker: Ranker, scenario: Scenario) -> Ranker:
    """Lets a model permute candidates and play tournaments, where due."""
    if self.orders(scenario) > 1:
      ranker = PermutedRanker(
        ranker, permutations=self.permutations, seed=self.seed
      )
    if scenario.tournament:
      ranker = TournamentRanker(ranker, seed=self.seed)
    return ranker


def _evaluate_scenario(
  run: _Run, scenario: Scenario, source: RequestSource
) -> Block:
  """Returns what a scenario adds to the results."""
  evaluate_block = _judge_items if scenario.pointwise else _rank_candidates
  # A crowd's wordings are held out, and not chosen among.
  if run.forms is None or scenario.crowd:
    return evaluate_block(run, scenario, source, form=None)
  assert run.selected
  model = run.wrap(run.rankers[run.selected], scenario)
  best, choice = selection.choose_template(
    scenario, model, forms=run.forms, limit=run.limit
  )
  source = run.requests(scenario, run.split, form=best)
  block = evaluate_block(run, scenario, source, form=best)
  first_metric = (run.selected, scenario.metrics[0])
  (value,) = [
    row["value"]
    for row in block["rows"]
    if (row["ranker"], row["metric"]) == first_metric
  ]
  choice = selection.add_test_metrics(
    choice,
    scenario,
    model,
    forms=run.forms,
    split=run.split,
    limit=run.limit,
    of_best=value,
  )
  return {**block, "templates": [choice]}


def _rank_candidates(
  run: _Run, scenario: Scenario, source: RequestSource, *, form: Form | None
) -> Block:
  """Ranks the candidates of all requests with all rankers."""
  second, choices = run.normalisation, []
  if second == SELECT:
    assert run.selected
    choice = selection.choose_normalisation(
      scenario,
      run.rankers[run.selected],
      wrap=functools.partial(run.wrap, scenario=scenario),
      source=run.requests(
        scenario,
        "validation",
        form=form,
        limit=selection.sample_size(scenario, run.limit),
      ),
    )
    second, choices = choice["chosen"], [choice]
  rankers = _rows(run, scenario, second)
  for ranker in (*run.rankers.values(), *run.runs.values()):
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
      scenario, metrics, seed=run.seed, resamples=run.resamples
    )
    chat = []
    if scenario.name in run.chat:
      chat_rows, entry = chat_sample.summarise(
        scenario,
        run.chat[scenario.name],
        metrics,
        requests=source.count,
        log=log,
        seed=run.seed,
        resamples=run.resamples,
      )
      rows, chat = rows + chat_rows, [entry]

  end_to_end = []
  found = retrieved(scenario, folder=run.folder, split=run.split)
  if found is not None:
    is_found = np.array(
      [found[user] for user in log.users if user is not None], float
    )
    behind_matcher = {
      name: {metric: values * is_found for metric, values in by_metric.items()}
      for name, by_metric in metrics.items()
    }
    end_to_end, _ = summaries.summarise_ranking(
      scenario, behind_matcher, seed=run.seed, resamples=run.resamples
    )
  positions = []
  if scenario.lists_candidates and run.orders(scenario) == 1:
    positions = summaries.summarise_positions(
      scenario, metrics, slots=np.array(slots), seed=run.seed
    )
  names = [*rankers, *(entry["ranker"] for entry in chat)]
  description = _description(run, scenario, source, log, names)
  if queries:
    asked_alike = same_query(
      queries,
      target_items,
      negatives,
      item_queries=specific_intentions(run.folder.items),
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
      seed=run.seed,
    ),
    "normalisations": choices,
  }


def _judge_items(
  run: _Run, scenario: Scenario, source: RequestSource, *, form: Form | None
) -> Block:
  """Judges single items: Yes or No."""
  rankers = {
    name: ranker
    for name, ranker in run.rankers.items()
    if run.applies(name, scenario)
  }
  for ranker in (*rankers.values(), *run.runs.values()):
    ranker.start()
  with run.log(scenario) as log:
    margins, labels = score_margins(
      source, rankers, label=scenario.name, log=log
    )
  costs = _costs(run, scenario, [*rankers], requests=source.count)
  temperatures = {}
  if name := run.selected:
    on_validation, answers = score_margins(
      run.requests(scenario, "validation", form=form),
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
      seed=run.seed,
      resamples=run.resamples,
    ),
    "costs": costs,
    "temperatures": [
      {"scenario": scenario.name, "ranker": name, "value": value}
      for name, value in temperatures.items()
    ],
  }


def _rows(run: _Run, scenario: Scenario, second: str) -> dict[str, Ranker]:
  """Returns the rankers by row; the model's second row has a normalisation."""
  rows: dict[str, Ranker] = {}
  for name, ranker in run.rankers.items():
    entry = entry_of(name)
    if not run.applies(name, scenario):
      continue
    if entry.is_ceiling and not scenario.history_alone and rows:
      continue
    if not entry.is_language_model:
      # It can rank a hundred candidates as well as ten, in any order.
      rows[name] = ranker
    elif not entry.is_selected or run.normalisation == Normalisation.SUM:
      rows[name] = run.wrap(ranker, scenario)
    else:
      shared = SharedScores(ranker, (Normalisation.SUM, second))
      by_sum, by_second = map(shared.ranker, (Normalisation.SUM, second))
      rows[name] = run.wrap(by_sum, scenario)
      rows[_second_row(name, run)] = run.wrap(by_second, scenario)
  return rows


def _second_row(name: str, run: _Run) -> str:
  return f"{name}_{run.normalisation}"


def _ranker_of(row: str, run: _Run) -> str:
  """Returns the ranker of a row; the inverse of `_second_row`."""
  return row if row in RANKERS else row.removesuffix(f"_{run.normalisation}")


def _labels(run: _Run) -> dict[str, str]:
  """Returns how tables call the rows."""
  labels = {}
  for name, ranker in run.rankers.items():
    labels[name] = entry_of(name).label or ranker.name
    if run.text_encoder is not None and name in TEXT_READERS:
      labels[name] += f" ({pathlib.PurePath(run.text_encoder).name})"
    if entry_of(name).is_selected and run.normalisation != Normalisation.SUM:
      labels[_second_row(name, run)] = f"{name} ({run.normalisation})"
  for sample in run.chat.values():
    labels[chat_sample.NAME] = sample.model
  return labels


def _costs(
  run: _Run, scenario: Scenario, rows: Sequence[str], *, requests: int
) -> list[dict[str, Any]]:
  """Returns what a request took since the rankers' `start`.

  Rows of two normalisations share what was computed once, and its cost.
  """
  return [
    {
      "scenario": scenario.name,
      "ranker": row,
      **run.rankers[_ranker_of(row, run)].cost(requests),
      # What another tool took is not known.
      **(dict.fromkeys(["ms", "flops"]) if row in run.runs else {}),
    }
    for row in rows
  ]


def _description(
  run: _Run,
  scenario: Scenario,
  source: RequestSource,
  log: ScoreLog,
  rows: Sequence[str],
) -> dict[str, Any]:
  """Returns what must be known of a scenario's requests, and of its rows."""
  entries = {row: entry_of(_ranker_of(row, run)) for row in rows}
  return {
    **dataclasses.asdict(scenario),
    "aspects": scenario.label,
    "candidate_count": source.candidates,
    "requests": source.count,
    "source": str(source.path),
    "candidates_sha256": log.candidates_sha256,
    "template": source.template,
    "permutations": run.orders(scenario),
    "matcher": matcher(scenario, folder=run.folder, split=run.split),
    # Nobody says what another tool saw.
    "sees": {
      row: None if row in run.runs else entry.sees(scenario)
      for row, entry in entries.items()
    },
    "sees_beside": {
      row: entry.sees_beside(scenario) for row, entry in entries.items()
    },
    "tied_times": _tied_share(run, scenario, log.users),
    # Folders of before do not say; they kept the order of their files.
    "tied_order": run.folder.manifest.get("ties", {}).get(
      "order", "as the file has them"
    ),
    "same_query": None,
    "runs": {
      name: {"missing": ranker.missing, "of": ranker.candidates}
      for name, ranker in run.runs.items()
      if name in rows
    },
  }


def _tied_share(
  run: _Run, scenario: Scenario, users: Sequence[int | None]
) -> float | None:
  """Returns the share of targets whose time is another purchase's, too."""
  if scenario.candidates == "items":
    return None
  targets = getattr(run.folder.splits, run.split)
  ranked = np.isin(targets.users, [u for u in users if u is not None])
  return tied_share(
    Targets(targets.users[ranked], targets.positions[ranked]),
    run.folder.sequences,
    run.folder.timestamps,
  )


def _find(
  scenarios: Sequence[str],
  rankers: Sequence[str],
  *,
  folder: DatasetFolder,
  split: str,
  need_text: bool,
  limit: int | None,
  seed: int,
) -> tuple[list[Scenario], list[RequestSource]]:
  """Returns the scenarios that some ranker can rank, and their requests."""
  available = find_available(
    scenarios, folder=folder, split=split, need_text=need_text
  )
  chosen = with_rankers(available, rankers)
  sources = [
    find_requests(
      scenario,
      folder=folder,
      split=split,
      need_text=need_text,
      limit=limit,
      seed=seed,
    )
    for scenario in chosen
  ]
  for source in sources:
    if not source.count:
      raise InputError(f"{source.path}: there are no requests to rank.")
  return chosen, sources


def _covered(
  run: RunRanker,
  scenarios: Sequence[Scenario],
  sources: Sequence[RequestSource],
  split: str,
) -> frozenset[str]:
  """Returns the names of the scenarios that a run ranks.

  Raises:
    InputError: it ranks none of them, or some requests of one.
  """
  found = frozenset(
    scenario.name
    for scenario, source in zip(scenarios, sources, strict=True)
    if run.covers(source.read())
  )
  if not found:
    first = next(iter(sources[0].read())).request_id
    raise InputError(
      f"{run.path}: it ranks no {split} request of "
      f"{', '.join(s.name for s in scenarios)}, whose ids are such as "
      f"{first!r}."
    )
  return found


def _steer(
  run: "_Run", scenarios: Sequence[Scenario], sources: Sequence[RequestSource]
) -> list[dict[str, Any]]:
  """Returns the rows of `steering.steer` of each scenario that can be."""
  rankers = {n: run.rankers[n] for n in _STEERED if n in run.rankers}
  rows = []
  for scenario, source in zip(scenarios, sources, strict=True):
    if _is_steered(scenario):
      found = steering.steer(
        rankers,
        source.read(),
        run.folder,
        lists_candidates=scenario.lists_candidates,
        limit=run.limit,
        resamples=run.resamples,
        seed=run.seed,
      )
      rows += [{"scenario": scenario.name, **row} for row in found]
  return rows


def _is_steered(scenario: Scenario) -> bool:
  # A tournament's prompts are made as it goes.
  is_one_list = not (scenario.pointwise or scenario.tournament)
  return is_one_list and "query" in scenario.shows


def _check(split: str, limit: int | None, permutations: int, seed: int) -> None:
  if split not in ("validation", "test"):
    raise InputError(f"there is no split {split!r}: validation or test.")
  if limit is not None:
    check_counts(limit=limit)
  check_counts(permutations=permutations)
  check_seed(seed)


def _check_choices(
  select_template: bool, normalisation: str, *, has_model: bool
) -> None:
  if normalisation not in (*Normalisation, SELECT):
    raise InputError(
      f"there is no normalisation {normalisation!r}: name one of "
      f"{', '.join((*Normalisation, SELECT))}."
    )
  if not has_model and (select_template or normalisation != Normalisation.SUM):
    raise InputError(
      "templates and normalisations are a model's: add --model, and rank it."
    )
