"""The exact top of a whole catalogue, without scoring all of it.

What a title begins with bounds its score from above: its log-likelihood only
falls with each further token, and what the catalogue's prior adds to it is
known of each title beforehand: a beginning adds the most of any title below it.
Nodes of the trie of all titles are read in the
order of their bounds, until no bound reaches the K-th best title found. No
title is missed, and none is invented, as beam search may do.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

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
    numbers: dict[bytes, list[int]] = {}
    for number, title in enumerate(titles):
      numbers.setdefault(encode(title), []).append(number)
    distinct = sorted(numbers)
    self._numbers = [numbers[ids] for ids in distinct]
    self.trie = TitleTrie(distinct)
    self._batch, self._nodes = batch, nodes
    mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
    self._scale = _Scale(self.trie, len(titles))
    if self.normalisation is Normalisation.MEAN:
      lengths = np.array(list(map(len, distinct))) // ID_BYTES
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
    variables = jax.eval_shape(lambda: parameters.initial_variables(config))
    shardings = mesh_lib.parameter_shardings(
      variables["params_axes"], mesh, shapes=variables["params"]
    )
    self._params = mesh_lib.to_devices(params, shardings)
    self._config = config
    self._encode = jax.jit(
      functools.partial(encode_memory, config=config),
      compiler_options=compiler_options(),
    )
    self._decode = jax.jit(
      functools.partial(decode_nodes, config=config),
      donate_argnums=1,
      # Each process reads the probabilities, and only its own devices.
      out_shardings=(None, mesh_lib.replicated(mesh)),
      compiler_options=compiler_options(),
    )

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
    starts = range(0, len(order), self._batch)
    # A single batch is over before a bar would tell anything.
    for start in progress(
      starts, "search", unit="batch", shown=len(starts) > 1
    ):
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
      self._run(
        searches,
        [ids[number] for number in members],
        [[START_ID, *before[number]] for number in members],
      )
      for number, search in zip(members, searches, strict=True):
        found[number] = search.found()
    return [one for one in found if one is not None]

  def _run(
    self,
    searches: "list[_Search]",
    ids: list[list[int]],
    before: list[list[int]],
  ) -> None:
    """Runs searches of instructions, behind what each answer begins with."""
    trie, width = self.trie, self._nodes
    length = next(n for n in _LENGTHS if max(map(len, ids)) <= n)
    tokens = np.zeros((self._batch, length), np.int32)
    for row, of_row in zip(tokens, ids, strict=False):
      row[: len(of_row)] = of_row
    memory = self._encode(self._params, tokens)
    slots_of = np.zeros((len(searches), len(trie.tokens)), np.int32)
    # The last token before the titles stands at the root, those before it on
    # every path, in the first slots.
    leads = np.array([len(tokens) - 1 for tokens in before])
    depth = trie.depth + -(-int(leads.max()) // _SAID) * _SAID
    places = np.arange(depth)
    # The last slot takes what is padding.
    capacity, used = _CAPACITY, int(leads.max())
    while used + width >= capacity:
      capacity *= 2
    cache = empty_cache(self._config, self._batch, capacity)
    for first in range(0, used, width):
      nodes, slots, paths = self._padding(capacity, depth)
      depths = np.zeros_like(nodes)
      for number, (of_answer, lead) in enumerate(
        zip(before, leads.tolist(), strict=True)
      ):
        here = np.arange(first, min(first + width, lead))
        nodes[number, : len(here)] = of_answer[first : first + len(here)]
        slots[number, : len(here)] = depths[number, : len(here)] = here
        paths[number, : len(here)] = np.minimum(places, here[:, None])
      layout = TriePaths(*map(jnp.asarray, (slots, paths, depths)))
      cache, _ = self._decode(
        self._params, cache, memory, tokens > 0, nodes, layout
      )
    while any(chosen := [search.choose(width) for search in searches]):
      while used + width >= capacity:
        grown = ((0, 0), (0, capacity), (0, 0), (0, 0))
        cache = jax.tree.map(lambda x, pad=grown: jnp.pad(x, pad), cache)
        capacity *= 2
      nodes, slots, paths = self._padding(capacity, depth)
      depths, read = np.zeros_like(nodes), np.zeros_like(nodes)
      for number, of_search in enumerate(chosen):
        here = slice(0, len(of_search))
        nodes[number, here] = of_search
        slots[number, here] = used + np.arange(len(of_search))
        slots_of[number, of_search] = slots[number, here]
        of_nodes, lead = nodes[number, here], int(leads[number])
        depths[number, here] = lead + trie.depths[of_nodes]
        read[number, here] = np.where(
          of_nodes > 0, trie.tokens[of_nodes], before[number][-1]
        )
        own = slots_of[number][trie.paths(of_nodes)]
        paths[number, here, :lead] = places[:lead]
        paths[number, here, lead : lead + trie.depth] = own
      used += max(map(len, chosen))
      layout = TriePaths(*map(jnp.asarray, (slots, paths, depths)))
      cache, log_p = self._decode(
        self._params,
        cache,
        memory,
        tokens > 0,
        read,
        layout,
      )
      log_p = np.asarray(log_p)
      for search, of_search, values in zip(
        searches, chosen, log_p, strict=False
      ):
        search.add(np.array(of_search, int), values)

  def _padding(self, capacity: int, depth: int) -> tuple[np.ndarray, ...]:
    """Returns nodes, slots and paths of a step that decodes nothing."""
    shape = (self._batch, self._nodes)
    return (
      np.zeros(shape, np.int32),
      np.full(shape, capacity - 1, np.int32),
      np.full((*shape, depth), capacity - 1, np.int32),
    )


@exact_products
def encode_memory(
  params: Any, tokens_BxT: Tokens, *, config: T5Config
) -> tuple[KeysValues, ...]:
  """Encodes instructions, padded with 0; returns the decoder's keys and values.

  Args:
    params: the model's.
    tokens_BxT: of instructions.
    config: the model's sizes.
  """
  encoded: Any = Transformer(config).apply(
    {"params": params}, tokens_BxT, enable_dropout=False, method="encode"
  )
  return project_memory(config, params, encoded)


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
) -> tuple[tuple[KeysValues, ...], Float[Array, "batch nodes vocab"]]:
  """Decodes a few trie nodes of each instruction.

  Args:
    params: the model's.
    tokens: cached keys and values of nodes, of `empty_cache` at first.
    memory: of `encode_memory`.
    is_real_BxT: which tokens of the instructions are not padding.
    tokens_BxM: the token of each node.
    layout: where nodes are in the cache.
    config: the model's sizes.

  Returns:
    The cache with these nodes in it, and log P of what follows each node.
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
  kernel_DxV = output_kernel(config, params)
  logits_BxMxV = hidden_BxMxD.astype(jnp.float32) @ kernel_DxV
  return cache.tokens, jax.nn.log_softmax(logits_BxMxV)


def empty_cache(
  config: T5Config, batch: int, capacity: int
) -> tuple[KeysValues, ...]:
  """Returns zeros [batch, capacity, heads, head_dim] for each decoder layer."""
  # Of NumPy, so that it may go to the devices of any mesh.
  shape = (batch, capacity, config.num_heads, config.head_dim)
  zeros: Any = np.zeros(shape).astype(config.dtype)
  return ((zeros, zeros),) * config.num_decoder_layers


class _Scale:
  """What a title's score is of its sum, and the bound of a beginning's.

  A score is the sum of a title, divided and added to; a sum is negative, so
  the largest divisor and the largest addition of the titles below make a bound.
  """

  def __init__(self, trie: TitleTrie, titles: int):
    """Leaves sums as they are."""
    self._trie = trie
    self._divisors, self._added = np.ones(titles), np.zeros(titles)
    nodes = len(trie.tokens)
    self._most_divisors, self._most_added = np.ones(nodes), np.zeros(nodes)

  def divide(self, lengths: np.ndarray, numbers: list[list[int]]) -> None:
    """Divides by the lengths of distinct titles, which have these numbers."""
    for length, of_title in zip(lengths, numbers, strict=True):
      self._divisors[of_title] = length
    self._most_divisors = self._trie.largest(lengths)

  def add(self, offsets: np.ndarray, numbers: list[list[int]]) -> None:
    """Adds an offset to each title, by its number."""
    self._added = offsets
    most = np.array([offsets[of_title].max() for of_title in numbers])
    self._most_added = self._trie.largest(most)

  def score(self, log_p: float, number: int) -> float:
    """Returns a title's score."""
    return log_p / self._divisors[number] + self._added[number]

  def bounds(self, log_p: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Returns what no title behind a node exceeds."""
    return log_p / self._most_divisors[nodes] + self._most_added[nodes]


class _Search:
  """What is known of the catalogue for one instruction."""

  def __init__(
    self,
    trie: TitleTrie,
    k: int,
    numbers: list[list[int]],
    excluded: frozenset[int],
    scale: "_Scale",
  ):
    self._trie, self._k, self._numbers = trie, k, numbers
    self._excluded, self._scale = excluded, scale
    self._sums = np.zeros(len(trie.tokens))
    # Nodes that may be read next, and what no title behind them exceeds.
    self._nodes = np.zeros(1, int)
    self._bounds = np.zeros(1)
    self._titles: list[tuple[float, int]] = []
    self._read = 0

  def choose(self, count: int) -> list[int]:
    """Returns the nodes to read next; none when the search is over."""
    kept = self._bounds >= self._least()
    self._nodes, self._bounds = self._nodes[kept], self._bounds[kept]
    if len(self._nodes) <= count:
      chosen, self._nodes = self._nodes, self._nodes[:0]
      self._bounds = self._bounds[:0]
      return chosen.tolist()
    first = np.argpartition(-self._bounds, count)
    chosen, left = self._nodes[first[:count]], first[count:]
    self._nodes, self._bounds = self._nodes[left], self._bounds[left]
    return chosen.tolist()

  def add(self, nodes: np.ndarray, log_p_MxV: np.ndarray) -> None:
    """Takes in what follows nodes that have been read."""
    if not len(nodes):
      return
    self._read += len(nodes)
    trie = self._trie
    edges, of = trie.edges_of(nodes)
    log_p = log_p_MxV[of, trie.targets[edges]].astype(np.float64)
    check_finite(log_p)
    sums = self._sums[nodes[of]] + log_p
    inner = trie.children[edges] >= 0
    children = trie.children[edges[inner]]
    self._sums[children] = sums[inner]
    bounds = self._scale.bounds(sums[inner], children)
    self._nodes = np.concatenate([self._nodes, children])
    self._bounds = np.concatenate([self._bounds, bounds])
    for edge, score in zip(edges[~inner], sums[~inner], strict=True):
      self._titles += [
        (-self._scale.score(score, number), number)
        for number in self._numbers[trie.titles[edge]]
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
