"""Writes a folder that takes a trained model elsewhere.

OUT has the weights (safetensors), vocabulary, templates and, of --dataset, the
titles. `Recommender.load`, `serve`, `ask`, `score` and `evaluate` take it as
--model; it opens with jax, flax, jaxtyping, sentencepiece, PyYAML and tqdm.
"""

from dataclasses import dataclass
from typing import Any

from instructrec_jax.cli import options as opt

EXAMPLE = "instructrec export --model runs/games --dataset data/games --out out"


@dataclass(frozen=True, kw_only=True)
class Options:
  model: opt.Model
  """model folder of `train`"""
  dataset: opt.Dataset | None = None
  """dataset folder whose items are the catalogue"""
  out: opt.Out
  templates: opt.Templates = ("package",)
  step: opt.Step | None = None
  force: opt.Force = False
  json: opt.Json = False


def run(options: Options) -> tuple[Any, str]:
  """Exports; returns the manifest."""
  from instructrec_jax.serving.model_export import export

  manifest = export(**opt.arguments(options, "json"))
  return {"out": str(options.out), **manifest}, (
    f"{options.out}: {manifest['name']} of step {manifest['step']:,}, "
    f"{manifest['items']:,} titles"
  )
