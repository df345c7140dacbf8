"""Has a teacher write users' preferences and intentions, each paid for once.

The offline teacher uses rules and needs no key. The others ask a chat model
over the OpenAI API, of OpenAI or any server that speaks it (--base-url), whose
key is in OPENAI_API_KEY. Answers go to annotations.sqlite in the dataset
folder; a run that is stopped or killed goes on where it was.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

# What rules have no use for.
_OF_CHAT = (
  *("model", "base_url", "batch", "jsonl_out", "jsonl_in"),
  *("requests_per_minute", "tokens_per_minute"),
  *("dry_run", "prices", "max_usd", "max_requests", "judge"),
)

EXAMPLE = "instructrec annotate --dataset data/games --teacher offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the subcommand's options."""
  parser.add_argument("--dataset", type=pathlib.Path, required=True)
  parser.add_argument(
    "--teacher",
    choices=("offline", "openai"),
    default="offline",
    help="rules, or a chat model (default: %(default)s)",
  )
  parser.add_argument(
    "--training-targets",
    type=int,
    default=1,
    metavar="N",
    help="training targets a user that get an intention, beside the held-out "
    "ones (default: %(default)s)",
  )
  asked = parser.add_argument_group("the chat model")
  asked.add_argument("--model", help="its name, such as gpt-4o-mini")
  asked.add_argument("--base-url", help="of the server (default: OpenAI's)")
  asked.add_argument(
    "--batch", action="store_true", help="OpenAI's Batch API, at half price"
  )
  asked.add_argument(
    "--jsonl-out",
    type=pathlib.Path,
    metavar="FILE",
    help="write the requests for `vllm run-batch -i FILE`, and send nothing",
  )
  asked.add_argument(
    "--jsonl-in",
    type=pathlib.Path,
    metavar="FILE",
    help="take the answers from what `vllm run-batch -o FILE` wrote",
  )
  asked.add_argument("--temperature", type=float, default=0.4)
  asked.add_argument("--max-tokens", type=int, default=512, help="an answer")
  asked.add_argument("--workers", type=int, default=64)
  asked.add_argument("--requests-per-minute", type=float, metavar="N")
  asked.add_argument("--tokens-per-minute", type=float, metavar="N")
  money = parser.add_argument_group("money")
  money.add_argument(
    "--dry-run", action="store_true", help="only estimate tokens and price"
  )
  money.add_argument(
    "--prices",
    type=float,
    nargs=2,
    metavar=("IN", "OUT"),
    help="dollars for a million tokens of prompts and of answers",
  )
  money.add_argument("--max-usd", type=float, help="needs --prices")
  money.add_argument("--max-requests", type=int, help="retries count")
  share = parser.add_argument_group("sharing")
  share.add_argument(
    "--export", type=pathlib.Path, metavar="FILE", help="write answers, Parquet"
  )
  share.add_argument(
    "--import",
    dest="import_from",
    type=pathlib.Path,
    metavar="FILE",
    help="take answers that somebody exported",
  )
  quality = parser.add_argument_group("quality, as the paper's Table 3")
  quality.add_argument(
    "--judge", action="store_true", help="the model reviews a sample"
  )
  quality.add_argument(
    "--sheet", type=pathlib.Path, metavar="CSV", help="a sample for people"
  )
  quality.add_argument(
    "--read-sheet",
    type=pathlib.Path,
    metavar="CSV",
    help="tabulate a sheet that people filled with yes and no",
  )
  quality.add_argument(
    "--samples", type=int, default=100, help="of each kind (default: 100)"
  )
  parser.add_argument("--force", action="store_true", help="replace FILEs")
  parser.add_argument("--seed", type=int, default=0, help="of waiting times")
  parser.add_argument("--json", action="store_true", help="print the summary")


def run(args: argparse.Namespace) -> None:
  """Annotates, or estimates, or moves annotations, and prints what is there."""
  from instructrec_jax.errors import InputError
  from instructrec_jax.teacher import annotate, exchange, review

  if args.export:
    rows = exchange.export_annotations(
      args.dataset, args.export, force=args.force
    )
    print(f"{args.export}: {rows:,} annotations")
    return
  if args.import_from:
    taken = exchange.import_annotations(args.dataset, args.import_from)
    print(json.dumps(taken) if args.json else _imported(args, taken))
    return
  if args.read_sheet:
    rows = review.read_sheet(args.read_sheet)
    print(json.dumps(rows) if args.json else review.format_table(rows))
    return
  if args.sheet:
    _write_sheet(args)
    return
  if args.teacher == "offline":
    if given := [name for name in _OF_CHAT if getattr(args, name)]:
      raise InputError(
        f"--{given[0].replace('_', '-')} is of a chat model, and the teacher "
        "is offline: add --teacher openai."
      )
    found = annotate.annotate_offline(
      args.dataset, training_targets=args.training_targets
    )
  elif not args.model:
    raise InputError("--teacher openai needs --model, such as gpt-4o-mini.")
  elif args.dry_run:
    _print_estimate(args)
    return
  elif args.judge:
    _judge(args)
    return
  else:
    found = annotate.annotate_with(
      _transport(args),
      args.dataset,
      model=args.model,
      parameters=_parameters(args),
      training_targets=args.training_targets,
    )
  if "tally" in found:
    found["tally"] = _counts(found["tally"])
  print(json.dumps(found) if args.json else summary(found))


def _transport(args: argparse.Namespace) -> Callable[..., Any]:
  """Returns what sends requests: live, in batches, or through files."""
  import openai

  from instructrec_jax.teacher import batch, jsonl, online
  from instructrec_jax.teacher.budget import Pace

  if args.jsonl_out:
    return lambda requests, store: jsonl.FileTally(
      written=jsonl.write_requests(
        requests, args.jsonl_out, store=store, force=args.force
      )
    )
  if args.jsonl_in:
    return lambda requests, store: jsonl.read_answers(
      args.jsonl_in, requests, store=store
    )
  budget = _budget(args)
  if args.batch:
    client = openai.OpenAI(
      api_key=online.find_key(args.base_url), base_url=args.base_url
    )
    return lambda requests, store: batch.run_batches(
      requests,
      store=store,
      client=client,
      state_path=args.dataset / batch.FILE,
      reserve=budget.reserve,
    )
  client = online.make_client(args.base_url)
  pace = Pace(
    requests_per_minute=args.requests_per_minute,
    tokens_per_minute=args.tokens_per_minute,
  )
  return lambda requests, store: online.answer_all(
    requests,
    store=store,
    client=client,
    budget=budget,
    pace=pace,
    limits=online.Limits(workers=args.workers),
    seed=args.seed,
  )


def _budget(args: argparse.Namespace) -> Any:
  from instructrec_jax.teacher.budget import Budget

  return Budget(
    prices=_prices(args),
    max_usd=args.max_usd,
    max_requests=args.max_requests,
  )


def _prices(args: argparse.Namespace) -> Any:
  from instructrec_jax.teacher.budget import Prices

  if args.prices is None:
    return None
  # The Batch API costs half.
  share = 0.5 if args.batch else 1.0
  return Prices(*(share * price for price in args.prices))


def _parameters(args: argparse.Namespace) -> dict[str, float | int | str]:
  return {
    "temperature": args.temperature,
    "max_completion_tokens": args.max_tokens,
  }


def _print_estimate(args: argparse.Namespace) -> None:
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher.annotate import open_requests
  from instructrec_jax.teacher.annotations import open_store
  from instructrec_jax.teacher.budget import estimate
  from instructrec_jax.teacher.jsonl import unanswered

  if args.judge:
    _, requests = _to_judge(args)
    with open_store(DatasetFolder.open(args.dataset)) as store:
      requests = list(unanswered(requests, store))
  else:
    requests = open_requests(
      args.dataset,
      model=args.model,
      parameters=_parameters(args),
      training_targets=args.training_targets,
    )
  found = estimate(requests, _prices(args))
  print(json.dumps(dataclasses.asdict(found)) if args.json else found.sentence)


def _write_sheet(args: argparse.Namespace) -> None:
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review

  samples = review.draw_samples(
    DatasetFolder.open(args.dataset), count=args.samples, seed=args.seed
  )
  review.write_sheet(samples, args.sheet, force=args.force)
  print(
    f"{args.sheet}: {len(samples)} annotations; fill in yes or no, then run "
    f"`instructrec annotate --dataset {args.dataset} --read-sheet "
    f"{args.sheet}`"
  )


def _judge(args: argparse.Namespace) -> None:
  """Lets the model answer Table 3's questions about a sample."""
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review
  from instructrec_jax.teacher.annotations import open_store
  from instructrec_jax.teacher.jsonl import unanswered

  samples, requests = _to_judge(args)
  with open_store(DatasetFolder.open(args.dataset)) as store:
    _transport(args)(unanswered(requests, store), store)
    texts = store.texts(request.key for request in requests)
  rows = review.judged(
    samples,
    {
      place: texts[request.key]
      for place, request in enumerate(requests)
      if request.key in texts
    },
  )
  print(json.dumps(rows) if args.json else review.format_table(rows))


def _to_judge(args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
  """Returns a sample of annotations, and what the model is asked of each."""
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review

  samples = review.draw_samples(
    DatasetFolder.open(args.dataset), count=args.samples, seed=args.seed
  )
  return samples, [
    review.judge_request(s, model=args.model, parameters=_parameters(args))
    for s in samples
  ]


def _counts(tally: Any) -> dict[str, Any]:
  """Returns a transport's numbers; of statuses, each by its name."""
  counts = dict(vars(tally))
  statuses = counts.pop("statuses")
  return {**{str(name): count for name, count in statuses.items()}, **counts}


def _imported(args: argparse.Namespace, taken: dict[str, int]) -> str:
  return (
    f"{args.import_from}: {taken['taken']:,} of {taken['rows']:,} annotations "
    f"taken; {taken['elsewhere']:,} are about users or items that are not here"
  )


def summary(found: dict[str, Any]) -> str:
  """Returns what `annotate.summarise` counted, for people."""
  words, coverage = found["words"], found["coverage"]
  lines = [
    f"{found['users']:,} users ({found['users_without_history']:,} without a "
    f"history), {found['targets']:,} targets "
    f"({found['targets_without_review']:,} without a review)",
    f"{'':<24}{'usable':>8}{'words':>7}{'coverage':>10}",
  ]
  for kind in ("preferences", "intentions"):
    lines.append(
      f"{kind:<24}{found[kind]:>8,}{words[kind]:>7.1f}{coverage[kind]:>10.1%}"
    )
  lines.append(
    f"{'together':<24}{found['preferences'] + found['intentions']:>8,}"
    f"{words['all']:>7.1f}   (the paper's Table 2: 252,730 of 23.5 words)"
  )
  for name, verdicts in found["quality"].items():
    counts = ", ".join(f"{count:,} {v}" for v, count in verdicts.items())
    lines.append(f"  {name:<24} {counts}")
  for teacher, count in found["teachers"].items():
    lines.append(f"answers of {teacher}: {count:,}")
  if tally := found.get("tally"):
    told = [
      f"{name} {f'{value:.4f}' if isinstance(value, float) else value}"
      for name, value in tally.items()
      if value
    ]
    lines.append(f"this run: {', '.join(told) or 'nothing was open'}")
  return "\n".join(lines)
