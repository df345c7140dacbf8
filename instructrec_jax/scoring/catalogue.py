"""The exact top of a whole catalogue, without scoring all of it.

What a title begins with bounds its score from above: its log-likelihood only
falls with each further token, and what the catalogue's prior adds to it is
known of each title beforehand: a beginning adds the most of any title below it.
Nodes of the trie of all titles are read in the
order of their bounds, until no bound reaches the K-th best title found. No
title is missed, and none is invented, as beam search may do.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.progress import progress
from instructrec_jax.scoring.normalisation import (
  BOUNDED,
  Normalisation,
  check_counted,
  check_finite,
)
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.scoring.title_trie import TitleTrie
from instructrec_jax.scoring.tokenization import (
  LONGEST_CANDIDATE,
  candidate_encoder,
)
from instructrec_jax.scoring.trie import ID_BYTES, START_ID
from instructrec_jax.scoring.user_states import UserStates
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.attention import project_memory
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import (
  KeysValues,
  PaddedRows,
  Tokens,
  TriePaths,
)
from instructrec_jax.seq2seq.transformer import (
  Cache,
  Transformer,
  output_kernel,
)
from instructrec_jax.text.vocabulary import EOS_ID, Vocabulary
from instructrec_jax.xla_options import compiler_options, exact_products

# Instructions are padded to one of these, so that few shapes are compiled.
_LENGTHS = (128, 256, 512, 1024, 2048)
# What an answer begins with is padded to a multiple of so many tokens.
_SAID = 32
# Nodes that the cache holds at first.
_CAPACITY = 256
# Edges of a search's nodes in a step are padded to one of these; a node has as
# many as there are words at most.
_EDGES = tuple(64 << 3 * n for n in range(8))
# Batches whose steps alternate: the host chooses the nodes of one while the
# device reads those of the other.
_IN_TURNS = 2
_OVER = object()
_WAITING = np.dtype(
  [("bound", float), ("sum", float), ("node", np.int32), ("parent", np.int32)]
)


@dataclasses.dataclass(frozen=True)
class Found:
  """The top of the catalogue for one instruction.

  Attributes:
    titles: numbers of titles, the best first.
    scores: their scores, as `T5Ranker` gives them.
    nodes: how many nodes of the trie were read.
  """

  titles: list[int]
  scores: list[float]
  nodes: int


class CatalogueSearch:
  """Finds the best of all titles for an instruction."""

  def __init__(
    self,
    titles: Sequence[str],
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    mesh: Mesh | None = None,
    normalisation: str = Normalisation.SUM,
    title_counts: Mapping[str, int] | None = None,
    batch: int = 16,
    nodes: int = 16,
    user_states: UserStates | None = None,
  ):
    """Builds the trie; titles of the same tokens are one in it.

    Args:
      titles: of the catalogue.
      config: the model's sizes.
      params: its parameters.
      vocabulary: tokenises titles and instructions.
      mesh: of `mesh.make_mesh`; one device if None.
      normalisation: "sum", "mean" or "catalogue_prior".
      title_counts: training purchases, for "catalogue_prior".
      batch: instructions that are searched for at the same time.
      nodes: of each instruction, that are read in a step.
      user_states: keeps encoder states, of this model alone, for searches with
        the same instruction; for a single process.

    Raises:
      InputError: the vocabulary or the mesh does not fit the model, there is no
        title, a count is below 1, or no bound is known for the normalisation.
    """
    self.normalisation = Normalisation.parse(normalisation)
    check_counts(batch=batch, nodes=nodes)
    if self.normalisation not in BOUNDED:
      raise InputError(
        f"a catalogue cannot be searched by {self.normalisation}: only of "
        f"{', '.join(BOUNDED)} is it known what a title's beginning bounds; "
        "score all candidates instead."
      )
    check_counted(self.normalisation, title_counts)
    if not titles:
      raise InputError("there is no title to search.")
    model_folder.check_vocabulary(config, vocabulary)
    self._vocabulary = vocabulary
    encode = candidate_encoder(vocabulary.encode_one)
    encoded = list(map(encode, titles))
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    distinct, counts = [], []
    for ids, same in itertools.groupby(map(encoded.__getitem__, order)):
      distinct.append(ids)
      counts.append(sum(1 for _ in same))
    del encoded
    self._numbers = _Numbers(np.array(order), np.array(counts))
    self.trie = TitleTrie(distinct)
    mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
    shards = mesh.shape["data"]
    self._batch, self._nodes = -(-batch // shards) * shards, nodes
    self._scale = _Scale(self.trie)
    if self.normalisation is Normalisation.MEAN:
      lengths = np.fromiter(map(len, distinct), int, len(distinct)) // ID_BYTES
      self._scale.divide(lengths, self._numbers)
    elif self.normalisation is Normalisation.CATALOGUE_PRIOR:
      ranker = T5Ranker(
        config=config,
        params=params,
        vocabulary=vocabulary,
        mesh=mesh,
        title_counts=title_counts,
      )
      self._scale.add(ranker.prior_offsets(titles), self._numbers)
    shardings = mesh_lib.model_shardings(config, mesh, params)
    self._params = mesh_lib.to_devices(
      parameters.for_inference(config, params), shardings
    )
    self._config = config
    self._user_states = user_states
    self._by_shard = mesh_lib.batch_sharding(mesh)

    def jitted(function: Any, arguments: int, **options: Any) -> Any:
      """Splits instructions, and all that is of each, over data devices."""
      return jax.jit(
        mesh_lib.with_activation_axes(
          functools.partial(function, config=config), mesh
        ),
        in_shardings=(shardings, *[self._by_shard] * arguments),
        compiler_options=compiler_options(),
        **options,
      )

    self._encode = jitted(encode_rows, 1, out_shardings=self._by_shard)
    self._project = jitted(memory_of, 1, out_shardings=self._by_shard)
    self._decode = jitted(
      decode_nodes, 5, donate_argnums=1, out_shardings=self._by_shard
    )
    # Each process reads the probabilities, and only its own devices.
    self._edges = jitted(edge_log_p, 3, out_shardings=mesh_lib.replicated(mesh))

  def top(
    self,
    instructions: Sequence[str],
    k: int,
    *,
    excluded: Sequence[Iterable[int]] | None = None,
    said: Sequence[str] | None = None,
  ) -> list[Found]:
    """Returns the best `k` titles for each instruction, ties by number.

    Args:
      instructions: what the model is to answer.
      k: how many; fewer are found where the catalogue has fewer.
      excluded: for each instruction, numbers of titles that do not count, such
        as those of the user's history.
      said: for each instruction, what the answer has before the title; see
        `records.RankingRequest`.

    Raises:
      InputError: an instruction or what was said is too long, `k` is below 1,
        or the model's weights make no numbers.
    """
    check_counts(k=k)
    ids = [[*self._vocabulary.encode_one(t), EOS_ID] for t in instructions]
    longest = max(map(len, ids), default=0)
    if longest > _LENGTHS[-1]:
      raise InputError(
        f"an instruction has {longest} tokens; at most {_LENGTHS[-1]} can be "
        "searched for."
      )
    before = [self._vocabulary.encode_one(t) if t else [] for t in said or ()]
    before = before or [[]] * len(ids)
    if max(map(len, before), default=0) > LONGEST_CANDIDATE:
      raise InputError(
        f"an answer begins with {max(map(len, before))} tokens; a title can be "
        f"searched for behind {LONGEST_CANDIDATE}."
      )
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    found: list[Found | None] = [None] * len(ids)

    def search_batch(start: int) -> Iterator[None]:
      members = order[start : start + self._batch]
      searches = [
        _Search(
          self.trie,
          k,
          self._numbers,
          frozenset(excluded[number] if excluded else ()),
          self._scale,
        )
        for number in members
      ]
      yield from self._run(
        searches,
        [ids[number] for number in members],
        [[START_ID, *before[number]] for number in members],
      )
      for number, search in zip(members, searches, strict=True):
        found[number] = search.found()

    starts = range(0, len(order), self._batch)
    # A single batch is over before a bar would tell anything.
    with progress(
      total=len(starts), desc="search", unit="batch", shown=len(starts) > 1
    ) as bar:
      waiting = map(search_batch, starts)
      running = collections.deque(itertools.islice(waiting, _IN_TURNS))
      while running:
        batch = running.popleft()
        if next(batch, _OVER) is _OVER:
          bar.update()
          running.extend(itertools.islice(waiting, 1))
        else:
          running.append(batch)
    return [one for one in found if one is not None]

  def _run(
    self,
    searches: "list[_Search]",
    ids: list[list[int]],
    before: list[list[int]],
  ) -> Iterator[None]:
    """Runs searches of instructions, behind what each answer begins with.

    Yields while the device computes: the host may do other work.
    """
    trie, width = self.trie, self._nodes
    length = next(n for n in _LENGTHS if max(map(len, ids)) <= n)
    tokens = np.zeros((self._batch, length), np.int32)
    for row, of_row in zip(tokens, ids, strict=False):
      row[: len(of_row)] = of_row
    memory = self._project(self._params, self._encoded(tokens))
    is_real = self._split(tokens > 0)
    # The last token before the titles stands at the root, those before it on
    # every path, in the first slots.
    leads = np.array([len(tokens) - 1 for tokens in before])
    depth = trie.depth + -(-int(leads.max()) // _SAID) * _SAID
    places = np.arange(depth)
    # The last slot takes what is padding.
    capacity, used = _CAPACITY, int(leads.max())
    while used + width >= capacity:
      capacity *= 2
    cache = self._split(empty_cache(self._config, self._batch, capacity))

    def decode(cache: Any, nodes: np.ndarray, *where: Any) -> Any:
      step = self._split((nodes, TriePaths(*where)))
      return self._decode(self._params, cache, memory, is_real, *step)

    for first in range(0, used, width):
      nodes, slots, paths, depths = self._padding(capacity, depth)
      for number, (of_answer, lead) in enumerate(
        zip(before, leads.tolist(), strict=True)
      ):
        here = np.arange(first, min(first + width, lead))
        nodes[number, : len(here)] = of_answer[first : first + len(here)]
        slots[number, : len(here)] = depths[number, : len(here)] = here
        paths[number, : len(here)] = np.minimum(places, here[:, None])
      cache, _ = decode(cache, nodes, slots, paths, depths)
    for search, lead in zip(searches, leads.tolist(), strict=True):
      search.start(lead, depth)
    while True:
      chosen = [search.choose(width) for search in searches]
      if not any(map(len, chosen)):
        break
      while used + width >= capacity:
        grown = ((0, 0), (0, capacity), (0, 0), (0, 0))
        cache = jax.tree.map(lambda x, pad=grown: jnp.pad(x, pad), cache)
        capacity *= 2
      read, slots, paths, depths = self._padding(capacity, depth)
      for number, (search, of_nodes) in enumerate(
        zip(searches, chosen, strict=True)
      ):
        here = slice(0, len(of_nodes))
        own = used + np.arange(len(of_nodes))
        slots[number, here] = own
        paths[number, here] = search.paths(own)
        depths[number, here] = int(leads[number]) + trie.depths[of_nodes]
        read[number, here] = np.where(
          of_nodes > 0, trie.tokens[of_nodes], before[number][-1]
        )
      used += max(map(len, chosen))
      cache, states = decode(cache, read, slots, paths, depths)
      edges = [trie.edges_of(of_nodes) for of_nodes in chosen]
      most = max(len(of) for _, of in edges)
      # Few sizes, as each is compiled.
      size = next(n for n in _EDGES if most <= n)
      of_edges = np.zeros((2, self._batch, size), np.int32)
      for number, (here, of) in enumerate(edges):
        of_edges[:, number, : len(of)] = of, trie.targets[here]
      log_p = self._edges(self._params, states, *self._split(tuple(of_edges)))
      yield
      for search, (here, of), values in zip(
        searches, edges, np.asarray(log_p), strict=False
      ):
        search.add(here, of, values[: len(of)])

  def _encoded(self, tokens: np.ndarray) -> jax.Array:
    """Returns the encoder's states of padded instructions."""
    if not (states := self._user_states):
      return self._encode(self._params, self._split(tokens))
    prompts = tokens, (tokens > 0).sum(1, keepdims=True)
    if (known := states.find(*prompts)) is not None:
      return self._split(known)
    encoded = self._encode(self._params, self._split(tokens))
    states.keep(*prompts, np.asarray(encoded))
    return encoded

  def _split(self, tree: Any) -> Any:
    """Lays out what each instruction has on its data device."""
    return mesh_lib.to_devices(tree, self._by_shard)

  def _padding(self, capacity: int, depth: int) -> tuple[np.ndarray, ...]:
    """Returns tokens, slots, paths and depths of a step of nothing."""
    shape = (self._batch, self._nodes)
    return (
      np.zeros(shape, np.int32),
      np.full(shape, capacity - 1, np.int32),
      np.full((*shape, depth), capacity - 1, np.int32),
      np.zeros(shape, np.int32),
    )


@exact_products
def encode_rows(
  params: Any, tokens_BxT: Tokens, *, config: T5Config
) -> Float[Array, "batch length embed"]:
  """Returns the encoder's states of instructions, which are padded with 0.

  Args:
    params: the model's.
    tokens_BxT: of instructions.
    config: the model's sizes.
  """
  encoded: Any = Transformer(config).apply(
    {"params": params}, tokens_BxT, enable_dropout=False, method="encode"
  )
  return encoded


@exact_products
def memory_of(
  params: Any,
  encoded_BxTxD: Float[Array, "batch length embed"],
  *,
  config: T5Config,
) -> tuple[KeysValues, ...]:
  """Returns the decoder's keys and values of the encoder's states.

  Args:
    params: the model's.
    encoded_BxTxD: of `encode_rows`.
    config: the model's sizes.
  """
  return project_memory(config, params, encoded_BxTxD)


@exact_products
def decode_nodes(
  params: Any,
  tokens: tuple[KeysValues, ...],
  memory: tuple[KeysValues, ...],
  is_real_BxT: Bool[Array, "batch length"],
  tokens_BxM: Tokens,
  layout: TriePaths,
  *,
  config: T5Config,
) -> tuple[tuple[KeysValues, ...], Float[Array, "batch nodes embed"]]:
  """Decodes a few trie nodes of each instruction.

  Args:
    params: the model's.
    tokens: cached keys and values of nodes, of `empty_cache` at first.
    memory: of `memory_of`.
    is_real_BxT: which tokens of the instructions are not padding.
    tokens_BxM: the token of each node.
    layout: where nodes are in the cache.
    config: the model's sizes.

  Returns:
    The cache with these nodes in it, and the decoder's states [B, M, D].
  """
  states: Any = Transformer(config).apply(
    {"params": params},
    tokens_BxM,
    None,
    layout,
    PaddedRows(is_real_BxT[:, None, None]),
    Cache(tokens, memory),
    method="decode_states",
  )
  hidden_BxMxD, cache = states
  return cache.tokens, hidden_BxMxD


@exact_products
def edge_log_p(
  params: Any,
  hidden_BxMxD: Float[Array, "batch nodes embed"],
  nodes_BxE: Int[Array, "batch edges"],
  targets_BxE: Int[Array, "batch edges"],
  *,
  config: T5Config,
) -> Float[Array, "batch edges"]:
  """Returns log P of each edge: all that a search needs of the logits.

  Args:
    params: the model's.
    hidden_BxMxD: of `decode_nodes`.
    nodes_BxE: the node of each edge, among those that were decoded.
    targets_BxE: the token of each edge.
    config: the model's sizes.
  """
  kernel_DxV = output_kernel(config, params)
  logits_BxMxV = hidden_BxMxD.astype(jnp.float32) @ kernel_DxV
  log_p_BxMxV = jax.nn.log_softmax(logits_BxMxV)
  return jax.vmap(lambda log_p, nodes, targets: log_p[nodes, targets])(
    log_p_BxMxV, nodes_BxE, targets_BxE
  )


def empty_cache(
  config: T5Config, batch: int, capacity: int
) -> tuple[KeysValues, ...]:
  """Returns zeros [batch, capacity, heads, head_dim] for each decoder layer."""
  # Of NumPy, so that it may go to the devices of any mesh.
  shape = (batch, capacity, config.num_heads, config.head_dim)
  zeros: Any = np.zeros(shape).astype(config.dtype)
  return ((zeros, zeros),) * config.num_decoder_layers


class _Numbers:
  """The numbers of distinct titles, in their order: several have the same."""

  def __init__(self, order: np.ndarray, counts: np.ndarray):
    self.order, self.counts = order.astype(np.int32), counts
    self.starts = np.cumsum(counts) - counts

  def of(self, title: int) -> list[int]:
    """Returns the numbers of a distinct title."""
    start = self.starts[title]
    return self.order[start : start + self.counts[title]].tolist()


class _Scale:
  """What a title's score is of its sum, and the bound of a beginning's.

  A score is the sum of a title, divided and added to; a sum is negative, so
  the largest divisor and the largest addition of the titles below make a bound.
  """

  def __init__(self, trie: TitleTrie):
    """Leaves sums as they are."""
    self._trie = trie
    self._divisors: np.ndarray | None = None
    self._added: np.ndarray | None = None

  def divide(self, lengths: np.ndarray, numbers: _Numbers) -> None:
    """Divides by the lengths of distinct titles, which have these numbers."""
    self._divisors = np.empty(len(numbers.order))
    self._divisors[numbers.order] = np.repeat(lengths, numbers.counts)
    self._most_divisors = self._trie.largest(lengths)

  def add(self, offsets: np.ndarray, numbers: _Numbers) -> None:
    """Adds an offset to each title, by its number."""
    self._added = offsets
    most = np.maximum.reduceat(offsets[numbers.order], numbers.starts)
    self._most_added = self._trie.largest(most)

  def score(self, log_p: float, number: int) -> float:
    """Returns a title's score."""
    if self._divisors is not None:
      log_p = log_p / self._divisors[number]
    return log_p if self._added is None else log_p + self._added[number]

  def bounds(self, log_p: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Returns what no title behind a node exceeds."""
    if self._divisors is not None:
      log_p = log_p / self._most_divisors[nodes]
    return log_p if self._added is None else log_p + self._most_added[nodes]


class _Search:
  """What is known of the catalogue for one instruction.

  Nothing is kept of nodes that were not reached: there are millions of them.
  """

  def __init__(
    self,
    trie: TitleTrie,
    k: int,
    numbers: _Numbers,
    excluded: frozenset[int],
    scale: "_Scale",
  ):
    self._trie, self._k, self._numbers = trie, k, numbers
    self._excluded, self._scale = excluded, scale
    # Nodes that may be read next: what no title behind them exceeds, their
    # sums, and which of the nodes that have been read they follow.
    self._waiting = np.zeros(1, _WAITING)
    self._chosen = self._waiting[:0]
    self._titles: list[tuple[float, int]] = []
    self._read = 0

  def start(self, lead: int, depth: int) -> None:
    """Lets the root stand behind `lead` slots, on paths of so many."""
    self._lead = lead
    # The slots on the path of each node that has been read.
    self._paths = np.zeros((_CAPACITY, depth), np.int32)
    self._root = np.minimum(np.arange(depth, dtype=np.int32), max(lead - 1, 0))

  def choose(self, count: int) -> np.ndarray:
    """Returns the nodes to read next; none when the search is over."""
    waiting = self._waiting[self._waiting["bound"] >= self._least()]
    if len(waiting) > count:
      first = np.argpartition(-waiting["bound"], count)
      self._chosen, self._waiting = (
        waiting[first[:count]],
        waiting[first[count:]],
      )
    else:
      self._chosen, self._waiting = waiting, waiting[:0]
    return self._chosen["node"]

  def paths(self, slots: np.ndarray) -> np.ndarray:
    """Returns [nodes, depth]: the path to each chosen node, of these slots."""
    chosen, first = self._chosen, self._read
    while first + len(chosen) > len(self._paths):
      self._paths = np.concatenate([self._paths, np.zeros_like(self._paths)])
    paths = self._paths[chosen["parent"]]
    paths[chosen["node"] == 0] = self._root
    # What stands behind a node's own place is not read, but must be a slot.
    behind = (
      np.arange(paths.shape[1])
      >= (self._lead + self._trie.depths[chosen["node"]])[:, None]
    )
    paths = np.where(behind, slots[:, None], paths)
    self._paths[first : first + len(chosen)] = paths
    return paths

  def add(self, edges: np.ndarray, of: np.ndarray, log_p: np.ndarray) -> None:
    """Takes in what follows the nodes that were chosen.

    Args:
      edges: of these nodes, of the trie.
      of: which of the nodes each is of.
      log_p: of each.
    """
    log_p = log_p.astype(np.float64)
    check_finite(log_p)
    trie = self._trie
    sums = self._chosen["sum"][of] + log_p
    inner = trie.children[edges] >= 0
    reached = np.zeros(int(inner.sum()), _WAITING)
    reached["node"] = trie.children[edges[inner]]
    reached["sum"] = sums[inner]
    reached["parent"] = self._read + of[inner]
    reached["bound"] = self._scale.bounds(sums[inner], reached["node"])
    self._waiting = np.concatenate([self._waiting, reached])
    self._read += len(self._chosen)
    for edge, score in zip(edges[~inner], sums[~inner], strict=True):
      self._titles += [
        (-self._scale.score(score, number), number)
        for number in self._numbers.of(int(trie.titles[edge]))
        if number not in self._excluded
      ]
    self._titles = sorted(self._titles)[: self._k]

  def found(self) -> Found:
    """Returns what has been found."""
    return Found(
      [number for _, number in self._titles],
      [-score for score, _ in self._titles],
      self._read,
    )

  def _least(self) -> float:
    """Returns the score that a title must reach to be among the top."""
    if len(self._titles) < self._k:
      return -np.inf
    return -self._titles[-1][0]
