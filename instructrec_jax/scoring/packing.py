"""Requests -> batches of few shapes.

A batch row is one instruction and all its candidates, end to end, each a
segment of its own. Compiling takes seconds a shape, so a stream of requests
uses at most `MAX_SHAPES` of them: up to six that fit its first chunk closely,
and two roomy ones for what comes later and is longer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.text import features
from instructrec_jax.text.vocabulary import Vocabulary

MAX_SHAPES = 8
# One more shape pays for itself once there are this many requests for it.
_REQUESTS_PER_SHAPE = 2000
_ROOMY = ((1024, 2048), (8192, 8192))


@dataclasses.dataclass(frozen=True, slots=True)
class TokenizedRequest:
  """A request's ids, each sequence with its end.

  Attributes:
    index: place of the request in its chunk.
    instruction: ids of the instruction.
    candidates: ids of each candidate.
    width: tokens of all candidates together.
  """

  index: int
  instruction: list[int]
  candidates: list[list[int]]
  width: int


Shape = tuple[int, int]
"""(tokens of the longest instruction, of all its candidates)."""


def tokenize(
  requests: Sequence[RankingRequest], vocabulary: Vocabulary
) -> list[TokenizedRequest]:
  """Tokenises a chunk.

  Raises:
    InputError: a request is too long for the roomiest shape.
  """
  end = 1 << 30
  tokenized = []
  for index, request in enumerate(requests):
    ids = features.with_eos(
      vocabulary.encode_one(request.instruction), limit=end
    )
    candidates = [
      features.with_eos(vocabulary.encode_one(text), limit=end)
      for text in request.candidates
    ]
    width = sum(map(len, candidates))
    if len(ids) > _ROOMY[-1][0] or width > _ROOMY[-1][1]:
      raise InputError(
        f"request {request.request_id}: {len(ids)} tokens of instruction and "
        f"{width} of candidates; at most {_ROOMY[-1][0]} and "
        f"{_ROOMY[-1][1]} can be scored."
      )
    tokenized.append(TokenizedRequest(index, ids, candidates, width))
  return tokenized


def plan_shapes(requests: Sequence[TokenizedRequest]) -> list[Shape]:
  """Returns shapes for a stream, from its first chunk; smallest first."""
  by_length = sorted(requests, key=lambda request: len(request.instruction))
  groups = min(
    MAX_SHAPES - len(_ROOMY), 1 + len(requests) // _REQUESTS_PER_SHAPE
  )
  size = -(-len(by_length) // groups)
  planned = []
  for start in range(0, len(by_length), size):
    group = by_length[start : start + size]
    planned.append(
      (
        _round_up(max(len(request.instruction) for request in group)),
        _round_up(max(request.width for request in group)),
      )
    )
  return [*sorted(set(planned)), *_ROOMY]


def choose_shape(request: TokenizedRequest, shapes: Sequence[Shape]) -> Shape:
  """Returns the cheapest shape that the request fits."""
  return min(
    shape
    for shape in shapes
    if len(request.instruction) <= shape[0] and request.width <= shape[1]
  )


def to_batch(
  requests: Sequence[TokenizedRequest], *, rows: int, shape: Shape
) -> dict[str, np.ndarray]:
  """Lays requests out as T5X's features, padded to `rows` rows.

  Only candidates are segments; the instruction is seen by all of them.
  """
  instructions = features.pad([r.instruction for r in requests], shape[0])
  targets = features.pad([sum(r.candidates, []) for r in requests], shape[1])
  segments = features.pad(
    [
      np.repeat(
        np.arange(1, len(r.candidates) + 1), list(map(len, r.candidates))
      ).tolist()
      for r in requests
    ],
    shape[1],
  )
  batch = {
    "encoder_input_tokens": instructions,
    "decoder_input_tokens": features.shift_right(targets, segments),
    "decoder_target_tokens": targets,
    "decoder_segment_ids": segments,
  }
  missing = rows - len(requests)
  return {
    name: np.pad(array, ((0, missing), (0, 0))) for name, array in batch.items()
  }


def _round_up(length: int) -> int:
  """To a multiple of 32, or of 128 beyond 256: a tenth of padding or so."""
  multiple = 32 if length <= 256 else 128
  return -(-length // multiple) * multiple
