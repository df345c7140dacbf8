"""Writes answers to instructions with a trained model.

A request is an instruction, a row of Parquet or a line of JSON, as for `score`;
it needs no candidates. Greedy, unless --beams or --temperature is given.
Written are texts, the best first, and their log-likelihoods. With --catalogue
every answer is a title of it. A killed run goes on where it was.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.cli.score import model_or_t5x, refuse_vocabulary

EXAMPLE = (
  "instructrec generate --requests requests.jsonl --model runs/games --out "
  "answers.jsonl --beams 4"
)
_Number = Annotated[float, opt.Arg(least=-10, most=10)]


@dataclass(frozen=True, kw_only=True)
class Options:
  requests: opt.Requests
  """.parquet or .jsonl file of instructions"""
  model: Annotated[opt.Folder, opt.Arg(check=model_or_t5x)]
  """model folder of `train` or `export`, or a checkpoint of T5X"""
  out: opt.Scores
  """.parquet or .jsonl file to write"""
  catalogue: Annotated[
    opt.Folder | None,
    opt.Arg(
      check=opt.existing(
        "catalogue", "manifest.json", "items.jsonl", made_by="`prepare`"
      )
    ),
  ] = None
  """dataset folder or export, whose titles are the only answers"""
  max_tokens: Annotated[int, opt.Arg(least=1, most=1024)] = 128
  """of an answer, its end included"""
  beams: Annotated[int, opt.Arg(least=1, most=64)] = 1
  """of a beam search; 1 takes the likeliest token each time"""
  length_penalty: _Number = 1.0
  """of beams: the exponent of a length; more favours long answers"""
  rules: Literal["hugging_face", "t5x"] = "hugging_face"
  """of a beam search: how lengths count, and when it ends"""
  temperature: Annotated[float, opt.Arg(least=0, most=100)] = 0.0
  """draw tokens, by logits divided by this; 0 draws none"""
  top_k: opt.CountOrZero = 0
  """likeliest tokens to draw from; 0 for all"""
  top_p: Annotated[float, opt.Arg(least=1e-6, most=1)] = 1.0
  """probability that the tokens to draw from have together"""
  answers: Annotated[int, opt.Arg(least=1, most=64)] = 1
  """to each request: the best beams, or so many draws"""
  seed: opt.Seed = 0
  step: opt.Step | None = None
  limit: opt.Count | None = None
  """only the first so many requests"""
  batch: opt.Count = 16
  """requests at a time on a device"""
  vocabulary: opt.InputFile | None = None
  """SentencePiece model of a T5X checkpoint (default: of the dataset folder
  that the requests are in)"""
  force: opt.Force = False
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if the model needs no vocabulary."""
    refuse_vocabulary(self.model, self.vocabulary)


def run(options: Options) -> tuple[Any, str]:
  """Answers a file; returns how many requests it has."""
  import dataclasses

  from instructrec_jax.generation.generator import Decoding
  from instructrec_jax.generation.stream import generate_file
  from instructrec_jax.serving.model_export import catalogue_titles

  names = [field.name for field in dataclasses.fields(Decoding)]
  decoding = Decoding(**{name: getattr(options, name) for name in names})
  step = options.step
  if step not in (None, "best"):
    step = int(step)
  count = generate_file(
    **opt.arguments(options, *names, "step", "json", "catalogue"),
    step=step,
    decoding=decoding,
    titles=catalogue_titles(options.catalogue) if options.catalogue else (),
  )
  answered = {"requests": count, "out": str(options.out)}
  return answered, f"{options.out}: answers to {count:,} requests"
