"""A batch of packed rows as the model takes it: as rows, or as a flat batch.

On a CPU, where a step takes as long as it has arithmetic to do, linear layers
run on real tokens alone and attention on one example at a time. The number of
tokens differs from batch to batch, shapes must not: a flat batch has the
capacity of the fullest one.

Key to shapes. R: rows, T: length of a row, N: tokens, E: examples.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Integer

from instructrec_jax.kernels.cpu import Spans
from instructrec_jax.seq2seq.layouts import Examples, Layout, padded_rows

_MULTIPLE = 32
# Block sizes of `Spans`, in eighths; packed examples are of all lengths.
_SELF_BLOCKS = ((1, 2, 3, 4, 6, 8), (1, 2, 3, 4, 6, 8))
_CROSS_BLOCKS = ((4, 8), (2, 4, 8))

# Tokens that a flat batch has space for, of the encoder and of the decoder.
Capacity = tuple[int, int]


@struct.dataclass
class Inputs:
  """What the model and the loss take.

  Attributes:
    encoder_tokens: the instructions.
    decoder_tokens: the answers, shifted right.
    cross_layout: of the answers and the instructions they attend to.
    targets: the answers.
    weights: of their losses; NaN if the capacity did not hold all tokens, so
      that nobody trains on a part of a batch unawares.
  """

  encoder_tokens: Int[Array, "rows tokens"]
  decoder_tokens: Int[Array, "rows targets"]
  encoder_layout: Layout
  decoder_layout: Layout
  cross_layout: Layout
  targets: Int[Array, "rows targets"]
  weights: Float[Array, "rows targets"]


def padded_inputs(batch: dict[str, jax.Array]) -> Inputs:
  """Returns packed rows as they are; `batch` has T5X's features."""
  encoder_tokens = batch["encoder_input_tokens"]
  targets = batch["decoder_target_tokens"]
  of_encoder, of_decoder = (
    batch[f"{side}_segment_ids"] for side in ("encoder", "decoder")
  )
  return Inputs(
    encoder_tokens=encoder_tokens,
    decoder_tokens=batch["decoder_input_tokens"],
    encoder_layout=padded_rows(
      encoder_tokens, encoder_tokens, of_encoder, of_encoder
    ),
    decoder_layout=padded_rows(
      targets, targets, of_decoder, of_decoder, is_causal=True
    ),
    cross_layout=padded_rows(targets, encoder_tokens, of_decoder, of_encoder),
    targets=targets,
    weights=batch["decoder_loss_weights"],
  )


def flat_inputs(batch: dict[str, jax.Array], capacity: Capacity) -> Inputs:
  """Returns the real tokens of packed rows, end to end.

  `batch` has T5X's features, each [rows, length], segments numbered upwards.
  """
  real = {
    "encoder": batch["encoder_input_tokens"] > 0,
    "decoder": batch["decoder_target_tokens"] > 0,
  }
  lengths = tuple(of_side.shape[1] for of_side in real.values())
  row_count = len(real["encoder"])
  # Examples of different rows get different numbers.
  stride = max(lengths) + 1
  places, rows, examples = {}, {}, {}
  for (side, of_side), size in zip(real.items(), capacity, strict=True):
    (place_N,) = jnp.nonzero(of_side.ravel(), size=size, fill_value=-1)
    rows[side] = place_N // of_side.shape[1]
    segment_N = batch[f"{side}_segment_ids"].ravel()[place_N]
    example_N = rows[side] * stride + segment_N
    places[side] = place_N
    examples[side] = jnp.where(place_N < 0, row_count * stride, example_N)

  def take(name):
    place_N = places[name.split("_")[0]]
    return jnp.where(place_N < 0, 0, batch[name].ravel()[place_N])[None]

  of_decoder = examples["decoder"]
  is_first = of_decoder != jnp.roll(of_decoder, 1)
  is_first = is_first.at[0].set(True) & (places["decoder"] >= 0)
  (first_E,) = jnp.nonzero(is_first, size=min(capacity), fill_value=-1)
  # No token has this number.
  example_E = jnp.where(first_E < 0, -1, of_decoder[first_E])
  spans = {}
  for side, of_side in examples.items():
    starts, ends = (
      jnp.searchsorted(of_side, example_E, side=end)
      for end in ("left", "right")
    )
    spans[side] = (starts, ends - starts)
  longest = dict(zip(real, map(min, lengths, capacity), strict=True))

  def layout(queries, keys, *, is_causal=False):
    is_cross = keys != queries
    return Examples(
      Spans.sort(
        spans[queries],
        spans[keys] if is_cross else None,
        longest=(longest[queries], longest[keys]),
        eighths=_CROSS_BLOCKS if is_cross else _SELF_BLOCKS,
      ),
      is_causal=is_causal,
      query_rows=rows[queries],
      key_places=places[keys],
      row_count=row_count,
      row_length=real[keys].shape[1],
    )

  fits = jnp.stack(
    [
      of_side.sum() <= size
      for of_side, size in zip(real.values(), capacity, strict=True)
    ]
  ).all()
  return Inputs(
    encoder_tokens=take("encoder_input_tokens"),
    decoder_tokens=take("decoder_input_tokens"),
    encoder_layout=layout("encoder", "encoder"),
    decoder_layout=layout("decoder", "decoder", is_causal=True),
    cross_layout=layout("decoder", "encoder"),
    targets=take("decoder_target_tokens"),
    weights=jnp.where(fits, take("decoder_loss_weights"), jnp.nan),
  )


def capacity_of_steps(
  counts_of_steps: Iterable[Integer[np.ndarray, "rows 2"]], microbatches: int
) -> Capacity:
  """Returns the tokens of the fullest microbatch of any step.

  Counts are of each row's real tokens, of the encoder and the decoder.
  """
  most = np.ones(2, int)
  for counts in counts_of_steps:
    ordered = counts[np.asarray(balance(counts[:, 0], microbatches))]
    most = np.maximum(most, ordered.reshape(-1, microbatches, 2).sum(0).max(0))
  # Whole vectors, and no prime number for the loss to cut into slices.
  encoder, decoder = (-(-most // _MULTIPLE) * _MULTIPLE).tolist()
  return encoder, decoder


def balance(
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
