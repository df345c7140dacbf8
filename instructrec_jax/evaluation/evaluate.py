"""Evaluation: every ranker on the same candidates, from requests to the table.

`evaluate` checks the arguments (`plan`), asks the chat model, loads the
rankers, adds up the blocks of the scenarios (`block`) and what else was asked
for, and writes the results as JSON, Markdown and a page.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from instructrec_jax import storage
from instructrec_jax.baselines.chat import ChatOptions, ChatRanker
from instructrec_jax.baselines.popularity import training_counts
from instructrec_jax.data.folder import MANIFEST_FILE
from instructrec_jax.errors import InputError
from instructrec_jax.evaluation import (
  block,
  chat_sample,
  consistency,
  html_report,
  report,
  runs,
  steering,
)
from instructrec_jax.evaluation import probe as probe_lib
from instructrec_jax.evaluation.costs import Metered, device
from instructrec_jax.evaluation.metrics import RESAMPLES
from instructrec_jax.evaluation.plan import Plan, find_plan
from instructrec_jax.evaluation.rankers import entry_of, load_model, load_ranker
from instructrec_jax.evaluation.scores import FOLDER
from instructrec_jax.evaluation.writer import ModelWriter
from instructrec_jax.evaluation.writing import evaluate_writing
from instructrec_jax.instructions.scenarios import find_writing
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
  plan = find_plan(
    dataset=dataset,
    model=model,
    zero_shot=zero_shot,
    has_chat=chat is not None,
    text_encoder=text_encoder,
    scenarios=scenarios,
    rankers=rankers,
    split=split,
    limit=limit,
    permutations=permutations,
    select_template=select_template,
    normalisation=normalisation,
    resamples=resamples,
    seed=seed,
    probe=probe,
    cutoff=cutoff,
    steer=steer,
    reason=reason,
  )
  staged = contextlib.nullcontext()
  if out is not None:
    read = [run.path for run in plan.runs.values()]
    staged = storage.staged_folder(
      pathlib.Path(out),
      force=force,
      made_by="evaluate",
      inputs=(dataset, *plan.models.values(), *read),
    )
  with staged as partial:
    samples = {} if chat is None else _ask(chat, plan)
    # One copy of its parameters, for all that is done with a model.
    load = functools.cache(load_model)
    run = block.Run(
      plan=plan,
      rankers=_load(plan, text_encoder=text_encoder, load=load),
      chat=samples,
      counts=training_counts(plan.folder),
      scores=None if partial is None else partial / FOLDER,
      trec=partial / runs.FOLDER if trec and partial else None,
    )
    results: dict[str, Any] = {
      "dataset": str(dataset),
      "dataset_sha256": storage.sha256_of(plan.folder.path / MANIFEST_FILE),
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
      "labels": block.labels(run, text_encoder=text_encoder),
      **{name: [] for name in _LISTS},
    }
    for scenario, source in zip(plan.scenarios, plan.sources, strict=True):
      found = block.evaluate_scenario(run, scenario, source)
      for name, entries in found.items():
        results[name] += entries
    if probe:
      results["probe"] = probe_lib.probe(
        {
          name: run.rankers.get(name)
          or load_ranker(
            name,
            folder=plan.folder,
            model=model,
            zero_shot=zero_shot,
            load=load,
          )
          for name in plan.models
        },
        plan.folder,
        split=split,
        cutoff=cutoff,
        limit=limit,
        resamples=resamples,
        seed=seed,
      )
    if steer:
      results["steering"] = _steer(run)
    if plan.tasks is not None:
      results["writing"], results["written"] = evaluate_writing(
        plan.texts,
        {name: ModelWriter(load(p)) for name, p in plan.models.items()},
        plan.tasks,
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
      _write(partial, results, plan=plan)
  return results


def _ask(chat: ChatOptions, plan: Plan) -> Mapping[str, chat_sample.ChatSample]:
  """Returns a chat model's answers, by scenario."""
  ranker = ChatRanker(chat, plan.folder, seed=plan.seed)
  return {
    scenario.name: chat_sample.ask(ranker, source, seed=plan.seed)
    for scenario, source in zip(plan.scenarios, plan.sources, strict=True)
    if entry_of(chat_sample.NAME).applies(scenario)
  }


def _load(
  plan: Plan,
  *,
  text_encoder: str | None,
  load: Callable[[pathlib.Path], Any],
) -> Mapping[str, Metered]:
  """Loads or fits the rankers; other tools' runs come last."""
  # What has no bound is left to the row of the model.
  is_bounded = plan.normalisation in BOUNDED
  searched = plan.normalisation if is_bounded else Normalisation.SUM
  rankers = {
    name: Metered(
      load_ranker(
        name,
        folder=plan.folder,
        model=plan.models.get("model"),
        zero_shot=plan.models.get("zero_shot"),
        text_encoder=text_encoder,
        normalisation=searched,
        load=load,
      ),
      warm_up=entry_of(name).warm_up,
    )
    for name in plan.rankers
    if name != chat_sample.NAME
  }
  return rankers | {name: Metered(run) for name, run in plan.runs.items()}


def _steer(run: block.Run) -> list[dict[str, Any]]:
  """Returns the rows of `steering.steer` of each scenario that can be."""
  plan = run.plan
  rankers = {n: run.rankers[n] for n in steering.STEERED if n in run.rankers}
  return [
    {"scenario": scenario.name, **row}
    for scenario, source in zip(plan.scenarios, plan.sources, strict=True)
    if steering.is_steered(scenario)
    for row in steering.steer(
      rankers,
      source.read(),
      plan.folder,
      lists_candidates=scenario.lists_candidates,
      limit=plan.limit,
      resamples=plan.resamples,
      seed=plan.seed,
    )
  ]


def _write(out: pathlib.Path, results: dict[str, Any], *, plan: Plan) -> None:
  """Writes the results as JSON, as Markdown and as a page."""
  storage.write_json(out / "results.json", results)
  (out / "results.md").write_text(report.markdown(results), encoding="utf-8")
  log = results["model"] and pathlib.Path(results["model"]) / "metrics.jsonl"
  html_report.write_html_report(
    out / "report.html",
    title=f"Rankers on {plan.folder.path.name}",
    results=results,
    training_log=log if log and log.is_file() else None,
  )


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
  _, ranked = find_writing(scenarios)
  if not ranked:
    raise InputError(
      "a chat model ranks, and all the scenarios are of writing: name others."
    )
  plan = find_plan(
    dataset=dataset,
    has_chat=True,
    scenarios=ranked,
    rankers=[chat_sample.NAME],
    split=split,
    limit=limit,
    seed=seed,
  )
  ranker = ChatRanker(chat, plan.folder, seed=seed)
  return ranker.estimate(
    [
      request
      for source in plan.sources
      for request in chat_sample.draw(ranker, source, seed=seed)[1]
    ]
  )
