"""Writes a folder that takes a trained model elsewhere.

OUT has the weights (safetensors), vocabulary, templates and, of --dataset, the
titles. `Recommender.load`, `serve`, `ask`, `score` and `evaluate` take it as
--model; it opens with what requirements/serve.txt lists, without TensorFlow.
With --int8 the weights take .28 of float32's bytes; it is refused where that
moves HR@1 of validation requests; the card and export.json say what it does.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from instructrec_jax.cli import options as opt
from instructrec_jax.errors import InputError

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
  int8: bool = False
  """have the weights in int8, if HR@1 keeps"""
  requests: opt.Requests | None = None
  """validation requests with targets, for --int8; 5,000 of them decide
  (default: the dataset's sequential_validation.parquet)"""
  epsilon: Annotated[float, opt.Arg(least=0, most=1)] = 0.002
  """by how much --int8 may move HR@1 of them, up or down"""
  force: opt.Force = False
  json: opt.Json = False

  def __post_init__(self):
    """Raises InputError if an option is of --int8, which is not there."""
    if self.epsilon != Options.epsilon and not self.int8:
      raise InputError("--epsilon is what --int8 may do: add it.")


def run(options: Options) -> tuple[Any, str]:
  """Exports; returns the manifest."""
  from instructrec_jax.serving.model_export import export

  manifest = export(**opt.arguments(options, "json"))
  said = (
    f"{options.out}: {manifest['name']} of step {manifest['step']:,}, "
    f"{manifest['items']:,} titles"
  )
  if found := manifest.get("int8"):
    said += (
      f"; int8 weights: HR@1 {found['hr@1_before']:.4f} before, "
      f"{found['hr@1']:.4f} after, {found['equal_top_1']:.1%} of "
      f"{found['requests']:,} validation requests keep their best candidate"
    )
  return {"out": str(options.out), **manifest}, said
