"""The sizes of a sequence ranker, and how it is trained."""

import dataclasses

from instructrec_jax.baselines.sequence_encoder import EncoderConfig
from instructrec_jax.baselines.sequence_trainer import TrainerOptions


@dataclasses.dataclass(frozen=True)
class SequenceOptions:
  """What a sequence ranker is made of, and how it is trained.

  Attributes:
    width: of the item vectors.
    layers: of the encoder.
    heads: of its attention.
    dropout: share of zeros after every step, in training.
    max_length: how many of a user's last items are read.
    training: how to train.
  """

  width: int = 64
  layers: int = 2
  heads: int = 2
  dropout: float = 0.5
  max_length: int = 50
  training: TrainerOptions = TrainerOptions()

  def encoder(self, *, tokens: int, length: int, causal: bool) -> EncoderConfig:
    """Returns the encoder's sizes."""
    return EncoderConfig(
      tokens=tokens,
      max_length=length,
      causal=causal,
      width=self.width,
      layers=self.layers,
      heads=self.heads,
      dropout=self.dropout,
    )
