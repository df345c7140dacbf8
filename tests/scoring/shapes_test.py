"""Of requests: their ids, their shapes, and how they are balanced over bins."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import batching, shapes, tokenization, trie
from instructrec_jax.scoring.tokenization import Chunk
from instructrec_jax.scoring.trie import ID_BYTES, to_bytes

MOST = shapes.MAX_SHAPES - shapes.LARGE_SHAPES


def tokenized(instruction, *candidates):
  """A request of these lengths, whose candidates share only their start."""
  return tokenization.TokenizedRequest(
    index=0,
    instruction=np.full(instruction, 5, np.int32),
    candidates=[
      to_bytes((10 + number, *[5] * (length - 1)))
      for number, length in enumerate(candidates)
    ],
    places=[[number] for number in range(len(candidates))],
  )


def draw(count, *, instruction, candidates, seed=0):
  """Requests of random lengths up to these."""
  rng = np.random.default_rng(seed)
  return [
    tokenized(
      int(rng.integers(instruction // 2, instruction)),
      *rng.integers(5, 24, candidates).tolist(),
    )
    for _ in range(count)
  ]


def fit(requests, *, most=MOST, bin_tokens=4096, shards=1):
  return shapes.fitted_shapes(
    Chunk(requests), most=most, bin_tokens=bin_tokens, shards=shards
  )


def bins_of(requests, shape, **options):
  """The bins of these requests, as lists of them."""
  everything = np.arange(len(requests))
  bins = shapes.bins_of(Chunk(requests), everything, shape, **options)
  return [[requests[number] for number in of_bin] for of_bin in bins]


def chosen(request, known):
  (shape,) = shapes.choose_shapes(Chunk([request]), known)
  return shape


def test_no_more_bins_than_requests(monkeypatch):
  """However small they are to be."""
  tried = []

  def even_shape(chunk, group, count):
    tried.append(count)
    return even(chunk, group, count)

  even = shapes.even_shape
  monkeypatch.setattr(shapes, "even_shape", even_shape)
  fit(draw(50, instruction=300, candidates=10), most=1, bin_tokens=1, shards=2)
  assert tried == [50]


def test_a_request_of_a_known_shape_is_laid_out_once():
  chunk = Chunk(draw(20, instruction=300, candidates=10))
  (shape,) = shapes.fitted_shapes(chunk, most=1, bin_tokens=4096, shards=1)
  ((found, _),) = shapes.by_shape(chunk, [shape]).items()
  assert found == shape
  assert set(chunk._tries) == {shape.row_length}


def padding(requests, fitted):
  """The share of padding in what linear layers compute."""
  chunk = Chunk(requests)
  used, computed = chunk.tokens.sum(), 0
  for shape, members in shapes.by_shape(chunk, fitted).items():
    bins = shapes.bins_of(chunk, members, shape)
    computed += len(bins) * (shape.tokens + shape.nodes)
  return 1 - used / computed


@pytest.mark.parametrize("shards", [1, 4])
def test_a_batch_holds_every_token(requests, vocabulary, shards):
  """Each path leads over edges whose nodes have read the candidate so far."""
  pieces = tokenization.tokenize(requests, vocabulary.encode_one)
  chunk = Chunk(pieces)
  (shape,) = fit(pieces, most=1, bin_tokens=1 << 16, shards=shards)
  everything = np.arange(len(pieces))
  bins = shapes.bins_of(chunk, everything, shape, shards=shards)
  assert len(bins) == shards
  (batch,) = batching.to_batches(chunk, bins, shape=shape, shards=shards)
  features = {name: list(array) for name, array in batch.features.items()}
  seen = set()
  starts = np.cumsum(batch.lengths) - batch.lengths
  for (index, place), candidate in zip(
    batch.slots, batch.slot_candidates, strict=True
  ):
    request = requests[index]
    path = batch.edges[starts[candidate] :][: batch.lengths[candidate]]
    (shard,) = set(path // shape.edges)
    of = {name: arrays[shard] for name, arrays in features.items()}
    edges = path % shape.edges
    ids = [*vocabulary.encode_one(request.candidates[place]), 1]
    assert of["edge_targets"][edges].tolist() == ids
    nodes = of["edge_nodes"][edges]
    assert of["trie_tokens"][nodes].tolist() == [0, *ids[:-1]]
    rows, places = np.divmod(of["trie_places"][nodes], shape.row_length)
    (row,) = set(rows)
    assert of["trie_rows"][row][places].tolist() == nodes.tolist()
    assert of["trie_depths"][row][places].tolist() == list(range(len(ids)))
    number = of["trie_instructions"][row]
    length = of["encoder_lengths"][number]
    tokens = of["encoder_rows"][number][:length]
    instruction = [*vocabulary.encode_one(request.instruction), 1]
    assert of["encoder_tokens"][tokens].tolist() == instruction
    assert of["encoder_places"][tokens].tolist() == list(
      range(number * shape.length, number * shape.length + length)
    )
    seen.add((int(index), int(place)))
  assert seen == {
    (index, place)
    for index, request in enumerate(requests)
    for place in range(len(request.candidates))
  }


def test_repeated_candidates_are_kept_once(vocabulary):
  request = RankingRequest(
    request_id="a", instruction="tent", candidates=("rope", "tent", "rope")
  )
  (piece,) = tokenization.tokenize([request], vocabulary.encode_one)
  assert piece.places == [[0, 2], [1]]


def test_many_candidates_become_several_pieces(vocabulary):
  words = ("tent", "rope", "kayak", "pump", "stove", "helmet", "green")
  titles = tuple(map(" ".join, itertools.product(words, repeat=4)))
  request = RankingRequest(
    request_id="a", instruction="tent", candidates=titles
  )
  pieces = tokenization.tokenize([request], vocabulary.encode_one)
  assert len(pieces) > 1
  assert {piece.index for piece in pieces} == {0}
  most = tokenization.PIECE * ID_BYTES
  assert all(sum(map(len, p.candidates)) <= most for p in pieces)
  places = sorted(sum((sum(p.places, []) for p in pieces), []))
  assert places == list(range(len(titles)))


@pytest.mark.parametrize("instruction", [100, tokenization.LONGEST_INSTRUCTION])
@pytest.mark.parametrize("length", [2, 60, 97, 130, 257, 1024])
def test_a_full_piece_of_any_length_has_a_shape(instruction, length):
  """Rows of the large shapes suffice, however badly candidates fill them."""
  request = tokenized(instruction, *[length] * (tokenization.PIECE // length))
  shape = chosen(request, [])
  assert bins_of([request], shape) == [[request]]
  bins = [np.zeros(1, int)]
  list(batching.to_batches(Chunk([request]), bins, shape=shape, shards=1))


@given(
  st.integers(1, tokenization.LONGEST_INSTRUCTION),
  st.lists(
    st.integers(1, tokenization.LONGEST_CANDIDATE), min_size=1, max_size=60
  ),
)
def test_whatever_can_be_tokenised_has_a_shape(instruction, lengths):
  while sum(lengths) > tokenization.PIECE:
    lengths.pop()
  request = tokenized(instruction, *lengths)
  shape = chosen(request, [])
  assert bins_of([request], shape) == [[request]]


@given(
  st.lists(
    st.tuples(st.integers(1, 500), st.lists(st.integers(1, 90), min_size=1)),
    min_size=1,
    max_size=40,
  ),
  st.integers(1, 4),
)
def test_bins_hold_each_request_once(lengths, shards):
  requests = [tokenized(length, *titles) for length, titles in lengths]
  fitted = fit(requests, shards=shards)
  assert len(fitted) <= MOST
  chunk = Chunk(requests)
  seen = []
  for shape, members in shapes.by_shape(chunk, fitted, shards=shards).items():
    bins = shapes.bins_of(chunk, members, shape, shards=shards)
    assert len(bins) % shards == 0
    assert sorted(np.concatenate(bins)) == sorted(members)
    seen += members.tolist()
    for of_bin in bins:
      sizes = chunk.sizes(shape.row_length)[of_bin]
      assert (sizes.sum(0) <= shape.capacity).all()
      assert (chunk.lengths[of_bin] <= shape.length).all()
  assert sorted(seen) == list(range(len(requests)))


def test_a_short_homogeneous_stream_needs_one_shape():
  assert len(fit(draw(600, instruction=250, candidates=10))) == 1


def test_one_long_request_does_not_pad_the_others():
  users = draw(600, instruction=250, candidates=10)
  expected = padding(users, fit(users))
  for outlier in (tokenized(1000, *[20] * 200), tokenized(100, *[20] * 200)):
    fitted = fit([*users, outlier])
    assert len(fitted) == 2
    assert padding(users, fitted) < expected + 0.01


@pytest.mark.parametrize("count", [64, 600, 4000])
def test_a_stream_is_little_padded(count):
  stream = draw(count, instruction=400, candidates=10)
  assert padding(stream, fit(stream)) < (0.1 if count < 100 else 0.06)


def test_few_and_many_candidates_share_bins():
  """A mixed stream is no more padded than uniform ones."""
  stream = draw(300, instruction=250, candidates=10)
  stream += draw(300, instruction=250, candidates=100)
  assert padding(stream, fit(stream, bin_tokens=8192)) < 0.06


def test_a_lone_request_goes_where_it_pays_for_little():
  users = draw(40, instruction=250, candidates=10)
  many, one = (
    shapes.even_shape(Chunk(users), np.arange(40), count) for count in (2, 40)
  )

  def counts(requests):
    grouped = shapes.by_shape(Chunk(requests), [many, one])
    return {shape: len(members) for shape, members in grouped.items()}

  assert counts(users) == {many: 40}
  assert counts(users[:1]) == {one: 1}
  assert counts(users[:15]) == {many: 15}


@pytest.mark.parametrize("field", ["instruction", "candidates"])
def test_a_request_beyond_all_shapes_is_named(vocabulary, field):
  request = RankingRequest(
    request_id="r7", instruction="tent", candidates=("tent",)
  )
  text = "tent " * 9000
  long = text if field == "instruction" else (text,)
  request = dataclasses.replace(request, **{field: long})
  with pytest.raises(InputError, match="request r7: .*9001"):
    tokenization.tokenize([request], vocabulary.encode_one)


@given(
  st.integers(1, 5),
  st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=2, max_size=80),
)
def test_items_go_where_they_fill_least(count, sizes):
  """As the greedy rule says, and then no swap with the fullest bin helps."""
  sizes = np.array(sizes)
  shares = sizes / sizes.sum(0)
  dealt = shapes.balance(sizes, count, weights=(1, 1, 1))
  assert sorted(sum(dealt, [])) == list(range(len(sizes)))
  loads = np.array([shares[members].sum(0) for members in dealt])
  fullest = int(loads.max(1).argmax())
  for number, members in enumerate(dealt):
    for one in dealt[fullest] if number != fullest else ():
      for other in members:
        gain = shares[one] - shares[other]
        after = max((loads[fullest] - gain).max(), (loads[number] + gain).max())
        assert after > loads[fullest].max() * (1 - 1.001e-3)


def test_batches_do_not_depend_on_how_many_are_laid_out_at_once(monkeypatch):
  """Nor on what else is in the chunk's tries, or which candidates recur."""
  requests = [
    dataclasses.replace(
      r, index=n, places=[[2 * p, 2 * p + 1] for (p,) in r.places]
    )
    for n, r in enumerate(draw(60, instruction=90, candidates=7))
  ]
  (shape,) = fit(requests, most=1, bin_tokens=500, shards=2)
  chunk = Chunk(requests)
  bins = shapes.bins_of(chunk, np.arange(60), shape, shards=2)
  assert len(bins) > 4
  together = list(batching.to_batches(chunk, bins, shape=shape, shards=2))
  monkeypatch.setattr(batching, "_AT_ONCE", 1)
  monkeypatch.setattr(trie, "_PLACES", 1)
  for number, one in enumerate(together):
    of_batch = bins[2 * number : 2 * number + 2]
    (alone,) = batching.to_batches(
      Chunk(requests), of_batch, shape=shape, shards=2
    )
    for name in one.features:
      np.testing.assert_array_equal(one.features[name], alone.features[name])
    for name in ("edges", "lengths", "slots", "slot_candidates"):
      np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))
