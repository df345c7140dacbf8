"""Recommendation as instruction following (InstructRec), in JAX.

The paper's pipeline, in the order in which the chapters build on each other:

  text          sentencepiece vocabulary, token features, packed rows
  data          reviews -> 5-core -> splits -> stored candidates
  teacher       preferences and intentions, by a chat model or by rules
  instructions  templates over preference x intention x task form -> text
  seq2seq       the T5 1.1 encoder-decoder, with T5X's parameter tree
  kernels       attention, as it is fast on one backend
  checkpoints   T5X's, orbax's, Hugging Face's, exports
  training      packed rows -> loss -> Adafactor -> checkpoints
  scoring       log P(candidate title | instruction), batched; exact search
  baselines     what the model has to beat
  evaluation    HR@K and NDCG@K with intervals, on the same candidates
  reproduction  the paper's tables
  serving       a user's own words, in Python and over HTTP
  seqio_bridge  TFDS, SeqIO tasks and mixtures
  cli           the `instructrec` command

Text and arrays meet in one dict of numpy arrays whose keys are T5X's feature
names (`text.features`). Importing this package imports nothing else: what it
offers by itself is loaded when it is first asked for,

  import instructrec_jax as ir

  recommender = ir.Recommender.load("exports/quickstart")
  print(recommender.recommend("a rope please"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from instructrec_jax.errors import InputError as InputError
  from instructrec_jax.serving.recommender import Recommender as Recommender

__version__ = "0.1.0"
__all__ = ["InputError", "Recommender", "__version__"]

_HOMES = {"InputError": "errors", "Recommender": "serving.recommender"}


def __getattr__(name: str) -> Any:
  """Loads what is asked for: a recommender needs jax, which takes seconds."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
  return getattr(home, name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
