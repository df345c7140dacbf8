"""Requests as token ids, and what each takes of a batch."""

import array
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.trie import ID_BYTES, Tries, to_bytes, tries_of
from instructrec_jax.text.vocabulary import EOS_ID

# In tokens; beyond them, attention would take gigabytes.
LONGEST_INSTRUCTION = 2048
LONGEST_CANDIDATE = 1024
# An instruction is encoded again for every so many tokens of candidates.
PIECE = 4096
# Long rows would spend their time on attention between candidates that do not
# see each other.
ROW_LENGTHS = (96, 256, LONGEST_CANDIDATE)
# In how many keys' attention costs as much as the linear layers of a token.
KEYS_PER_TOKEN = 4096

Encode = Callable[[str], Sequence[int]]
EncodeToBytes = Callable[[str], bytes]


@dataclasses.dataclass(frozen=True)
class TokenizedRequest:
  """A request's ids, each sequence with its end.

  Attributes:
    index: of the request in its chunk.
    instruction: int32 ids.
    candidates: distinct ones, of `trie.to_bytes`, each behind what was said.
    places: their indices in the request.
    said: how many tokens were said, which count for no candidate.
  """

  index: int
  instruction: np.ndarray
  candidates: list[bytes]
  places: list[list[int]]
  said: int = 0


class Chunk:
  """Requests that are laid out together, and what each takes of a batch.

  Attributes:
    requests: all of them.
    lengths: [requests] tokens of each instruction.
    row_lengths: [requests] nodes in a row of its trie; a shape may have longer
      rows.
    indices: [requests] the number of each among all that were tokenised.
    first_candidates: [requests] where the candidates of each begin.
    place_counts: [candidates] in how many places of its request each stands.
    places: these places, candidate after candidate.
  """

  def __init__(self, requests: Sequence[TokenizedRequest]):
    """Measures requests; tries are made when they are asked for."""
    self.requests = requests
    count = len(requests)
    self.lengths = np.fromiter(
      (len(r.instruction) for r in requests), int, count
    )
    longest = np.fromiter(
      (max(map(len, r.candidates)) for r in requests), int, count
    )
    longest //= ID_BYTES
    self.row_lengths = np.array(ROW_LENGTHS)[
      np.searchsorted(ROW_LENGTHS, longest)
    ]
    self.indices = np.fromiter((r.index for r in requests), int, count)
    candidates = np.fromiter((len(r.candidates) for r in requests), int, count)
    self.first_candidates = np.cumsum(candidates) - candidates
    places = list(itertools.chain.from_iterable(r.places for r in requests))
    self.place_counts = np.fromiter(map(len, places), int, len(places))
    self.places = np.fromiter(itertools.chain.from_iterable(places), int)
    self._tries: dict[int, Tries] = {}
    self._sizes: dict[int, np.ndarray] = {}

  def tries(self, row_length: int) -> Tries:
    """Returns tries in rows of this length; none of what needs longer ones."""
    if row_length not in self._tries:
      fits = self.row_lengths <= row_length
      held = [
        r.candidates if f else []
        for r, f in zip(self.requests, fits, strict=True)
      ]
      self._tries[row_length] = tries_of(
        list(itertools.chain.from_iterable(held)),
        np.fromiter(map(len, held), int, len(held)),
        row_length,
        np.fromiter((r.said for r in self.requests), int, len(held)),
      )
    return self._tries[row_length]

  def sizes(self, row_length: int) -> np.ndarray:
    """Returns [requests, 5]: the first fields of `Shape` that each takes."""
    if row_length not in self._sizes:
      tries = self.tries(row_length)
      count = len(tries.rows)
      of_row = np.repeat(np.arange(count), tries.rows)
      self._sizes[row_length] = np.stack(
        [
          np.ones_like(self.lengths),
          self.lengths,
          tries.rows,
          np.bincount(of_row, tries.row_nodes, count),
          np.bincount(of_row, tries.row_edges, count),
        ],
        axis=1,
      ).astype(int)
    return self._sizes[row_length]

  @functools.cached_property
  def own_sizes(self) -> np.ndarray:
    """[requests, 5]: `sizes` in rows of each one's own length."""
    own = np.zeros((len(self.requests), 5), int)
    for row_length in np.unique(self.row_lengths).tolist():
      members = self.row_lengths == row_length
      own[members] = self.sizes(row_length)[members]
    return own

  @property
  def tokens(self) -> np.ndarray:
    """[requests]: tokens and nodes that are computed for each."""
    return self.own_sizes[:, 1] + self.own_sizes[:, 3]

  @property
  def costs(self) -> np.ndarray:
    """[requests]: of computing each without padding; see `Shape.cost`."""
    of_rows = self.own_sizes[:, 2] * self.row_lengths
    pairs = self.lengths**2 + of_rows * (self.row_lengths + self.lengths)
    return cost_of(self.tokens, pairs)


def tokenize(
  requests: Sequence[RankingRequest],
  encode: Encode,
  encode_candidate: EncodeToBytes | None = None,
) -> list[TokenizedRequest]:
  """Tokenises a chunk; repeated candidates are kept once.

  A request with more than 4096 tokens of candidates becomes several of the
  same index. `encode_candidate` is `candidate_encoder(encode)` with a cache, as
  titles recur.

  Raises:
    InputError: an instruction or a candidate is too long, or a request has no
      candidates.
  """
  encode_candidate = encode_candidate or candidate_encoder(encode)
  tokenized = []
  for index, request in enumerate(requests):
    ids = array.array("i", encode(request.instruction))
    ids.append(EOS_ID)
    instruction = np.frombuffer(ids, np.int32)
    said = to_bytes(encode(request.said)) if request.said else b""
    places: dict[bytes, list[int]] = {}
    for place, text in enumerate(request.candidates):
      places.setdefault(said + encode_candidate(text), []).append(place)
    if not places:
      raise InputError(f"request {request.request_id}: it has no candidates.")
    longest = max(map(len, places)) // ID_BYTES
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
          said=len(said) // ID_BYTES,
        )
      )
  return tokenized


def candidate_encoder(encode: Encode) -> EncodeToBytes:
  """Returns what encodes a candidate with its end, as `TokenizedRequest`."""
  return lambda text: to_bytes((*encode(text), EOS_ID))


def cost_of(tokens: Any, pairs: Any) -> Any:
  """Of linear layers, and of attention between pairs of query and key."""
  return tokens + pairs / KEYS_PER_TOKEN


def _pieces(candidates: list[bytes]) -> Iterator[list[bytes]]:
  """Splits candidates so that each piece has at most `PIECE` tokens."""
  if sum(map(len, candidates)) <= PIECE * ID_BYTES:
    yield candidates
    return
  piece, width = [], 0
  # Neighbours in the trie stay together.
  for ids in sorted(candidates):
    if width + len(ids) > PIECE * ID_BYTES:
      yield piece
      piece, width = [], 0
    piece.append(ids)
    width += len(ids)
  yield piece
