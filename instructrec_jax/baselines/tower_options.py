"""The sizes of a two-tower ranker, and how it is trained."""

import dataclasses

from instructrec_jax.baselines.trainer import FitOptions


@dataclasses.dataclass(frozen=True)
class TowerOptions:
  """What a tower ranker is made of, and how it is trained.

  Attributes:
    width: of the vectors that are compared.
    dropout: share of zeros in hidden layers, in training.
    history: how many of a user's last items are read.
    batch: searches a step.
    negatives: items a step that searches are told from, drawn uniformly; all
      of them if there are no more.
    searches_per_epoch: at most.
    text_encoder: a sentence-transformers model, a folder or a name, whose
      vectors stand for texts; None learns vectors of words.
    training: how long and how fast.
  """

  width: int = 64
  dropout: float = 0.5
  history: int = 20
  batch: int = 256
  negatives: int = 1024
  searches_per_epoch: int = 100_000
  text_encoder: str | None = None
  training: FitOptions = FitOptions(max_epochs=60, patience=4)
