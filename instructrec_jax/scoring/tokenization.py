"""Requests as token ids, and what each takes of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.trie import TrieRow, trie_rows
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


@dataclasses.dataclass(frozen=True)
class TokenizedRequest:
  """A request's ids, each sequence with its end."""

  # Of the request in its chunk.
  index: int
  instruction: list[int]
  # Distinct ones, each behind what was said, and their indices in the request.
  candidates: list[tuple[int, ...]]
  places: list[list[int]]
  # How many tokens were said, which count for no candidate.
  said: int = 0
  # By the length of rows, what has been worked out.
  _rows: dict[int, list[TrieRow]] = dataclasses.field(default_factory=dict)
  _sizes: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def row_length(self) -> int:
    """Nodes in a row of its trie; a shape may have longer rows."""
    longest = max(map(len, self.candidates))
    return next(length for length in ROW_LENGTHS if longest <= length)

  def rows(self, row_length: int) -> list[TrieRow]:
    """Returns its trie in rows of this length."""
    if row_length not in self._rows:
      self._rows[row_length] = trie_rows(self.candidates, row_length)
    return self._rows[row_length]

  def sizes(self, row_length: int) -> np.ndarray:
    """Returns what it takes of a bin: the first fields of `Shape`."""
    if row_length not in self._sizes:
      rows = self.rows(row_length)
      nodes = sum(len(row.tokens) for row in rows)
      edges = sum(len(row.edge_nodes) for row in rows)
      self._sizes[row_length] = np.array(
        [1, len(self.instruction), len(rows), nodes, edges]
      )
    return self._sizes[row_length]

  @functools.cached_property
  def tokens(self) -> int:
    """Tokens and nodes that are computed for it."""
    _, tokens, _, nodes, _ = self.sizes(self.row_length)
    return int(tokens + nodes)

  @functools.cached_property
  def cost(self) -> float:
    """Of computing it without padding; see `Shape.cost`."""
    length, rows = len(self.instruction), len(self.rows(self.row_length))
    of_rows = rows * self.row_length
    return cost_of(
      self.tokens, length**2 + of_rows * (self.row_length + length)
    )


def tokenize(
  requests: Sequence[RankingRequest],
  encode: Encode,
  encode_candidate: Encode | None = None,
) -> list[TokenizedRequest]:
  """Tokenises a chunk; repeated candidates are kept once.

  A request with more than 4096 tokens of candidates becomes several of the
  same index. `encode_candidate` is `encode` with a cache, as titles recur.

  Raises:
    InputError: an instruction or a candidate is too long, or a request has no
      candidates.
  """
  encode_candidate = encode_candidate or encode
  tokenized = []
  for index, request in enumerate(requests):
    instruction = [*encode(request.instruction), EOS_ID]
    said = encode(request.said) if request.said else ()
    places: dict[tuple[int, ...], list[int]] = {}
    for place, text in enumerate(request.candidates):
      ids = (*said, *encode_candidate(text), EOS_ID)
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
          said=len(said),
        )
      )
  return tokenized


def cost_of(tokens: int, pairs: int) -> float:
  """Of linear layers, and of attention between pairs of query and key."""
  return tokens + pairs / KEYS_PER_TOKEN


def _pieces(
  candidates: list[tuple[int, ...]],
) -> Iterator[list[tuple[int, ...]]]:
  """Splits candidates so that each piece has at most `PIECE` tokens."""
  if sum(map(len, candidates)) > PIECE:
    # Neighbours in the trie stay together.
    candidates = sorted(candidates)
  piece, width = [], 0
  for ids in candidates:
    if width + len(ids) > PIECE:
      yield piece
      piece, width = [], 0
    piece.append(ids)
    width += len(ids)
  yield piece
