"""Scores the candidates of ranking requests with a trained model.

A request is an instruction and candidates, a row of Parquet or a line of JSON.
Written are log-likelihoods and ranks (1 the best, ties share their average).
A killed run goes on where it was. Normalisations, to be chosen on validation:
sum (the paper's), mean (per token), byte, pmi (less the log-likelihood under
the empty instruction), ghost_free (mean of tokens with P < 0.99).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = (
  "instructrec score --requests requests.jsonl --model runs/games --out "
  "scores.jsonl"
)


def model_or_t5x(path: Path) -> str:
  """Says why a folder is neither of our models nor a checkpoint of T5X."""
  t5x = ("checkpoint", "state", *(p.name for p in path.glob("checkpoint_*")))
  return opt.existing(
    "model folder", "model.json", *t5x, made_by="`instructrec train`"
  )(path)


def refuse_vocabulary(model: Path, vocabulary: Path | None) -> None:
  """Raises InputError for a vocabulary beside that of a model folder."""
  if vocabulary and (model / "model.json").exists():
    raise InputError(
      f"--vocabulary is of a checkpoint of T5X, and {model} has its own: leave "
      "it out."
    )


@dataclass(frozen=True, kw_only=True)
class Options:
  requests: opt.Requests
  """.parquet or .jsonl file of instruction and candidates"""
  model: Annotated[opt.Folder, opt.Arg(check=model_or_t5x)]
  """model folder of `train` or `export`, or a checkpoint of T5X"""
  out: opt.Scores
  """.parquet or .jsonl file to write"""
  step: opt.Step | None = None
  limit: opt.Count | None = None
  """only the first so many requests"""
  batch_tokens: opt.BatchTokens | None = None
  normalisation: Literal[
    "sum", "mean", "byte", "pmi", "catalogue_prior", "ghost_free"
  ] = "sum"
  """of the scores"""
  shard: Annotated[str | None, opt.Arg(metavar="K/N")] = None
  """only part K of N of the requests, for N processes that share the folder of
  --out: the last to end writes it, as one process would"""
  vocabulary: opt.InputFile | None = None
  """SentencePiece model of a T5X checkpoint (default: of the dataset folder
  that the requests are in)"""
  force: opt.Force = False
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if the model needs no vocabulary."""
    refuse_vocabulary(self.model, self.vocabulary)


def run(options: Options) -> tuple[Any, str]:
  """Scores a file; returns how many requests it has."""
  step = options.step
  if step not in (None, "best"):
    step = int(step)
  shard = _shard(options.shard) if options.shard else None
  from instructrec_jax.scoring.stream import score_file, shard_parts

  count = score_file(
    **opt.arguments(options, "step", "shard", "json"), step=step, shard=shard
  )
  scored = {"requests": count, "out": str(options.out)}
  if shard:
    words = f"{count:,} requests of shard {options.shard} are scored; "
    # What --force replaces may be there still.
    if not shard_parts(options.out, shard).exists():
      return scored, f"{words}{options.out} is written"
    scored["out"] = None
    return scored, f"{words}{options.out} is written when all shards are"
  return scored, f"{options.out}: scores of {count:,} requests"


def _shard(text: str) -> tuple[int, int]:
  """Reads K/N; raises InputError if it is none."""
  found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
  if not found:
    raise InputError(
      f"--shard is {text!r:.60}: a number and how many there are, such as 1/4, "
      "are needed."
    )
  return int(found[1]), int(found[2])
