"""Has a teacher write users' preferences and intentions, each paid for once.

The offline teacher uses rules and needs no key. The other asks a chat model
over the OpenAI API, of OpenAI or any server that speaks it (--base-url), whose
key is in OPENAI_API_KEY. Answers go to annotations.sqlite in the dataset
folder; a run that is stopped or killed goes on where it was.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.cli.chat_ranker import BaseUrl, Caps
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec annotate --dataset data/games --teacher offline"


@dataclass(frozen=True, kw_only=True)
class Chat:
  """The chat model."""

  model: str | None = None
  """its name, such as gpt-4o-mini"""
  base_url: BaseUrl | None = None
  batch: bool = False
  """OpenAI's Batch API, at half price"""
  jsonl_out: opt.OutputFile | None = None
  """write the requests for `vllm run-batch -i FILE`, and send nothing; a * in
  its name stands for the numbers of files, of 50,000 requests or 200 MB"""
  jsonl_in: opt.InputFiles | None = None
  """take the answers from what `vllm run-batch -o FILE` wrote; a * in its name
  stands for several files"""
  temperature: Annotated[float, opt.Arg(least=0, most=2)] = 0.4
  """of sampling"""
  max_tokens: Annotated[opt.Count, opt.Arg(most=1_000_000)] = 512
  """tokens of an answer"""
  workers: Annotated[opt.Count, opt.Arg(most=1000)] = 64
  """requests in flight; the client opens 1,000 connections at most"""

  @property
  def price_share(self) -> float:
    """What is paid of the prices: the Batch API costs half."""
    return 0.5 if self.batch else 1.0

  @property
  def parameters(self) -> dict[str, float | int | str]:
    """What the API is told besides the prompt."""
    return {
      "temperature": self.temperature,
      "max_completion_tokens": self.max_tokens,
    }


@dataclass(frozen=True, kw_only=True)
class Money(Caps):
  """Limits of the chat model's rate and price."""

  dry_run: bool = False
  """only count questions, beside the paper's, and estimate tokens and price"""


@dataclass(frozen=True, kw_only=True)
class Sharing:
  """Sharing."""

  export: opt.OutputFile | None = None
  """write answers, Parquet"""
  import_from: Annotated[opt.InputFiles | None, opt.Arg(flag="--import")] = None
  """take answers that somebody exported; a * in the name stands for several
  files"""


@dataclass(frozen=True, kw_only=True)
class Quality:
  """Quality, as the paper's Table 3."""

  judge: bool = False
  """the chat model reviews a sample"""
  gate: bool = False
  """set aside what the judge says tells no preference or intention"""
  show: bool = False
  """print a sample, and how much of it names a title or asks for nothing"""
  sheet: Annotated[opt.OutputFile | None, opt.Arg(metavar="CSV")] = None
  """write a sample for people to review"""
  read_sheet: Annotated[opt.InputFile | None, opt.Arg(metavar="CSV")] = None
  """tabulate a sheet that people filled with yes and no"""
  samples: opt.Count = 100
  """annotations of each kind to review"""


@dataclass(frozen=True, kw_only=True)
class Options:
  dataset: opt.Dataset
  teacher: Literal["offline", "openai"] = "offline"
  """rules, or a chat model"""
  training_targets: opt.CountOrZero = 1
  """training targets a user that get an intention, beside the held-out ones"""
  chat: Chat
  money: Money
  sharing: Sharing
  quality: Quality
  force: opt.Force = False
  """replace FILEs"""
  seed: opt.Seed = 0
  """seed of wordings, waiting times and samples"""
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if a chat model is asked for by half."""
    files = (*vars(self.sharing).values(), self.quality.read_sheet)
    if any((*files, self.quality.sheet)):
      return
    if self.teacher == "offline":
      _refuse_chat_options(self)
    elif not self.chat.model:
      raise InputError("--teacher openai needs --model, such as gpt-4o-mini.")


def run(options: Options) -> tuple[Any, str]:
  """Annotates, or estimates, or moves annotations."""
  from instructrec_jax.teacher import annotate, exchange, review

  dataset, sharing, quality = options.dataset, options.sharing, options.quality
  _refuse_two_at_once(options)
  if path := sharing.export:
    rows = exchange.export_annotations(dataset, path, force=options.force)
    text = f"{path}: {rows:,} annotations"
    return {"out": str(path), "annotations": rows}, text
  if path := sharing.import_from:
    taken = exchange.import_annotations(dataset, path)
    return taken, (
      f"{path}: {taken['taken']:,} of {taken['rows']:,} annotations taken; "
      f"{taken['elsewhere']:,} are about users or items that are not here"
    )
  if quality.read_sheet:
    rows = review.read_sheet(quality.read_sheet)
    text = review.format_table(rows) if rows else "no answer is filled in yet"
    return rows, text
  if quality.gate and not quality.judge:
    raise InputError("--gate goes with --judge, whose verdicts it applies.")
  if quality.show:
    return _show(options)
  if path := quality.sheet:
    samples = _samples(options)
    review.write_sheet(samples, path, force=options.force)
    return {"out": str(path), "annotations": len(samples)}, (
      f"{path}: {len(samples)} annotations; fill in yes or no, then run "
      f"`instructrec annotate --dataset {dataset} --read-sheet {path}`"
    )
  if options.money.dry_run and options.teacher == "offline":
    return annotate.counted(dataset, training_targets=options.training_targets)
  if options.teacher == "offline":
    found = annotate.annotate_offline(
      dataset, training_targets=options.training_targets, seed=options.seed
    )
  elif options.money.dry_run:
    return _estimate(options)
  elif quality.judge:
    return _judge(options)
  else:
    _check_files(options)
    found = annotate.annotate_with(
      _transport(options), dataset, **_asked(options)
    )
  if "tally" in found:
    # Statuses are counted by name, beside the tally's other counts.
    tally = dict(vars(found["tally"]))
    statuses = tally.pop("statuses")
    found["tally"] = {str(name): n for name, n in statuses.items()} | tally
  return found, summary(found)


def _refuse_two_at_once(options: Options) -> None:
  """Raises InputError if two options ask for different things to be done."""
  chat, sharing, quality = options.chat, options.sharing, options.quality
  for asked in (
    {
      "--batch": chat.batch,
      "--jsonl-out": chat.jsonl_out,
      "--jsonl-in": chat.jsonl_in,
    },
    {
      "--export": sharing.export,
      "--import": sharing.import_from,
      "--judge": quality.judge,
      "--show": quality.show,
      "--sheet": quality.sheet,
      "--read-sheet": quality.read_sheet,
    },
    # What is judged may be estimated.
    {
      "--dry-run": options.money.dry_run,
      "--export": sharing.export,
      "--import": sharing.import_from,
      "--show": quality.show,
      "--sheet": quality.sheet,
      "--read-sheet": quality.read_sheet,
    },
  ):
    given = [flag for flag, value in asked.items() if value]
    if len(given) > 1:
      raise InputError(f"{given[0]} and {given[1]} exclude each other.")


def _refuse_chat_options(options: Options) -> None:
  """Raises InputError if an option is of a chat model."""
  for group in (options.chat, options.money, options.quality):
    for field in dataclasses.fields(group):
      is_chats = field.name != "dry_run" and (
        group is not options.quality or field.name == "judge"
      )
      if is_chats and getattr(group, field.name) != field.default:
        raise InputError(
          f"--{field.name.replace('_', '-')} is of a chat model, and the "
          "teacher is offline: add --teacher openai."
        )


def _check_files(options: Options) -> None:
  """Raises InputError for a FILE that is wrong, before a store is made."""
  from instructrec_jax import locks
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import jsonl
  from instructrec_jax.teacher.annotations import open_store

  if path := options.chat.jsonl_in:
    jsonl.check_answers(path)
  if path := options.chat.jsonl_out:
    folder = DatasetFolder.open(options.dataset)
    # Held and opened, so that what a killed run left of them goes.
    with locks.writing_in(folder.path), open_store(folder, to_read=True):
      jsonl.check_output(path, force=options.force)


def _transport(options: Options) -> Callable[..., Any]:
  """Returns what sends requests: live, in batches, or through files."""
  import openai

  from instructrec_jax.data.folder import BATCHES_FILE
  from instructrec_jax.teacher import batch, jsonl, online

  chat, url = options.chat, options.chat.base_url
  if path := chat.jsonl_out:
    return lambda requests, store: jsonl.FileTally(
      written=jsonl.write_requests(
        requests, path, store=store, force=options.force
      )
    )
  if chat.jsonl_in:
    send = functools.partial(jsonl.read_answers, chat.jsonl_in)
  elif chat.batch:
    key = online.find_key(url)
    with online.proxies_told():
      client = openai.OpenAI(api_key=key, base_url=url)
    send = functools.partial(
      batch.run_batches,
      reserve=options.money.budget(share=chat.price_share).reserve,
      client=client,
      state_path=options.dataset / BATCHES_FILE,
    )
  else:
    send = functools.partial(
      online.answer_all,
      budget=options.money.budget(),
      client=online.make_client(url),
      pace=options.money.pace(),
      limits=online.Limits(workers=chat.workers),
      seed=options.seed,
    )
  return lambda requests, store: send(requests, store=store)


def _estimate(options: Options) -> tuple[Any, str]:
  """Returns what the open requests would cost."""
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher.annotate import counted, open_requests
  from instructrec_jax.teacher.annotations import open_store
  from instructrec_jax.teacher.budget import estimate
  from instructrec_jax.teacher.jsonl import unanswered

  if options.quality.judge:
    requests = _judge_requests(options, _samples(options))
    with open_store(DatasetFolder.open(options.dataset)) as store:
      requests = list(unanswered(requests, store))
  else:
    requests = open_requests(options.dataset, **_asked(options))
  prices = options.money.paid_prices(share=options.chat.price_share)
  found = estimate(requests, prices)
  if options.quality.judge:
    return dataclasses.asdict(found), found.sentence
  counts, table = counted(
    options.dataset, training_targets=options.training_targets
  )
  return dataclasses.asdict(found) | counts, f"{table}\n{found.sentence}"


def _asked(options: Options) -> dict[str, Any]:
  """Returns what is asked of users and targets, and of which model."""
  return {
    "model": options.chat.model,
    "parameters": options.chat.parameters,
    "training_targets": options.training_targets,
  }


def _judge(options: Options) -> tuple[Any, str]:
  """Lets the model answer Table 3's questions about a sample."""
  from instructrec_jax import locks
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review
  from instructrec_jax.teacher.annotations import open_store
  from instructrec_jax.teacher.jsonl import unanswered

  samples = _samples(options)
  requests = _judge_requests(options, samples)
  folder = DatasetFolder.open(options.dataset)
  with locks.writing_in(folder.path), open_store(folder) as store:
    _transport(options)(unanswered(requests, store), store)
    texts = store.texts(request.key for request in requests)
    answers = {
      place: texts[request.key]
      for place, request in enumerate(requests)
      if request.key in texts
    }
    if options.quality.gate:
      store.add_subjects(review.rejected(samples, requests, answers))
  rows = review.judged(samples, answers)
  return rows, review.format_table(rows)


def _show(options: Options) -> tuple[Any, str]:
  """Prints a sample of what is there."""
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review
  from instructrec_jax.teacher.annotations import title_words

  samples = _samples(options)
  words = title_words(DatasetFolder.open(options.dataset))
  found = [dataclasses.asdict(sample) for sample in samples]
  return found, review.format_samples(samples, words)


def _samples(options: Options) -> list[Any]:
  from instructrec_jax.data.folder import DatasetFolder
  from instructrec_jax.teacher import review

  folder = DatasetFolder.open(options.dataset)
  count = options.quality.samples
  return review.draw_samples(folder, count=count, seed=options.seed)


def _judge_requests(options: Options, samples: list[Any]) -> list[Any]:
  from instructrec_jax.teacher import review

  chat = options.chat
  return [
    review.judge_request(
      each, model=chat.model or "", parameters=chat.parameters
    )
    for each in samples
  ]


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
