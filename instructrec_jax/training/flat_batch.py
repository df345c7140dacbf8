"""Packed rows as a flat batch: real tokens end to end, nothing for padding.

On a processor, where a step takes as long as it has arithmetic to do, linear
layers run on real tokens alone and attention on one example at a time. How
many tokens there are differs from batch to batch, shapes must not: a batch has
room for those of the fullest one.

Key to shapes. R: rows, T: length of a row, N: tokens, E: examples.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Bool, Float, Int, Integer

from instructrec_jax.seq2seq.attention import row_by_row
from instructrec_jax.seq2seq.segments import Segments, segments_of

_MULTIPLE = 32
# Of `segments_of`; packed examples are of all lengths.
_SELF = ((1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6, 8))
_CROSS = ((4, 8), (2, 4, 8))


@struct.dataclass
class FlatBatch:
  """Arguments of `Transformer.hidden_of_flat`, and what the loss needs.

  Attributes:
    encoder_tokens: the instructions.
    decoder_tokens: the answers, shifted right.
    of_encoder: the encoder's examples.
    of_decoder: the decoder's.
    of_both: the decoder's and the instructions they attend to.
    targets: the answers.
    weights: of their losses.
    fits: whether there was room for all tokens.
  """

  encoder_tokens: Int[Array, "1 tokens"]
  decoder_tokens: Int[Array, "1 targets"]
  of_encoder: Segments
  of_decoder: Segments
  of_both: Segments
  targets: Int[Array, "1 targets"]
  weights: Float[Array, "1 targets"]
  fits: Bool[Array, ""]


def is_faster(mesh: Mesh | AbstractMesh) -> bool:
  """Whether a step should be given `room`."""
  return mesh.size == 1 and row_by_row()


def room_of_steps(
  counts_of_steps: Iterable[Integer[np.ndarray, "rows 2"]], microbatches: int
) -> tuple[int, int]:
  """Returns how many tokens the fullest microbatch of any step has.

  Args:
    counts_of_steps: real tokens of each row, of the encoder and the decoder.
    microbatches: as the step's.
  """
  room = np.ones(2, int)
  for counts in counts_of_steps:
    dealt = counts[np.asarray(deal(counts[:, 0], microbatches))]
    room = np.maximum(room, dealt.reshape(-1, microbatches, 2).sum(0).max(0))
  # Whole vectors, and no prime number for the loss to cut into slices.
  encoder, decoder = (-(-room // _MULTIPLE) * _MULTIPLE).tolist()
  return encoder, decoder


def deal(
  counts_R: Integer[Array, " rows"] | Integer[np.ndarray, " rows"],
  microbatches: int,
) -> Integer[Array, " rows"] | Integer[np.ndarray, " rows"]:
  """Orders rows so that microbatches have about as many tokens each.

  Every `microbatches`-th row from the i-th on is of microbatch i.
  """
  numpy = np if isinstance(counts_R, np.ndarray) else jnp
  order = numpy.argsort(-counts_R, stable=True).reshape(-1, microbatches)
  is_odd = numpy.arange(len(order))[:, None] % 2 > 0
  return numpy.where(is_odd, order[:, ::-1], order).ravel()


def flatten(batch: dict[str, jax.Array], room: tuple[int, int]) -> FlatBatch:
  """Returns the real tokens of packed rows.

  Args:
    batch: T5X's features, each [rows, length], segments numbered upwards.
    room: tokens of the encoder and of the decoder.
  """
  real = {
    "encoder": batch["encoder_input_tokens"] > 0,
    "decoder": batch["decoder_target_tokens"] > 0,
  }
  lengths = tuple(of_side.shape[1] for of_side in real.values())
  row_count = len(real["encoder"])
  # No example has the number of one in another row.
  most = max(lengths) + 1
  places, rows, examples = {}, {}, {}
  for (side, of_side), size in zip(real.items(), room, strict=True):
    (place_N,) = jnp.nonzero(of_side.ravel(), size=size, fill_value=-1)
    rows[side] = place_N // of_side.shape[1]
    segment_N = batch[f"{side}_segment_ids"].ravel()[place_N]
    example_N = rows[side] * most + segment_N
    places[side] = place_N
    examples[side] = jnp.where(place_N < 0, row_count * most, example_N)

  def take(name):
    place_N = places[name.split("_")[0]]
    return jnp.where(place_N < 0, 0, batch[name].ravel()[place_N])[None]

  of_decoder = examples["decoder"]
  is_first = of_decoder != jnp.roll(of_decoder, 1)
  is_first = is_first.at[0].set(True) & (places["decoder"] >= 0)
  (first_E,) = jnp.nonzero(is_first, size=min(room), fill_value=-1)
  # No token has this number.
  example_E = jnp.where(first_E < 0, -1, of_decoder[first_E])
  spans = {}
  for side, of_side in examples.items():
    starts, ends = (
      jnp.searchsorted(of_side, example_E, side=end)
      for end in ("left", "right")
    )
    spans[side] = (starts, ends - starts)

  longest = dict(zip(real, map(min, lengths, room), strict=True))

  def segments(queries, keys=None):
    of_keys = queries if keys is None else keys
    return segments_of(
      spans[queries],
      None if keys is None else spans[keys],
      longest=(longest[queries], longest[of_keys]),
      eighths=_SELF if keys is None else _CROSS,
      rows=rows[queries],
      key_places=places[of_keys],
      row_count=row_count,
      key_width=real[of_keys].shape[1],
    )

  return FlatBatch(
    encoder_tokens=take("encoder_input_tokens"),
    decoder_tokens=take("decoder_input_tokens"),
    of_encoder=segments("encoder"),
    of_decoder=segments("decoder"),
    of_both=segments("decoder", "encoder"),
    targets=take("decoder_target_tokens"),
    weights=take("decoder_loss_weights"),
    fits=jnp.stack(
      [
        of_side.sum() <= size
        for of_side, size in zip(real.values(), room, strict=True)
      ]
    ).all(),
  )
