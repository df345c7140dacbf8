"""A ranker of two towers: one encodes queries, the other items.

Key to shapes. B: searches, K: negatives, I: items, D: width, L: words of a text
or the width of its given vector.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int32

from instructrec_jax.baselines import kept_weights
from instructrec_jax.baselines.hard_negatives import top_items
from instructrec_jax.baselines.losses import sampled_cross_entropy
from instructrec_jax.baselines.searches import (
  NOBODY,
  Searches,
  recent_tokens,
)
from instructrec_jax.baselines.sequence_batches import left_padded
from instructrec_jax.baselines.text_reader import (
  SentenceReader,
  TextReader,
  WordReader,
  texts_hash,
)
from instructrec_jax.baselines.tower_layers import Queries, Sizes
from instructrec_jax.baselines.trainer import (
  VALIDATION_LIMIT,
  FitOptions,
  Params,
  catalogue_ndcg,
  count_parameters,
  fit,
  program_flops,
)
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.render import display_titles
from instructrec_jax.records import RankingRequest

# Queries or items that are encoded at once.
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class TowerOptions:
  """The sizes of a tower ranker, and how it is trained.

  Attributes:
    width: of the vectors that are compared.
    dropout: rate in hidden layers, in training.
    history: how many of a user's last items are read.
    batch: searches a step.
    negatives: uniform items a step, shared by its searches; all items if there
      are no more.
    searches_per_epoch: at most.
    text_encoder: a sentence-transformers model, a folder or a name, whose
      vectors represent texts; None learns word vectors.
    training: how long to train, and the learning rate.
  """

  width: int = 64
  dropout: float = 0.5
  history: int = 20
  batch: int = 256
  negatives: int = 1024
  searches_per_epoch: int = 100_000
  text_encoder: str | None = None
  training: FitOptions = FitOptions(max_epochs=60, patience=4)


class Batch(NamedTuple):
  """A step's searches.

  Attributes:
    queries: B rows.
    items: [B], their targets.
    item_text: [I, L], every title, as the `TextReader` reads it.
    pool: item numbers that negatives are sampled from.
  """

  queries: Queries
  items: Array | np.ndarray
  item_text: Array
  pool: Array


class TowerRanker:
  """Ranks by a query's vector times the candidates', plus their bias.

  Items are represented by their titles, as for the model, not by their
  categories, which queries are made of (paper section 2.2.1). It is a
  `records.Ranker` and a `hard_negatives.Matcher`.

  Attributes:
    name: of the ranker, and of the folder of its weights.
    towers: returns a hashable module with two methods: `queries(queries,
      item_text, training)` returns vectors [B, D], `items(items, item_text,
      training)` vectors [B, D] and biases [B]; `item_text` [I, L] is every
      title, as the `TextReader` reads it.
  """

  name: ClassVar[str]
  towers: ClassVar[Callable[[Sizes, TowerOptions], nn.Module]]

  def __init__(
    self,
    *,
    titles: Sequence[str],
    reader: TextReader,
    towers: nn.Module,
    options: TowerOptions,
  ):
    """Makes a ranker without weights; see `fit_searches`."""
    self.params: Params = {}
    self.report: dict[str, Any] = {}
    # Of all that was scored so far, and of one query; the catalogue is encoded
    # once for all requests.
    self.flops = 0.0
    self._query_flops: float | None = None
    self.options = options
    self._reader = reader
    self._towers = towers
    self._item_text = jnp.asarray(reader.read(titles))

  @classmethod
  def fit_searches(
    cls,
    folder: DatasetFolder,
    *,
    training: Searches,
    validation: Searches,
    options: TowerOptions | None = None,
  ) -> Self:
    """Returns a ranker trained on searches.

    Weights are kept in `baselines/NAME` of the folder, and used again as long
    as neither data nor options change.

    Args:
      folder: the dataset.
      training: to learn from; negatives are sampled from their items.
      validation: decides when to stop.
      options: other than the ranker's own.

    Raises:
      InputError: there is nothing to train or to validate on, or no such text
        encoder.
    """
    options = options or TowerOptions()
    for searches, use in ((training, "train"), (validation, "validate")):
      if not len(searches):
        raise InputError(
          f"{folder.path}: there is nothing to {use} {cls.name} on: it learns "
          "from searches, which are made of items' categories and of what "
          "`instructrec annotate` writes."
        )
    titles = display_titles(folder.items)
    texts = [*titles, *training.queries]
    reader = (
      WordReader(texts)
      if options.text_encoder is None
      else SentenceReader(options.text_encoder)
    )
    sizes = Sizes(len(titles), len(folder.sequences), reader.words)
    ranker = cls(
      titles=titles,
      reader=reader,
      towers=cls.towers(sizes, options),
      options=options,
    )
    ranker.params, ranker.report = kept_weights.load_or_fit(
      folder,
      cls.name,
      options={
        **dataclasses.asdict(options),
        "texts_sha256": texts_hash(texts, validation.queries),
      },
      fit=functools.partial(
        ranker._train, folder.sequences, training, validation
      ),
    )
    return ranker

  @property
  def num_parameters(self) -> int:
    """How many numbers its weights are, and its text encoder's."""
    return count_parameters(self.params) + self._reader.num_parameters

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    vectors_NxD = self._encode(
      self.params,
      queries=[request.query for request in requests],
      tokens=left_padded(
        [np.array(request.history_items, np.int32) + 1 for request in requests],
        rows=len(requests),
        length=self.options.history,
      ),
      users=np.array(
        [NOBODY if r.user is None else r.user for r in requests], np.int32
      ),
    )
    table_IxD, bias_I = self._catalogue
    candidates = sum(len(request.candidate_items) for request in requests)
    self.flops += 2.0 * candidates * self.options.width
    return [
      # Not a matrix product, whose sums would depend on a candidate's position.
      np.einsum("cd,d->c", table_IxD[items], vector) + bias_I[items]
      for vector, items in zip(
        vectors_NxD,
        [np.array(r.candidate_items, np.int64) for r in requests],
        strict=True,
      )
    ]

  def retrieve(
    self,
    histories: Sequence[np.ndarray],
    *,
    users: Int32[np.ndarray, " n"],
    count: int,
    exclude: Sequence[np.ndarray],
  ) -> Int32[np.ndarray, "n count"]:
    """Returns the best of all items for each history; see `Matcher`."""
    table_IxD, bias_I = self._catalogue
    found = [np.empty((0, count), np.int32)]
    for start in range(0, len(histories), _ROWS):
      block = slice(start, start + _ROWS)
      tokens = [np.asarray(h, np.int32) + 1 for h in histories[block]]
      vectors = self._encode(
        self.params,
        queries=[""] * len(tokens),
        tokens=left_padded(
          tokens, rows=len(tokens), length=self.options.history
        ),
        users=users[block],
      )
      scores_NxI = vectors @ table_IxD.T + bias_I
      found.append(top_items(scores_NxI, count=count, exclude=exclude[block]))
    return np.concatenate(found)

  @functools.cached_property
  def _catalogue(self) -> tuple[np.ndarray, np.ndarray]:
    return self._encode_items(self.params)

  def _encode_items(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Returns all items' vectors [I, D] and biases [I]."""
    count = len(self._item_text)
    vectors, biases = [], []
    for start in range(0, count, _ROWS):
      # The last block is padded with the last item.
      items = np.minimum(np.arange(start, start + _ROWS), count - 1)
      vector, bias = _encode_items(
        params, items, self._item_text, towers=self._towers
      )
      vectors.append(np.asarray(vector))
      biases.append(np.asarray(bias))
    return np.concatenate(vectors)[:count], np.concatenate(biases)[:count]

  def _encode(
    self,
    params: Params,
    *,
    queries: Sequence[str],
    tokens: Int32[np.ndarray, "n history"],
    users: Int32[np.ndarray, " n"],
  ) -> Float[np.ndarray, "n D"]:
    """Returns a vector a query."""
    count = len(users)
    text = self._reader.read(queries)
    vectors = [np.empty((0, self.options.width), np.float32)]
    for start in range(0, count, _ROWS):
      # Blocks of one size: a result does not depend on the other queries.
      rows = np.minimum(np.arange(start, start + _ROWS), count - 1)
      block = _to_device(text[rows], tokens[rows], users[rows])
      encoded = _encode_queries(
        params, block, self._item_text, towers=self._towers
      )
      if self._query_flops is None:
        lowered = _encode_queries.lower(
          params, block, self._item_text, towers=self._towers
        )
        self._query_flops = program_flops(lowered) / _ROWS
      vectors.append(np.asarray(encoded))
    self.flops += count * (self._query_flops or 0.0)
    return np.concatenate(vectors)[:count]

  def _train(
    self, sequences: Sequences, training: Searches, validation: Searches
  ) -> tuple[Params, dict[str, Any]]:
    options = self.options
    rng = np.random.default_rng(options.training.seed)
    rows = rng.permutation(len(validation))[:VALIDATION_LIMIT]
    fitted = fit(
      options.training,
      first=functools.partial(
        _first_params,
        queries=self._queries(validation.take(np.arange(1)), sequences),
        item_text=self._item_text,
        towers=self._towers,
      ),
      loss=_SearchLoss(self._towers, options.negatives),
      batches=functools.partial(self._batches, training, sequences),
      validate=functools.partial(
        self._validate, validation.take(rows), sequences
      ),
      label=self.name,
    )
    return fitted.params, fitted.report

  def _batches(
    self, searches: Searches, sequences: Sequences, rng: np.random.Generator
  ) -> Iterator[Batch]:
    options = self.options
    pool = jnp.asarray(np.unique(searches.items).astype(np.int32))
    rows = rng.permutation(len(searches))[: options.searches_per_epoch]
    # Batches of one size, the last padded with searches of the first.
    rows = np.resize(rows, -(-len(rows) // options.batch) * options.batch)
    for block in rows.reshape(-1, options.batch):
      chosen = searches.take(block)
      yield Batch(
        queries=self._queries(chosen, sequences),
        items=chosen.items,
        item_text=self._item_text,
        pool=pool,
      )

  def _queries(self, searches: Searches, sequences: Sequences) -> Queries:
    return _to_device(
      self._reader.read(searches.queries),
      self._tokens(searches, sequences),
      searches.users,
    )

  def _tokens(
    self, searches: Searches, sequences: Sequences
  ) -> Int32[np.ndarray, "n history"]:
    return recent_tokens(
      sequences,
      users=searches.users,
      positions=searches.positions,
      length=self.options.history,
    )

  def _validate(
    self, searches: Searches, sequences: Sequences, params: Params
  ) -> float:
    """Returns NDCG@10 in the whole catalogue without the user's history."""
    vectors_NxD = self._encode(
      params,
      queries=searches.queries,
      tokens=self._tokens(searches, sequences),
      users=searches.users,
    )
    table_IxD, bias_I = self._encode_items(params)
    return catalogue_ndcg(
      vectors_NxD,
      table_IxD,
      bias_I,
      histories=[
        np.empty(0, np.int32)
        if user == NOBODY
        else sequences.user(user)[:position]
        for user, position in zip(
          searches.users, searches.positions, strict=True
        )
      ],
      targets=searches.items,
    )


@dataclasses.dataclass(frozen=True)
class _SearchLoss:
  """Cross-entropy of the target among sampled negatives.

  Attributes:
    towers: of `TowerRanker.towers`.
    negatives: how many are sampled from the pool; all of it if it has no more.
  """

  towers: nn.Module
  negatives: int

  def __call__(self, params: Params, batch: Batch, key: Array) -> Array:
    """Returns the mean over a batch; the key is of draws and dropout."""
    draws_key, queries_key, items_key = jax.random.split(key, 3)
    pool = batch.pool
    drawn_K = pool
    if len(pool) > self.negatives:
      drawn_K = jax.random.choice(draws_key, pool, (self.negatives,))

    def encode(method: str, inputs: Any, key: Array) -> Any:
      return self.towers.apply(
        {"params": params},
        inputs,
        batch.item_text,
        training=True,
        method=method,
        rngs={"dropout": key},
      )

    queries_BxD = encode("queries", batch.queries, queries_key)
    items = jnp.concatenate([jnp.asarray(batch.items), drawn_K])
    vectors, biases = encode("items", items, items_key)
    count = len(batch.items)
    target_B = (queries_BxD * vectors[:count]).sum(1) + biases[:count]
    return sampled_cross_entropy(
      target_B,
      queries_BxD @ vectors[count:].T + biases[count:],
      is_target_PxK=jnp.asarray(batch.items)[:, None] == drawn_K,
      weight=len(pool) / len(drawn_K),
    ).mean()


def _to_device(
  text: np.ndarray, tokens: np.ndarray, users: np.ndarray
) -> Queries:
  return Queries(jnp.asarray(text), jnp.asarray(tokens), jnp.asarray(users + 1))


@functools.partial(jax.jit, static_argnames="towers")
def _first_params(
  key: Array, *, queries: Queries, item_text: Array, towers: nn.Module
) -> Params:
  def both(module: Any) -> None:
    module.queries(queries, item_text)
    module.items(jnp.zeros(1, jnp.int32), item_text)

  return dict(towers.init(key, method=both)["params"])


@functools.partial(jax.jit, static_argnames="towers")
def _encode_queries(
  params: Params, queries: Queries, item_text: Array, *, towers: nn.Module
) -> Any:
  return towers.apply({"params": params}, queries, item_text, method="queries")


@functools.partial(jax.jit, static_argnames="towers")
def _encode_items(
  params: Params, items: Array, item_text: Array, *, towers: nn.Module
) -> Any:
  return towers.apply({"params": params}, items, item_text, method="items")
