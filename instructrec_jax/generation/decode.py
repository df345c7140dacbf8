"""Decoding token by token, as pure functions: greedy, sampling, beam search.

A program runs over all instructions of a batch until each is done or a limit is
reached, and can go on from there: an answer is streamed by raising the limit.

Key to shapes. B: batch, K: sequences of an instruction, L: decoded length, S:
instruction length, V: vocabulary, N: nodes, E: edges of a trie.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from instructrec_jax.kernels.cpu import Spans
from instructrec_jax.scoring.title_trie import TitleTrie
from instructrec_jax.scoring.trie import START_ID
from instructrec_jax.seq2seq.attention import project_memory
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.layouts import (
  Examples,
  KeysValues,
  Memory,
  NextToken,
  Tokens,
)
from instructrec_jax.seq2seq.transformer import (
  Cache,
  Transformer,
  output_kernel,
)
from instructrec_jax.text.vocabulary import EOS_ID, PAD_ID
from instructrec_jax.xla_options import exact_products

# Block sizes of instructions, in eighths of the longest; see `Spans`.
_BLOCKS = (2, 4, 6, 8)


@struct.dataclass
class Read:
  """Instructions, as decoding reads them.

  Attributes:
    memory: [B, heads, head_dim, S] their keys and values, by layer.
    is_real: which of their tokens are not padding.
  """

  memory: tuple[KeysValues, ...]
  is_real: Bool[Array, "batch length"]


@struct.dataclass
class Allowed:
  """A trie of the only answers allowed.

  Attributes:
    first_edges: where the edges of each node begin; the last node has none.
    targets: the token of each edge.
    children: the node behind it; the last one where an answer ends.
    degree: the most edges of a node.
  """

  first_edges: Int[np.ndarray, " nodes+1"]
  targets: Int[np.ndarray, " edges"]
  children: Int[np.ndarray, " edges"]
  degree: int = struct.field(pytree_node=False)

  @classmethod
  def of(cls, trie: TitleTrie) -> "Allowed":
    """Returns the trie of a catalogue's titles."""
    nodes = len(trie.tokens)
    first = np.append(trie.first_edges, trie.first_edges[-1]).astype(np.int32)
    children = np.where(trie.children < 0, nodes, trie.children)
    degree = int(np.diff(first).max())
    return cls(first, trie.targets, children.astype(np.int32), degree)

  def edges(self, nodes: Int[Array, "..."]) -> tuple[Array, Array]:
    """Returns [..., degree] edges of nodes, and which are any."""
    edges = self.first_edges[nodes][..., None] + jnp.arange(self.degree)
    return edges, edges < self.first_edges[nodes + 1][..., None]

  def mask(
    self, nodes: Int[Array, "batch sequences"], size: int
  ) -> Bool[Array, "batch sequences vocab"]:
    """Returns which tokens may follow nodes."""
    edges, is_edge = self.edges(nodes)
    # Places that are no edge write to a token behind the last, which is cut.
    targets = jnp.where(is_edge, self.targets[edges], size)
    batch, count = (jnp.arange(n) for n in nodes.shape)
    none = jnp.zeros((*nodes.shape, size + 1), bool)
    found = none.at[batch[:, None, None], count[None, :, None], targets]
    return found.set(True)[..., :size]

  def follow(
    self, nodes: Int[Array, "..."], tokens: Int[Array, "..."]
  ) -> Int[Array, "..."]:
    """Returns the nodes behind nodes and the tokens that follow them."""
    edges, is_edge = self.edges(nodes)
    is_taken = is_edge & (self.targets[edges] == tokens[..., None])
    edge = jnp.take_along_axis(
      edges, is_taken.argmax(-1, keepdims=True), axis=-1
    )[..., 0]
    ended = len(self.first_edges) - 2
    return jnp.where(is_taken.any(-1), self.children[edge], ended)


@struct.dataclass
class State:
  """What has been decoded.

  Attributes:
    step: tokens of each sequence so far.
    tokens: [B, K, L] the sequences, each padded behind its end.
    sums: [B, K] their log-likelihoods.
    is_done: [B, K] which have ended.
    nodes: [B, K] where they are in the trie; 0s without one.
    keys: [B, K] of the random numbers of each.
    cache: keys and values of the decoder.
    ended: of a beam search.
  """

  step: Int[Array, ""]
  tokens: Int[Array, "batch sequences length"]
  sums: Float[Array, "batch sequences"]
  is_done: Bool[Array, "batch sequences"]
  nodes: Int[Array, "batch sequences"]
  keys: Any
  cache: tuple[KeysValues, ...]
  ended: "Ended | None" = None


@struct.dataclass
class Ended:
  """The best sequences of a beam search that have ended.

  Attributes:
    tokens: [B, K, L] as in `State`, the best first.
    sums: [B, K] their log-likelihoods.
    scores: [B, K] sums, divided for their lengths.
    is_any: [B, K] whether there is one.
    may_improve: [B] whether what has not ended yet may be better.
  """

  tokens: Int[Array, "batch sequences length"]
  sums: Float[Array, "batch sequences"]
  scores: Float[Array, "batch sequences"]
  is_any: Bool[Array, "batch sequences"]
  may_improve: Bool[Array, " batch"]


@exact_products
def read(params: Any, tokens_BxS: Tokens, *, config: T5Config) -> Read:
  """Encodes instructions, padded with 0."""
  encoded: Any = Transformer(config).apply(
    {"params": params}, tokens_BxS, enable_dropout=False, method="encode"
  )
  memory = project_memory(config, params, encoded)
  laid_out = jax.tree.map(lambda x: jnp.moveaxis(x, 1, -1), memory)
  return Read(laid_out, tokens_BxS > 0)


@exact_products
def read_end_to_end(
  params: Any,
  tokens_1xN: Tokens,
  lengths_B: Int[Array, " batch"],
  *,
  config: T5Config,
  length: int,
) -> Read:
  """Encodes instructions that follow each other, so that few are padding.

  For one CPU device, whose attention loops over examples; see `layouts`.

  Args:
    params: the model's.
    tokens_1xN: of all instructions, padded with 0 behind the last.
    lengths_B: of each; 0 is none.
    config: the model's sizes.
    length: of what is returned: at least that of the longest.
  """
  starts_B = jnp.cumsum(lengths_B) - lengths_B
  count = tokens_1xN.shape[1]
  longest = min(length, count)
  layout = Examples(
    Spans.sort(
      (starts_B, lengths_B),
      longest=(longest, longest),
      eighths=(_BLOCKS, _BLOCKS),
    )
  )
  encoded: Any = Transformer(config).apply(
    {"params": params}, tokens_1xN, layout, method="encode_states"
  )
  is_real_BxS = jnp.arange(length) < lengths_B[:, None]
  places_BxS = jnp.minimum(starts_B[:, None] + jnp.arange(length), count - 1)

  def laid_out(flat_1xNxHxK: jax.Array) -> jax.Array:
    rows = jnp.where(
      is_real_BxS[..., None, None], flat_1xNxHxK[0][places_BxS], 0
    )
    return jnp.moveaxis(rows, 1, -1)

  memory = project_memory(config, params, encoded)
  return Read(jax.tree.map(laid_out, memory), is_real_BxS)


def start(
  numbers_B: UInt32[Array, " batch"],
  is_any_B: Bool[Array, " batch"],
  seed: UInt32[Array, ""],
  *,
  config: T5Config,
  sequences: int,
  length: int,
  is_beam: bool,
) -> State:
  """Returns a state of nothing decoded.

  Args:
    numbers_B: of the instructions: random numbers are theirs, not the batch's.
    is_any_B: which of them are any, and not there to fill the batch.
    seed: of the random numbers.
    config: the model's sizes.
    sequences: of each instruction.
    length: the most tokens of a sequence.
    is_beam: whether they are beams, of which all but the first begin as
      impossible, since they would all be the same.
  """
  batch = len(numbers_B)
  shape = (batch, sequences)
  one = jnp.zeros(
    (batch * sequences, config.num_heads, config.head_dim, length), config.dtype
  )
  key_of = jax.vmap(jax.random.fold_in, (None, 0))
  keys_B = key_of(jax.random.key(seed), numbers_B)
  keys = jax.vmap(key_of, (0, None))(keys_B, jnp.arange(sequences))
  tokens = jnp.full((*shape, length), PAD_ID, jnp.int32)
  sums = jnp.zeros(shape)
  if not is_beam:
    ended = None
  else:
    sums = sums.at[:, 1:].set(-jnp.inf)
    lowest = jnp.full(shape, -jnp.inf)
    none = jnp.zeros(shape, bool)
    ended = Ended(tokens, lowest, lowest, none, is_any_B)
  return State(
    step=jnp.int32(0),
    tokens=tokens,
    sums=sums,
    is_done=jnp.broadcast_to(~is_any_B[:, None], shape),
    nodes=jnp.zeros(shape, jnp.int32),
    keys=keys,
    cache=((one, one),) * config.num_decoder_layers,
    ended=ended,
  )


@exact_products
def sample(
  params: Any,
  state: State,
  memory: Read,
  allowed: Allowed | None,
  limit: Int[Array, ""],
  temperature: Float[Array, ""],
  top_p: Float[Array, ""],
  *,
  config: T5Config,
  top_k: int,
  is_random: bool,
) -> State:
  """Decodes until all sequences have ended or have as many tokens as a limit.

  Args:
    params: the model's, of `parameters.for_inference`.
    state: of `start`, or of an earlier call.
    memory: of `read`.
    allowed: answers to choose from; all if None.
    limit: tokens of a sequence.
    temperature: divides logits.
    top_p: the least probability of the tokens that are drawn from.
    config: the model's sizes.
    top_k: tokens to draw from; 0: all.
    is_random: whether tokens are drawn; or the likeliest is taken.
  """

  def one_more(state: State) -> State:
    cache, logits = _next_logits(params, state, memory, config)
    log_p = jax.nn.log_softmax(logits)
    if allowed is not None:
      is_allowed = allowed.mask(state.nodes, logits.shape[-1])
      logits = jnp.where(is_allowed, logits, -jnp.inf)
    if is_random:
      keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(
        state.keys, state.step
      )
      # A sequence that ended may be where nothing is allowed.
      logits = jnp.where(state.is_done[..., None], 0, logits / temperature)
      logits = _within_top(logits, top_k, top_p)
      tokens = jax.vmap(jax.vmap(jax.random.categorical))(keys, logits)
    else:
      tokens = logits.argmax(-1)
    tokens = jnp.where(state.is_done, PAD_ID, tokens).astype(jnp.int32)
    gained = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
    nodes = state.nodes
    if allowed is not None:
      nodes = allowed.follow(nodes, tokens)
    return dataclasses.replace(
      state,
      step=state.step + 1,
      tokens=_written(state.tokens, tokens, state.step),
      sums=state.sums + jnp.where(state.is_done, 0, gained),
      is_done=state.is_done | (tokens == EOS_ID),
      nodes=nodes,
      cache=cache,
    )

  return jax.lax.while_loop(
    lambda state: (state.step < limit) & ~state.is_done.all(), one_more, state
  )


@exact_products
def beam_search(
  params: Any,
  state: State,
  memory: Read,
  allowed: Allowed | None,
  limit: Int[Array, ""],
  length_penalty: Float[Array, ""],
  *,
  config: T5Config,
  is_t5x: bool,
) -> State:
  """Searches until no better sequences can be found, or up to a limit.

  Sequences are compared by their log-likelihoods, divided for their lengths n,
  the end included. Hugging Face divides by n ** penalty, lets those end that
  are among the best K of their step, or reach the limit, and stops at a step
  whose best is worse than the worst that ended. T5X divides by ((5 + n) / 6)
  ** penalty (Wu et al., arXiv:1609.08144, eq. 14), lets all end that do, keeps
  what reaches the limit only if nothing has ended, and stops where not even
  the longest sequence of the best's log-likelihood would be better.

  Args:
    params: the model's, of `parameters.for_inference`.
    state: of `start`.
    memory: of `read`.
    allowed: answers to choose from; all if None.
    limit: tokens of a sequence.
    length_penalty: the exponent.
    config: the model's sizes.
    is_t5x: T5X's rules, not Hugging Face's.
  """
  count = state.tokens.shape[1]

  def divided(sums: jax.Array, length: jax.Array) -> jax.Array:
    # As a float: a whole number's power is a whole number's.
    length = jnp.asarray(length, jnp.float32)
    return sums / ((length + 5) / 6 if is_t5x else length) ** length_penalty

  def one_more(state: State) -> State:
    ended = state.ended
    assert ended is not None
    cache, logits = _next_logits(params, state, memory, config)
    log_p = jax.nn.log_softmax(logits)
    size = log_p.shape[-1]
    if allowed is not None:
      log_p = jnp.where(allowed.mask(state.nodes, size), log_p, -jnp.inf)
    sums = (log_p + state.sums[..., None]).reshape(len(log_p), -1)
    # Twice as many as beams, as all of the best may end.
    sums, best = jax.lax.top_k(sums, 2 * count)
    beams, tokens = best // size, (best % size).astype(jnp.int32)
    is_possible = sums > -jnp.inf
    length = state.step + 1
    ends = tokens == EOS_ID
    if not is_t5x:
      ends |= length >= limit
    sequences = _written(_of_beams(state.tokens, beams), tokens, state.step)
    # Of those that go on, the best.
    kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, sums), count)[1]
    kept_beams = _of_beams(beams, kept)
    of_cache = kept_beams + count * jnp.arange(len(kept))[:, None]
    nodes = state.nodes
    if allowed is not None:
      nodes = allowed.follow(
        _of_beams(nodes, kept_beams), _of_beams(tokens, kept)
      )
    running = jnp.where(_of_beams(ends, kept), -jnp.inf, _of_beams(sums, kept))
    # Of those that end now or have ended, the best.
    may_end = ends & is_possible & ended.may_improve[:, None]
    if not is_t5x:
      may_end &= jnp.arange(2 * count) < count
    scores = jnp.where(may_end, divided(sums, length), -jnp.inf)
    merged = [
      jnp.concatenate(pair, axis=1)
      for pair in (
        (ended.tokens, sequences),
        (ended.sums, sums),
        (ended.scores, scores),
        (ended.is_any, may_end),
      )
    ]
    order = jax.lax.top_k(merged[2], count)[1]
    ended_tokens, ended_sums, ended_scores, is_any = (
      _of_beams(each, order) for each in merged
    )
    bound = divided(running[:, 0], limit if is_t5x else length)
    worst = jnp.where(is_any, ended_scores, -jnp.inf).min(1)
    return dataclasses.replace(
      state,
      step=length,
      tokens=_of_beams(sequences, kept),
      sums=running,
      nodes=nodes,
      cache=jax.tree.map(lambda x: x[of_cache.reshape(-1)], cache),
      ended=Ended(
        ended_tokens,
        ended_sums,
        ended_scores,
        is_any,
        ended.may_improve & (bound > worst),
      ),
    )

  def goes_on(state: State) -> jax.Array:
    assert state.ended is not None
    return (state.step < limit) & state.ended.may_improve.any()

  state = jax.lax.while_loop(goes_on, one_more, state)
  ended = state.ended
  assert ended is not None
  if not is_t5x:
    return state
  # What has not ended counts where nothing has.
  none = ~ended.is_any.any(1)[:, None]
  best = Ended(
    jnp.where(none[..., None], state.tokens, ended.tokens),
    jnp.where(none, state.sums, ended.sums),
    jnp.where(none, divided(state.sums, limit), ended.scores),
    jnp.where(none, state.sums > -jnp.inf, ended.is_any),
    ended.may_improve,
  )
  return dataclasses.replace(state, ended=best)


def _next_logits(
  params: Any, state: State, memory: Read, config: T5Config
) -> tuple[tuple[KeysValues, ...], Float[Array, "batch sequences vocab"]]:
  """Returns the cache with each sequence's last token, and what may follow."""
  before = jax.lax.dynamic_index_in_dim(
    state.tokens, jnp.maximum(state.step - 1, 0), axis=-1, keepdims=False
  )
  last = jnp.where(state.step > 0, before, START_ID)
  decoded: Any = Transformer(config).apply(
    {"params": params},
    last,
    None,
    NextToken(state.step, length=state.tokens.shape[-1]),
    Memory(memory.is_real[:, None, None]),
    Cache(state.cache, memory.memory),
    method="decode_states",
  )
  hidden_BxKxD, cache = decoded
  kernel_DxV = output_kernel(config, params)
  return cache.tokens, hidden_BxKxD.astype(jnp.float32) @ kernel_DxV


def _within_top(
  logits: Float[Array, "... vocab"], top_k: int, top_p: Float[Array, ""]
) -> Float[Array, "... vocab"]:
  """Returns logits, without those outside of the top k and the top p.

  The top p are the fewest of the likeliest tokens whose probabilities sum to p
  or more; tokens of the same probability are all in it or all out.
  """
  if top_k:
    least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  p = jax.nn.softmax(logits)
  # The bits of positive floats are in the order of their values: of the
  # thresholds above which less than top_p lies, 31 halvings find the least.
  bits = jax.lax.bitcast_convert_type(p, jnp.int32)
  high = bits.max(-1, keepdims=True)

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    mass = jnp.where(bits > middle, p, 0).sum(-1, keepdims=True)
    is_enough = mass >= top_p
    return jnp.where(is_enough, middle, low), jnp.where(is_enough, high, middle)

  low = jnp.full_like(high, -1)
  _, least = jax.lax.fori_loop(0, 31, halve, (low, high))
  # Rounding must not leave out what a top_p of 1 keeps.
  return jnp.where((bits >= least) | (top_p >= 1), logits, -jnp.inf)


def _written(
  sequences: Int[Array, "batch sequences length"],
  tokens: Int[Array, "batch sequences"],
  step: Int[Array, ""],
) -> Int[Array, "batch sequences length"]:
  return jax.lax.dynamic_update_index_in_dim(sequences, tokens, step, axis=-1)


def _of_beams(values: jax.Array, beams: Int[Array, "batch k"]) -> jax.Array:
  """Returns [B, k, ...]: the values of these beams."""
  extra = (1,) * (values.ndim - 2)
  return jnp.take_along_axis(values, beams.reshape(*beams.shape, *extra), 1)
