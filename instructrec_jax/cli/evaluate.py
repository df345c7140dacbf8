"""Ranks the same stored candidates with every ranker and prints the table.

Popularity and co-occurrence are fitted on the training interactions. Writes
results.json (for programs), results.md and report.html into --out.
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.cli.chat_ranker import ChatRanker
from instructrec_jax.errors import InputError

EXAMPLE = (
  "instructrec evaluate --dataset data/games --model runs/games "
  "--scenarios sequential --out results/games"
)


@dataclass(frozen=True, kw_only=True)
class Options:
  dataset: opt.Dataset
  out: opt.Out | None = None
  """folder to write (required, except with --dry-run)"""
  model: opt.Model | None = None
  """a model folder; without it, only the baselines are ranked"""
  zero_shot: opt.Model | None = None
  """another model folder, not tuned, for a row beside --model"""
  text_encoder: opt.TextEncoder | None = None
  """that dssm, tem and two_tower read texts with (default: word vectors of
  their own): a folder with a BERT, or a sentence-transformers model"""
  scenarios: opt.Names = ("all",)
  """scenarios, comma-separated; all is each that ranks, writing each in which
  a model writes"""
  rankers: opt.RankersOrRuns = ("all",)
  """rankers, comma-separated; all is every one that is available, a file
  (.run, .trec, .txt, .parquet) another tool's run, or scores of `score`; with a
  * it is several files"""
  split: Literal["validation", "test"] = "test"
  """requests to rank"""
  limit: opt.Count | None = None
  """only a random sample of so many requests"""
  permutations: Annotated[opt.Count, opt.Arg(most=1000)] = 1
  """average the model's scores over N orders of the candidates in its prompt"""
  select_template: bool = False
  """word each scenario as is best for the model on validation, with a list of
  the candidates or without, and report all its templates"""
  normalisation: Literal[
    "sum", "mean", "byte", "pmi", "catalogue_prior", "ghost_free", "select"
  ] = "sum"
  """add a row with the model's scores normalised; select takes each scenario's
  best on validation (default: the row of sums alone)"""
  resamples: Annotated[opt.Count, opt.Arg(most=1_000_000)] = 10_000
  """resamples of the bootstrap"""
  seed: opt.Seed = 0
  """seed of the sample and the bootstrap"""
  trec: bool = False
  """also write TREC qrels and runs into trec/, for other tools"""
  probe: bool = False
  """also ask the models whether they have seen the data before"""
  cutoff: Annotated[str | None, opt.Arg(metavar="YYYY-MM-DD")] = None
  """last day of the models' training data, which --probe compares purchases
  of before and after (default: training targets and held-out ones)"""
  steer: bool = False
  """also ask again with words of the queries edited, denied, flipped and
  paraphrased, and report how far rankings follow"""
  reason: bool = False
  """also have the model tell each user's taste first, and rank by what follows
  its own words, where it is asked by a history alone"""
  force: opt.Force = False
  multi_process: opt.MultiProcess = False
  json: opt.Json = False
  dry_run: bool = False
  """only estimate what chat may cost"""
  chat: ChatRanker


def _tell_vocabulary(options: Options) -> None:
  """Says so if instructions were fitted to another model's encoder."""
  from instructrec_jax import storage

  own = options.dataset / "vocabulary.model"
  for model in filter(None, (options.model, options.zero_shot)):
    read = model / "vocabulary.model"
    if own.is_file() and read.is_file():
      if storage.sha256_of(own) != storage.sha256_of(read):
        print(
          f"note: {options.dataset} was built with another vocabulary than "
          f"{model} has: its instructions may be longer or shorter in tokens "
          "than that model was trained with.",
          file=sys.stderr,
        )


def run(options: Options) -> tuple[Any, str] | None:
  """Runs `evaluation.evaluate.evaluate`, or estimates its price."""
  from instructrec_jax.instructions.scenarios import (
    find_scenarios,
    find_writing,
  )

  # A wrong name is refused before jax is imported.
  find_scenarios(find_writing(options.scenarios)[1])
  chat = options.chat.for_evaluate(options.seed)
  if options.dry_run:
    from instructrec_jax.evaluation.evaluate import estimate_chat

    if chat is None:
      raise InputError(
        "--dry-run is of a chat model's price: add --chat-model."
      )
    names = ("dataset", "scenarios", "split", "limit", "seed")
    asked = {name: getattr(options, name) for name in names}
    found = estimate_chat(chat, **asked)
    return dataclasses.asdict(found), found.sentence
  if options.out is None:
    raise InputError("--out is missing: the folder to write results to.")
  if options.multi_process and chat:
    raise InputError("each process would pay for --chat-model: use one alone.")
  _tell_vocabulary(options)
  is_first = True
  if options.multi_process:
    from instructrec_jax import processes

    processes.join()
    is_first = processes.is_first()

  from instructrec_jax.evaluation import report
  from instructrec_jax.evaluation.evaluate import evaluate

  apart = ("out", "chat", "multi_process", "json", "dry_run")
  results = evaluate(
    **opt.arguments(options, *apart),
    out=options.out if is_first else None,
    chat=chat,
  )
  if not is_first:
    return None
  return results, (
    f"{report.markdown(results)}\n"
    f"written: {options.out}/results.json, results.md and report.html"
  )
