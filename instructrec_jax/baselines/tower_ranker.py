"""Two towers as a ranker: what is asked, and what is offered.

Key to shapes. B: searches, K: negatives, I: items, D: width, L: words of a text
or the width of its given vector.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int32

from instructrec_jax.baselines import kept_weights
from instructrec_jax.baselines.hard_negatives import top_items
from instructrec_jax.baselines.searches import (
  NOBODY,
  Searches,
  recent_tokens,
)
from instructrec_jax.baselines.sequence_batches import left_padded
from instructrec_jax.baselines.sequence_validation import ndcg_at_10, ranks_of
from instructrec_jax.baselines.text_reader import (
  SentenceReader,
  TextReader,
  WordReader,
  texts_hash,
)
from instructrec_jax.baselines.tower_layers import Questions, Sizes
from instructrec_jax.baselines.tower_loss import Batch, SearchLoss
from instructrec_jax.baselines.tower_options import TowerOptions
from instructrec_jax.baselines.trainer import Params, fit
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import Sequences
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest

# Rows that are read at once.
_ROWS = 256
# Searches that validate: all would cost as much time as training does.
_VALIDATED = 5_000


class TowerRanker(abc.ABC):
  """Ranks by a question's vector times the candidates', plus their bias.

  Items are their titles here, as they are for the model: not their
  categories, which searches are made of (paper section 2.2.1). It is a
  `records.Ranker` and a `hard_negatives.Matcher`.
  """

  name: ClassVar[str]

  def __init__(
    self,
    *,
    titles: Sequence[str],
    reader: TextReader,
    towers: nn.Module,
    options: TowerOptions,
  ):
    """Makes a ranker that has no weights yet; see `fit_searches`."""
    self.params: Params = {}
    self.report: dict[str, Any] = {}
    self.options = options
    self._reader = reader
    self._towers = towers
    self._item_text = jnp.asarray(reader.read(titles))

  @staticmethod
  @abc.abstractmethod
  def towers(sizes: Sizes, options: TowerOptions) -> nn.Module:
    """Returns the towers: a hashable module with two methods.

    `questions(questions, item_text, training)` returns vectors [B, D], and
    `items(items, item_text, training)` vectors [B, D] and biases [B];
    `item_text` [I, L] is what is read of every title.
    """

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
      training: what is learned; only their items are told from each other.
      validation: what decides when it has been learned well enough.
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
    titles = [item.title for item in folder.items]
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
    ranker.params, ranker.report = kept_weights.kept(
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

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    vectors_NxD = self._read(
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
    return [
      # Not a matrix product: its sums would depend on a candidate's place.
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
      vectors = self._read(
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
    return self._read_items(self.params)

  def _read_items(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Returns all items' vectors [I, D] and biases [I]."""
    count = len(self._item_text)
    vectors, biases = [], []
    for start in range(0, count, _ROWS):
      # The last block is read in full as well, as of the last item.
      items = np.minimum(np.arange(start, start + _ROWS), count - 1)
      vector, bias = _read_items(
        params, items, self._item_text, towers=self._towers
      )
      vectors.append(np.asarray(vector))
      biases.append(np.asarray(bias))
    return np.concatenate(vectors)[:count], np.concatenate(biases)[:count]

  def _read(
    self,
    params: Params,
    *,
    queries: Sequence[str],
    tokens: Int32[np.ndarray, "n history"],
    users: Int32[np.ndarray, " n"],
  ) -> Float[np.ndarray, "n D"]:
    """Returns a vector a question."""
    count = len(users)
    text = self._reader.read(queries)
    vectors = [np.empty((0, self.options.width), np.float32)]
    for start in range(0, count, _ROWS):
      # Blocks of one size: a question's neighbours make no difference.
      rows = np.minimum(np.arange(start, start + _ROWS), count - 1)
      questions = _to_questions(text[rows], tokens[rows], users[rows])
      read = _read_questions(
        params, questions, self._item_text, towers=self._towers
      )
      vectors.append(np.asarray(read))
    return np.concatenate(vectors)[:count]

  def _train(
    self, sequences: Sequences, training: Searches, validation: Searches
  ) -> tuple[Params, dict[str, Any]]:
    options = self.options
    pool = np.unique(training.items).astype(np.int32)
    fitted = fit(
      options.training,
      first=functools.partial(
        _first_params,
        questions=self._questions(validation.take(np.arange(1)), sequences),
        item_text=self._item_text,
        towers=self._towers,
      ),
      loss=SearchLoss(self._towers, options.negatives),
      batches=functools.partial(
        self._batches, training, sequences, jnp.asarray(pool)
      ),
      validate=functools.partial(
        self._validate, self._drawn(validation), sequences
      ),
      label=self.name,
    )
    return fitted.params, fitted.report

  def _drawn(self, searches: Searches) -> Searches:
    rng = np.random.default_rng(self.options.training.seed)
    return searches.take(rng.permutation(len(searches))[:_VALIDATED])

  def _batches(
    self,
    searches: Searches,
    sequences: Sequences,
    pool: Array,
    rng: np.random.Generator,
  ) -> Iterator[Batch]:
    options = self.options
    rows = rng.permutation(len(searches))[: options.searches_per_epoch]
    # Batches of one size, the last filled up with searches of the first.
    rows = np.resize(rows, -(-len(rows) // options.batch) * options.batch)
    for block in rows.reshape(-1, options.batch):
      chosen = searches.take(block)
      yield Batch(
        questions=self._questions(chosen, sequences),
        items=chosen.items,
        item_text=self._item_text,
        pool=pool,
      )

  def _questions(self, searches: Searches, sequences: Sequences) -> Questions:
    return _to_questions(
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
    """Returns NDCG@10 in the whole catalogue but the user's history."""
    vectors_NxD = self._read(
      params,
      queries=searches.queries,
      tokens=self._tokens(searches, sequences),
      users=searches.users,
    )
    table_IxD, bias_I = self._read_items(params)
    ranks = []
    for start in range(0, len(searches), _ROWS):
      block = slice(start, start + _ROWS)
      scores = vectors_NxD[block] @ table_IxD.T + bias_I
      for row, user, position in zip(
        scores, searches.users[block], searches.positions[block], strict=True
      ):
        if user != NOBODY:
          row[sequences.user(user)[:position]] = -np.inf
      ranks.append(ranks_of(scores, searches.items[block]))
    return ndcg_at_10(np.concatenate(ranks))


def _to_questions(
  text: np.ndarray, tokens: np.ndarray, users: np.ndarray
) -> Questions:
  return Questions(
    jnp.asarray(text), jnp.asarray(tokens), jnp.asarray(users + 1)
  )


@functools.partial(jax.jit, static_argnames="towers")
def _first_params(
  key: Array, *, questions: Questions, item_text: Array, towers: nn.Module
) -> Params:
  def both(module: Any) -> None:
    module.questions(questions, item_text)
    module.items(jnp.zeros(1, jnp.int32), item_text)

  return dict(towers.init(key, method=both)["params"])


@functools.partial(jax.jit, static_argnames="towers")
def _read_questions(
  params: Params, questions: Questions, item_text: Array, *, towers: nn.Module
) -> Any:
  return towers.apply(
    {"params": params}, questions, item_text, method="questions"
  )


@functools.partial(jax.jit, static_argnames="towers")
def _read_items(
  params: Params, items: Array, item_text: Array, *, towers: nn.Module
) -> Any:
  return towers.apply({"params": params}, items, item_text, method="items")
