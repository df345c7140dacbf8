"""Candidates as prefix tries: what they begin with alike is computed once.

A node is what the decoder has read: a start and some tokens. An edge is a token
to be predicted at a node. "red tent" and "red kayak" share two nodes and one
edge. A trie is cut into rows, as attention is computed between all nodes of a
row; a row repeats the beginning that it shares with the one before.

Key to shapes. C: candidates, sorted; L: tokens of the longest.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence

import numpy as np

START_ID = 0
ID_BYTES = 4
# Tables of a candidate by its tokens have about so many places: some MiB.
_PLACES = 1 << 19


def to_bytes(ids: Sequence[int]) -> bytes:
  """Returns ids so that bytes sort as they do, and are copied at once."""
  return struct.pack(f">{len(ids)}I", *ids)


@dataclasses.dataclass(frozen=True)
class Tries:
  """The tries of many requests, one after the other.

  Nodes are in depth-first order, so that a subtree is an interval. Nodes and
  edges are numbered from the first of their row.

  Attributes:
    rows: [requests] how many rows each has.
    row_nodes: [rows] how many nodes.
    row_edges: [rows] how many edges.
    row_candidates: [rows] how many candidates end in it.
    tokens: [nodes] what is read last.
    depths: [nodes] how many tokens are read before it.
    ends: [nodes] the first node behind the subtree: i is read at j, or before
      it, if i <= j < ends[i].
    edge_nodes: [edges] the node of each edge.
    edge_targets: [edges] the token of each edge.
    candidates: [candidates] the number that each has in its request.
    lengths: [candidates] how many edges lead to its end, without those that
      count for no candidate.
    paths: these edges, candidate after candidate.
  """

  rows: np.ndarray
  row_nodes: np.ndarray
  row_edges: np.ndarray
  row_candidates: np.ndarray
  tokens: np.ndarray
  depths: np.ndarray
  ends: np.ndarray
  edge_nodes: np.ndarray
  edge_targets: np.ndarray
  candidates: np.ndarray
  lengths: np.ndarray
  paths: np.ndarray


def tries_of(
  candidates: Sequence[bytes],
  counts: np.ndarray,
  row_length: int,
  said: np.ndarray,
) -> Tries:
  """Returns the tries of all requests, in rows.

  Args:
    candidates: of `to_bytes`, request after request, each with its end, none
      longer than a row; a request's are distinct.
    counts: [requests] how many candidates each has.
    row_length: the most nodes in a row.
    said: [requests] how many tokens at the start count for no candidate.
  """
  sizes = np.fromiter(map(len, candidates), np.int64, len(candidates))
  lengths = sizes // ID_BYTES
  ends = np.cumsum(counts)
  parts = [
    _tries_of(
      candidates[first:last],
      lengths[first:last],
      counts[requests],
      row_length,
      said[requests],
    )
    for requests, first, last in _blocks(lengths, ends)
  ]
  if len(parts) == 1:
    return parts[0]
  names = [field.name for field in dataclasses.fields(Tries)]
  return Tries(
    **{
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in names
    }
  )


def _blocks(
  lengths: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[slice, int, int]]:
  """Yields requests, and their first candidate and the one behind the last."""
  longest = int(lengths.max(initial=1)) + 1
  most = max(_PLACES // longest, 1)
  request = first = 0
  while request < len(ends) or not request:
    # At least one request, however many candidates it has.
    last = int(np.searchsorted(ends, first + most, side="right"))
    last = min(max(last, request + 1), len(ends))
    end = int(ends[last - 1]) if last else 0
    yield slice(request, last), first, end
    request, first = max(last, 1), end


def _tries_of(
  candidates: Sequence[bytes],
  lengths_C: np.ndarray,
  counts: np.ndarray,
  row_length: int,
  said: np.ndarray,
) -> Tries:
  number, longest = len(candidates), int(lengths_C.max(initial=1))
  of_request_C = np.repeat(np.arange(len(counts)), counts)
  ids_CxL, order_C = _sorted(candidates, of_request_C, longest)
  lengths_C = lengths_C[order_C]
  shared_C = _shared(ids_CxL)
  is_first_C = _row_starts(lengths_C, shared_C, counts, row_length)
  shared_C[is_first_C] = 0
  row_of_C = np.cumsum(is_first_C) - 1
  # A candidate of n tokens is predicted at n nodes, the start among them, which
  # takes the place of the request's number.
  ids_CxL[:, 0] = START_ID
  depth_L = np.arange(longest, dtype=np.int32)
  on_path_CxL = depth_L < lengths_C[:, None]
  is_node_CxL = on_path_CxL & (
    depth_L >= np.where(is_first_C, 0, shared_C + 1)[:, None]
  )
  is_edge_CxL = on_path_CxL & (depth_L >= shared_C[:, None])
  node_CxL, first_node_C, row_nodes, node_end_C = _numbered(
    is_node_CxL, is_first_C, row_of_C
  )
  edge_CxL, first_edge_C, row_edges, _ = _numbered(
    is_edge_CxL, is_first_C, row_of_C
  )
  # The last candidate below a node says where its subtree ends.
  ends = np.empty(int(row_nodes.sum()), np.int32)
  ends[node_CxL[on_path_CxL]] = np.repeat(node_end_C - first_node_C, lengths_C)
  node_CxL -= first_node_C[:, None]
  edge_CxL -= first_edge_C[:, None]
  said_C = said[of_request_C]
  is_own_CxL = on_path_CxL
  if said_C.any():
    is_own_CxL = on_path_CxL & (depth_L >= said_C[:, None])
  starts = np.cumsum(counts) - counts
  return Tries(
    rows=np.bincount(of_request_C[is_first_C], minlength=len(counts)),
    row_nodes=row_nodes,
    row_edges=row_edges,
    row_candidates=np.bincount(row_of_C) if number else row_of_C,
    tokens=ids_CxL[:, :-1][is_node_CxL],
    depths=np.broadcast_to(depth_L, is_node_CxL.shape)[is_node_CxL],
    ends=ends,
    edge_nodes=node_CxL[is_edge_CxL],
    edge_targets=ids_CxL[:, 1:][is_edge_CxL],
    candidates=order_C - starts[of_request_C],
    lengths=lengths_C - said_C,
    paths=edge_CxL[is_own_CxL],
  )


def _sorted(
  candidates: Sequence[bytes], of_request_C: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns [C, 1 + L] requests' numbers and ids, sorted, and their order."""
  ids = np.zeros((len(candidates), 1 + longest), f">u{ID_BYTES}")
  ids[:, 0] = of_request_C
  texts = np.array(candidates, f"S{longest * ID_BYTES}")
  ids[:, 1:] = texts.view(ids.dtype).reshape(len(candidates), longest)
  rows = ids.view(f"S{ids.shape[1] * ID_BYTES}").ravel()
  order = rows.argsort(kind="stable")
  return ids[order].astype(np.int32), order


def _shared(ids_CxL: np.ndarray) -> np.ndarray:
  """Returns [C]: how many ids each has in common with the one before it."""
  shared_C = np.zeros(len(ids_CxL), np.int64)
  # The first column is the request's number.
  same = (ids_CxL[1:] == ids_CxL[:-1]).argmin(1) - 1
  shared_C[1:] = np.maximum(same, 0)
  return shared_C


def _row_starts(
  lengths_C: np.ndarray,
  shared_C: np.ndarray,
  counts: np.ndarray,
  row_length: int,
) -> np.ndarray:
  """Returns [C]: whether a row begins with the candidate."""
  is_first_C = np.zeros(len(lengths_C), bool)
  added_C = np.cumsum(lengths_C - shared_C - 1)
  ends = np.cumsum(counts)
  starts = ends - counts
  starts, ends = starts[counts > 0], ends[counts > 0]
  while len(starts):
    is_first_C[starts] = True
    # A row's first candidate has a node for each of its tokens.
    room = row_length - lengths_C[starts] + added_C[starts]
    starts = np.searchsorted(added_C, room, side="right")
    within = starts < ends
    starts, ends = starts[within], ends[within]
  return is_first_C


def _numbered(
  is_new_CxL: np.ndarray, is_first_C: np.ndarray, row_of_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Numbers nodes, or edges, and finds those that a path has from before.

  Returns:
    [C, L] the number at each place of each path; [C] the first of its row;
    [rows] how many a row has; and [C] how many there are up to a candidate's.
  """
  new_C = np.count_nonzero(is_new_CxL, axis=1)
  ends_C = np.cumsum(new_C)
  number_CxL = np.zeros(is_new_CxL.shape, np.int32)
  number_CxL[is_new_CxL] = np.arange(new_C.sum())
  np.maximum.accumulate(number_CxL, axis=0, out=number_CxL)
  first = (ends_C - new_C)[is_first_C].astype(np.int32)
  in_row = np.diff(first, append=np.int32(new_C.sum()))
  return number_CxL, first[row_of_C], in_row, ends_C
