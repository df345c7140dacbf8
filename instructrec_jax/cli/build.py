"""Writes a dataset folder's instructions and ranking requests.

One form of one template is drawn for each target and family <P,I,T>; searches
by categories alone have an item for a target, each once. Instructions become a
TFDS dataset that SeqIO and T5X read; requests of every evaluation scenario
become Parquet. What needs a preference or an intention is written for those
users and targets that have one: run `annotate` before.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

EXAMPLE = "instructrec build --dataset data/games --vocab spiece.model"


@dataclass(frozen=True, kw_only=True)
class Options:
  dataset: opt.Dataset
  vocab: Annotated[opt.InputFile | None, opt.Arg(either="vocabulary")] = None
  """SentencePiece model, such as Flan-T5's"""
  train_vocab: Annotated[
    opt.Count | None,
    opt.Arg(metavar="SIZE", either="vocabulary", least=4, most=1_000_000),
  ] = None
  """train a vocabulary of SIZE pieces on these instructions instead"""
  pieces: Literal["words", "titles", "whole-titles"] = "words"
  """of --train-vocab: titles lets a piece be several words, up to a whole title
  that many buy; whole-titles adds a piece for each title that is bought"""
  fold_case: bool = False
  """of --train-vocab: read capital letters as small ones"""
  sequences: bool = False
  """write instructrec_sequences_v1 too: each purchase after the titles before
  it"""
  templates: opt.Templates = ("package",)
  families: opt.Names = ()
  """such as p1_i0_t3,p1_i1_t3, comma-separated (default: all)"""
  cold_items: Literal["paper", "strict", "none"] = "paper"
  """strict keeps the items that product search is tested on out of every
  training text; none trains searches for them, too, for a model that is used
  rather than tested"""
  matcher: Literal["tfidf", "bm25", "two_tower"] = "tfidf"
  """ranker whose best items are the hard negatives; two_tower, the paper's, is
  trained first"""
  text_encoder: opt.TextEncoder | None = None
  """that two_tower reads titles with (default: word vectors of its own)"""
  rows_per_target: Annotated[opt.Count, opt.Arg(most=1000)] = 1
  """instructions of each target and family"""
  paraphrases: bool = False
  """train on a crowd's wordings, too, and write the requests of evaluation once
  more in wordings that are held out"""
  unlisted: Annotated[float, opt.Arg(metavar="RATE", least=0, most=1)] = 0.0
  """share of training's lists of candidates that lack the item bought, so that
  a small model does not copy from them (docs/results.md)"""
  input_length: opt.InputLength = 512
  target_length: opt.TargetLength = 64
  workers: Annotated[opt.Count | None, opt.Arg(most=1000)] = None
  """processes that make the instructions (default: one for each core); what is
  written is the same with any number"""
  beam_runner: Annotated[str | None, opt.Arg(flag="--beam_runner")] = None
  """a runner of Apache Beam to make the instructions with, such as DirectRunner
  or DataflowRunner; what is written is the same (docs/scale.md)"""
  beam_options: Annotated[
    opt.Names, opt.Arg(flag="--beam_options", metavar="NAME=VALUE,...")
  ] = ()
  """of that runner, such as
  direct_num_workers=2,direct_running_mode=multi_processing"""
  seed: opt.Seed = 0
  force: opt.Force = False
  """build it again"""
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if an option is of another one that is not there."""
    if self.beam_options and not self.beam_runner:
      raise InputError("--beam_options are of a runner: add --beam_runner.")
    if self.beam_runner and self.workers:
      raise InputError(
        "--workers are this machine's own: a runner's are in --beam_options."
      )
    if not self.train_vocab:
      for name in ("pieces", "fold_case"):
        if getattr(self, name) != getattr(Options, name):
          raise InputError(
            f"--{name.replace('_', '-')} is of a vocabulary that is trained: "
            "add --train-vocab, or leave it out."
          )


def run(options: Options) -> tuple[Any, str]:
  """Builds; returns the manifest."""
  from instructrec_jax import workers
  from instructrec_jax.instructions.build import Options as BuildOptions
  from instructrec_jax.text.vocabulary import Vocabulary

  apart = ("dataset", "vocab", "train_vocab", "fold_case", "workers")
  apart += ("beam_runner", "beam_options", "force", "json")
  asked = BuildOptions(**opt.arguments(options, *apart))
  # What is wrong is refused before TensorFlow is imported.
  asked.check()
  if options.vocab:
    Vocabulary.load(options.vocab)

  from instructrec_jax.seqio_bridge import build

  engine = _engine(options) if options.beam_runner else None
  manifest = build.build(
    options.dataset,
    vocabulary=options.vocab,
    train_vocabulary_size=options.train_vocab,
    fold_case=options.fold_case,
    options=asked,
    workers=options.workers or workers.cores(),
    engine=engine,
    force=options.force,
  )
  return manifest, summary(manifest)


def _engine(options: Options) -> Any:
  """Returns the engine on Beam; raises InputError if Beam is not here."""
  try:
    from instructrec_jax.seqio_bridge import beam
  except ImportError as error:
    if (error.name or "").split(".")[0] != "apache_beam":
      raise
    raise InputError(
      "--beam_runner needs the package apache-beam: pip install "
      "'instructrec-jax[beam]'."
    ) from None
  assert options.beam_runner
  return beam.engine(beam.Runner(options.beam_runner, options.beam_options))


def summary(manifest: dict[str, Any]) -> str:
  """Returns rows of each family and split, requests, and what was cut."""
  planned = manifest["families"]
  splits = tuple(planned)
  width = max(len(name) for name in planned["train"]) + 2
  lines = ["".ljust(width) + "".join(f"{split:>12}" for split in splits)]
  for name in planned["train"]:
    counts = "".join(f"{planned[split][name]:>12,}" for split in splits)
    lines.append(name.ljust(width) + counts)
  for name, found in manifest["requests"].items():
    if isinstance(found, str):
      lines.append(f"requests/{name} {found}")
    else:
      lines.append(
        f"requests/{name}.parquet  {found['rows']:,} of {found['template']}"
      )
  cuts = manifest["cuts"]
  lines.append(
    f"{cuts['rows_with_dropped_items']:,} of {cuts['rows']:,} instructions "
    f"lost their oldest history ({cuts['items_dropped']:,} items); "
    f"{cuts['rows_over_budget']:,} are longer than the encoder takes"
  )
  lines.append(
    f"{cuts['answers_with_dropped_items']:,} of {cuts['answers']:,} answers "
    f"lost their oldest history ({cuts['answer_items_dropped']:,} items), "
    f"{cuts['answers_with_dropped_words']:,} their last words; "
    f"{cuts['answers_over_budget']:,} were left out, as a title alone is "
    "longer than an answer may be"
  )
  return "\n".join(lines)
