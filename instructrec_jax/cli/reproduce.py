"""Runs the paper's experiments on a dataset folder and reports on them.

Tables 2, 3 and 5 to 11 and Figure 3, as far as the data allows; what it lacks
is named. A folder that is not annotated or built yet is, with the offline
teacher (for a chat model, run `annotate` before). A run that was stopped or
killed goes on where it was; a step whose inputs are the same is not repeated.
"""

import dataclasses
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.cli.chat_ranker import Caps, ChatRanker
from instructrec_jax.errors import InputError
from instructrec_jax.gin_files import find_gin_file

EXAMPLE = (
  "instructrec reproduce --dataset data/instruments --out results/instruments"
)


def _recipe(path: Path) -> str:
  return "" if find_gin_file(str(path)) else "no such file"


def _check_steps(recipe: Path, options: "Options") -> None:
  """Raises InputError if a step would refuse the recipe after hours."""
  from instructrec_jax.cli import train

  for name in ("steps", "ladder_steps"):
    steps = getattr(options, name)
    try:
      train.check_recipe(recipe, dataset=options.dataset, steps=steps)
    except InputError as error:
      given = f"--{name.replace('_', '-')} {steps}: " if steps else ""
      raise InputError(f"{given}{error}") from None


@dataclass(frozen=True, kw_only=True)
class Options:
  dataset: opt.Dataset
  out: opt.Out
  unseen: opt.Dataset | None = None
  """a dataset folder of another domain, for Table 11; caps on a chat model are
  then halved, and each folder has its half"""
  recipe: Annotated[Path | None, opt.Arg(metavar="GIN", check=_recipe)] = None
  """the model and how it is trained (default: gin/experiment/shop_mini.gin, or
  mini.gin of a folder whose vocabulary has no whole titles)"""
  steps: opt.Count | None = None
  """of the model's training (default: the recipe's)"""
  ladder_steps: opt.Count = 200
  """of each of Figure 3's models"""
  limit: opt.CountOrZero = 300
  """requests of each scenario, drawn at random; 0 for all, but for 200 of the
  whole catalogue"""
  built_templates: bool = False
  """word each scenario as it was built, not as is best on validation, which
  ranks with every template"""
  rankers: opt.Rankers = ()
  """rankers, comma-separated (default: all that are available)"""
  vocab: opt.InputFile | None = None
  """SentencePiece model to build with, such as Flan-T5's; a folder that is
  built must have it (default: the folder's own, or one that is trained)"""
  zero_shot: opt.Model | None = None
  """a model folder, not tuned, for a row of its own"""
  seed: opt.Seed = 0
  force: opt.Force = False
  """begin anew in --out"""
  json: opt.Json = False
  chat: ChatRanker


def _caps(options: Options) -> ChatRanker:
  """Returns what may be spent on each of one or two dataset folders."""
  chat = options.chat
  if options.unseen is None:
    return chat
  share: dict[str, Any] = {}
  if chat.max_usd is not None:
    share["max_usd"] = chat.max_usd / 2
  if chat.max_requests is not None:
    share["max_requests"] = chat.max_requests // 2
  return dataclasses.replace(chat, **share)


def run(options: Options) -> tuple[Any, str]:
  """Runs the steps; returns the manifest."""
  from instructrec_jax.reproduction.reproduce import reproduce
  from instructrec_jax.reproduction.settings import Settings, default_recipe

  recipe = options.recipe or default_recipe(options.dataset, options.vocab)
  recipe = find_gin_file(str(recipe)) or recipe
  _check_steps(recipe, options)
  # The step that asks would refuse these after hours of training.
  if options.chat.for_evaluate(options.seed):
    from instructrec_jax.teacher import online

    online.find_key(options.chat.chat_base_url)
  # SIGTERM stops the running step too, as Ctrl-C does.
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  caps = tuple(field.name for field in dataclasses.fields(Caps))
  asked = opt.words(options.chat, *caps)
  apart = ("recipe", "limit", "vocab", "chat", "force", "json")
  apart += ("built_templates",)
  manifest = reproduce(
    Settings(
      **opt.arguments(options, *apart),
      recipe=recipe,
      limit=options.limit or None,
      select_templates=not options.built_templates,
      chat=asked if options.chat.chat_model else (),
      chat_caps=opt.words(
        _caps(options), "chat_model", "chat_base_url", "chat_limit"
      ),
      vocabulary=options.vocab,
    ),
    force=options.force,
    command=shlex.join(["instructrec", *sys.argv[1:]]),
  )
  lines = [
    f"{table} lacks {reason}"
    for table, reasons in manifest["lacking"].items()
    for reason in reasons
  ]
  files = "report.html, report.md, tables.csv, manifest.json"
  return manifest, "\n".join([*lines, f"written: {options.out}/{files}"])
