"""Requests -> batches of few shapes.

A request's candidates stand end to end, each a segment of its own, in one or
more decoder rows that all belong to its instruction. Compiling takes seconds a
shape, so a ranker has at most `MAX_SHAPES`: up to six are fitted to the
requests that come, and two roomy ones take whatever else there is.

Key to shapes. B: instructions, T: encoder length, R: decoder rows of an
instruction, U: length of such a row.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.text import features
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary

MAX_SHAPES = 8
# In tokens; beyond them, attention would take gigabytes.
LONGEST_INSTRUCTION = 2048
LONGEST_CANDIDATE = 1024
# An instruction is encoded again for every so many tokens of candidates.
_PIECE = 4096
# Where candidates need several rows: longer ones would spend their time on
# attention between candidates that do not see each other.
_ROW_LENGTH = 128
# One more shape must save about as much work as compiling it costs.
_TOKENS_PER_SHAPE = 1 << 15


@dataclasses.dataclass(frozen=True, slots=True)
class TokenizedRequest:
  """A request's ids, each sequence with its end.

  Attributes:
    index: place of the request in its chunk.
    instruction: ids of the instruction.
    candidates: ids of each distinct candidate.
    places: where in the request each of them stands.
    width: tokens of all candidates together.
  """

  index: int
  instruction: list[int]
  candidates: list[tuple[int, ...]]
  places: list[list[int]]
  width: int


class Shape(NamedTuple):
  """What one instruction and its candidates are padded to, in tokens."""

  instruction: int
  rows: int
  row_length: int

  @property
  def tokens(self) -> int:
    """Tokens computed for one request."""
    return self.instruction + self.rows * self.row_length

  def holds(self, request: TokenizedRequest) -> bool:
    """Whether a request fits."""
    if (
      len(request.instruction) > self.instruction
      or request.width > self.rows * self.row_length
      or max(map(len, request.candidates)) > self.row_length
    ):
      return False
    return (
      self.rows == 1
      or len(pack_rows(request.candidates, self.row_length)) <= self.rows
    )


# The last holds all that `tokenize` makes: any two rows that `pack_rows` fills
# hold more tokens than one row's length, so nine would hold over a piece.
_ROOMY = (
  Shape(1024, 8, 256),
  Shape(
    LONGEST_INSTRUCTION, 2 * _PIECE // LONGEST_CANDIDATE, LONGEST_CANDIDATE
  ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
  """Requests laid out in one shape.

  Attributes:
    requests: those of the first rows; the others are padding.
    rows: for each request and decoder row, the numbers of its candidates.
    features: int32 arrays under T5X's names: `encoder_input_tokens`
      [batch, encoder], the decoder's [batch, rows, length].
  """

  requests: Sequence[TokenizedRequest]
  rows: list[list[list[int]]]
  features: dict[str, np.ndarray]


def tokenize(
  requests: Sequence[RankingRequest], vocabulary: Vocabulary
) -> list[TokenizedRequest]:
  """Tokenises a chunk; repeated candidates are kept once.

  A request with more than 4096 tokens of candidates becomes several of the
  same index.

  Raises:
    InputError: an instruction or a candidate is too long, or a request has no
      candidates.
  """
  tokenized = []
  for index, request in enumerate(requests):
    instruction = [*vocabulary.encode_one(request.instruction), EOS_ID]
    places: dict[tuple[int, ...], list[int]] = {}
    for place, text in enumerate(request.candidates):
      ids = (*vocabulary.encode_one(text), EOS_ID)
      places.setdefault(ids, []).append(place)
    if not places:
      raise InputError(f"request {request.request_id}: it has no candidates.")
    longest = max(map(len, places))
    if len(instruction) > LONGEST_INSTRUCTION or longest > LONGEST_CANDIDATE:
      raise InputError(
        f"request {request.request_id}: {len(instruction)} tokens of "
        f"instruction and {longest} of its longest candidate; at most "
        f"{LONGEST_INSTRUCTION} and {LONGEST_CANDIDATE} can be scored."
      )
    for piece in _pieces(list(places)):
      tokenized.append(
        TokenizedRequest(
          index=index,
          instruction=instruction,
          candidates=piece,
          places=[places[ids] for ids in piece],
          width=sum(map(len, piece)),
        )
      )
  return tokenized


def plan_shapes(
  requests: Sequence[TokenizedRequest], *, shapes: Sequence[Shape] = ()
) -> list[Shape]:
  """Returns `shapes` and those that are worth adding for these requests.

  A call leaves a third of the free ones to later requests of another kind.
  """
  misfits = _misfits(requests, shapes) if shapes else list(requests)
  free = MAX_SHAPES - len(_ROOMY) - len(shapes)
  if not misfits or not free:
    return list(shapes)
  groups = [misfits]
  while len(groups) < free - free // 3:
    cuts = list(map(_best_cut, groups))
    best = max(range(len(cuts)), key=lambda number: cuts[number][0])
    saved, *halves = cuts[best]
    if saved <= _TOKENS_PER_SHAPE:
      break
    groups[best : best + 1] = halves
  return [*shapes, *map(_fitted_shape, groups)]


def choose_shape(request: TokenizedRequest, shapes: Sequence[Shape]) -> Shape:
  """Returns the cheapest shape, planned or roomy, that holds a request."""
  by_cost = sorted((*shapes, *_ROOMY), key=lambda shape: shape.tokens)
  return next(shape for shape in by_cost if shape.holds(request))


def pack_rows(
  candidates: Sequence[Sequence[int]], row_length: int
) -> list[list[int]]:
  """Packs candidates into rows, each into the first with room, longest first.

  Returns:
    For each row, the numbers of its candidates.
  """
  rows: list[list[int]] = []
  room: list[int] = []
  for number in sorted(
    range(len(candidates)), key=lambda number: -len(candidates[number])
  ):
    length = len(candidates[number])
    row = next((row for row, left in enumerate(room) if left >= length), None)
    if row is None:
      row = len(rows)
      rows.append([])
      room.append(row_length)
    rows[row].append(number)
    room[row] -= length
  return rows


def to_batch(
  requests: Sequence[TokenizedRequest], *, size: int, shape: Shape
) -> Batch:
  """Lays requests out, padded to `size` instructions."""
  instructions = [request.instruction for request in requests]
  instructions += [[]] * (size - len(requests))
  rows = [pack_rows(r.candidates, shape.row_length) for r in requests]
  tokens = [[] for _ in range(size * shape.rows)]
  segments = [[] for _ in tokens]
  for place, (request, of_request) in enumerate(
    zip(requests, rows, strict=True)
  ):
    for row, members in enumerate(of_request, start=place * shape.rows):
      for segment, number in enumerate(members, start=1):
        ids = request.candidates[number]
        tokens[row] += ids
        segments[row] += [segment] * len(ids)
  targets = features.pad(tokens, shape.row_length)
  segment_ids = features.pad(segments, shape.row_length)
  decoder = {
    "decoder_input_tokens": features.shift_right(targets, segment_ids),
    "decoder_target_tokens": targets,
    "decoder_segment_ids": segment_ids,
  }
  by_instruction = (size, shape.rows, shape.row_length)
  return Batch(
    requests,
    rows,
    {
      "encoder_input_tokens": features.pad(instructions, shape.instruction),
      **{name: a.reshape(by_instruction) for name, a in decoder.items()},
    },
  )


def _pieces(
  candidates: list[tuple[int, ...]],
) -> Iterator[list[tuple[int, ...]]]:
  """Splits candidates so that each piece has at most `_PIECE` tokens."""
  piece, width = [], 0
  for ids in candidates:
    if width + len(ids) > _PIECE:
      yield piece
      piece, width = [], 0
    piece.append(ids)
    width += len(ids)
  yield piece


def _misfits(
  requests: Sequence[TokenizedRequest], shapes: Sequence[Shape]
) -> list[TokenizedRequest]:
  """Returns requests that are padded by half or more, if there are enough."""
  cost = saved = 0
  misfits = []
  for request in requests:
    now = choose_shape(request, shapes).tokens
    fitted = _fitted_shape([request]).tokens
    cost += now
    if now > 1.5 * fitted:
      misfits.append(request)
      saved += now - fitted
  return misfits if saved > max(_TOKENS_PER_SHAPE, cost // 4) else []


def _best_cut(
  group: list[TokenizedRequest],
) -> tuple[int, list[TokenizedRequest], list[TokenizedRequest]]:
  """Cuts a group in two, by instruction or by width.

  Returns:
    How many tokens of padding that saves, about, and the two halves.
  """
  best = 0, group, []
  for key in (lambda r: len(r.instruction), lambda r: r.width):
    ordered = sorted(group, key=key)
    sizes = np.array([(len(r.instruction), r.width) for r in ordered])
    below = np.maximum.accumulate(sizes).sum(1)
    above = np.maximum.accumulate(sizes[::-1])[::-1].sum(1)
    count = np.arange(1, len(group))
    padded = count * below[:-1] + count[::-1] * above[1:]
    if not len(padded):
      continue
    cut = int(padded.argmin())
    saved = len(group) * int(below[-1]) - int(padded[cut])
    if saved > best[0]:
      best = saved, ordered[: cut + 1], ordered[cut + 1 :]
  return best


def _fitted_shape(group: Sequence[TokenizedRequest]) -> Shape:
  """Returns the smallest shape that holds all of a group."""
  instruction = _round_up(max(len(r.instruction) for r in group))
  width = max(r.width for r in group)
  if width <= 2 * _ROW_LENGTH:
    return Shape(instruction, 1, _round_up(width))
  longest = max(max(map(len, r.candidates)) for r in group)
  row_length = max(_ROW_LENGTH, _round_up(longest))
  rows = max(len(pack_rows(r.candidates, row_length)) for r in group)
  return Shape(instruction, rows, row_length)


def _round_up(length: int) -> int:
  """To a multiple of 16, as processors like it."""
  return -(-length // 16) * 16
