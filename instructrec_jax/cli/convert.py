"""Converts a checkpoint between ours, T5X and Hugging Face.

SOURCE is a MODEL_DIR or an export of ours, a T5X checkpoint_STEP (legacy or
orbax) or the folder above it, or a Hugging Face folder with safetensors; the
format is detected. Only parameters are converted, no optimizer. One array is in
memory at a time. Adapters, of a run with LORA_RANK or a folder of PEFT, are
merged into their model.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from instructrec_jax.cli import options as opt

EXAMPLE = (
  "instructrec convert flan_t5_xl/checkpoint_1138000 models/flan-t5-xl --to "
  "ours --vocabulary sentencepiece.model --size xl"
)


@dataclass(frozen=True, kw_only=True)
class Options:
  source: Annotated[opt.InputFolder, opt.Arg(is_positional=True)]
  """checkpoint to read"""
  dest: Annotated[opt.OutputFolder, opt.Arg(is_positional=True)]
  """folder to write"""
  to: Literal["ours", "hf", "t5x", "peft"]
  """ours: an export for score, ask, evaluate and INITIAL_CHECKPOINT; hf:
  config.json and safetensors; t5x: DEST/checkpoint_STEP; peft: the adapters of
  a run with LORA_RANK"""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """of the arrays on disk"""
  activations: Literal["float32", "bfloat16"] | None = None
  """what our model computes in (default: the source's, else float32)"""
  vocabulary: opt.InputFile | None = None
  """SentencePiece model; needed for ours where SOURCE has none"""
  size: opt.Size | None = None
  """of gin/model (small, xl, ...): refuse a source of another size"""
  step: opt.Step | None = None
  base: opt.InputFolder | None = None
  """the model that a folder of PEFT adapts"""
  force: opt.Force = False
  """replace DEST"""
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Converts; returns what was written."""
  from instructrec_jax.checkpoints.conversion import convert
  from instructrec_jax.cli.gin_config import named_size

  apart = ("source", "dest", "activations", "size", "json")
  weights = convert(
    options.source,
    options.dest,
    **opt.arguments(options, *apart),
    activation_dtype=options.activations,
    size=None if options.size is None else named_size(options.size),
  )
  config = weights.config
  parameters = sum(math.prod(leaf.shape) for leaf in weights.leaves.values())
  written = {
    "out": str(options.dest),
    "format": options.to,
    "dtype": options.dtype,
    "step": weights.step,
    "parameters": parameters,
  }
  return written, (
    f"{options.dest}: {parameters:,} parameters in {options.dtype}, step "
    f"{weights.step} (embedding {config.vocab_size} x {config.emb_dim}, "
    f"{config.num_encoder_layers} + {config.num_decoder_layers} layers, "
    f"{config.num_heads} heads, mlp {config.mlp_dim})"
  )
