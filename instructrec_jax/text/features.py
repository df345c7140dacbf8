"""Token ids -> model features: the one home of EOS, shift and padding.

The features carry T5X's names. A packed row holds several examples end to
end; segment ids (1, 2, ... in a row, 0 for padding) keep them apart.

Key to shapes. B: rows, T: encoder length, U: decoder length.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer

from instructrec_jax.text.vocabulary import EOS_ID, PAD_ID

FEATURES = (
  "encoder_input_tokens",
  "encoder_segment_ids",
  "encoder_positions",
  "decoder_input_tokens",
  "decoder_target_tokens",
  "decoder_loss_weights",
  "decoder_segment_ids",
  "decoder_positions",
)


def with_eos(ids: list[int], *, limit: int) -> list[int]:
  """Appends an end of sequence, truncating ids to `limit` with it."""
  return ids[: limit - 1] + [EOS_ID]


def pad(
  sequences: Sequence[Sequence[int]], length: int
) -> Int[np.ndarray, "batch length"]:
  """Returns sequences as rows of an int32 array, padded on the right."""
  padded = np.full((len(sequences), length), PAD_ID, np.int32)
  for row, ids in zip(padded, sequences, strict=True):
    row[: len(ids)] = ids
  return padded


def shift_right(
  targets_BxU: Int[np.ndarray, "batch length"],
  segments_BxU: Int[np.ndarray, "batch length"],
) -> Int[np.ndarray, "batch length"]:
  """Returns decoder inputs: each segment shifted right behind a 0."""
  shifted = np.zeros_like(targets_BxU)
  shifted[:, 1:] = np.where(
    segments_BxU[:, 1:] == segments_BxU[:, :-1], targets_BxU[:, :-1], PAD_ID
  )
  return shifted


def positions(
  segments_BxT: Int[np.ndarray, "batch length"],
) -> Int[np.ndarray, "batch length"]:
  """Returns each token's index in its segment, 0 for padding."""
  index_T = np.arange(segments_BxT.shape[1], dtype=np.int32)
  starts = np.ones_like(segments_BxT, bool)
  starts[:, 1:] = segments_BxT[:, 1:] != segments_BxT[:, :-1]
  first_BxT = np.maximum.accumulate(np.where(starts, index_T, 0), axis=1)
  return np.where(segments_BxT > 0, index_T - first_BxT, 0).astype(np.int32)


def expand_packed(
  encoder_tokens: Integer[np.ndarray, "batch encoder"],
  encoder_segments: Integer[np.ndarray, "batch encoder"],
  decoder_targets: Integer[np.ndarray, "batch decoder"],
  decoder_segments: Integer[np.ndarray, "batch decoder"],
) -> dict[str, np.ndarray]:
  """Returns all of T5X's features of packed rows, from four of them.

  Equal to what SeqIO's `EncDecFeatureConverter(pack=True)` makes of the same
  packing; loss weights are float32, the rest int32.
  """
  encoder_tokens = np.asarray(encoder_tokens, np.int32)
  encoder_segments = np.asarray(encoder_segments, np.int32)
  decoder_targets = np.asarray(decoder_targets, np.int32)
  decoder_segments = np.asarray(decoder_segments, np.int32)
  return {
    "encoder_input_tokens": encoder_tokens,
    "encoder_segment_ids": encoder_segments,
    "encoder_positions": positions(encoder_segments),
    "decoder_input_tokens": shift_right(decoder_targets, decoder_segments),
    "decoder_target_tokens": decoder_targets,
    "decoder_loss_weights": (decoder_targets > 0).astype(np.float32),
    "decoder_segment_ids": decoder_segments,
    "decoder_positions": positions(decoder_segments),
  }
