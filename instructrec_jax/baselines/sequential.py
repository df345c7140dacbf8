"""Sequential recommenders over item numbers: SASRec and BERT4Rec.

Both encode a history with `sequence_encoder`, score an item by the product of
its vector with the encoder's output, and are fitted once, their weights kept in
the dataset folder.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.baselines import kept_weights
from instructrec_jax.baselines.losses import Loss, check_loss, item_loss
from instructrec_jax.baselines.sequence_batches import (
  PADDING,
  Batch,
  Example,
  left_padded,
  pack,
)
from instructrec_jax.baselines.sequence_encoder import (
  EncoderConfig,
  SequenceEncoder,
)
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
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest

# Histories that are encoded at once.
_ROWS = 256
# Histories are padded to one of these lengths, or to the model's own.
_LENGTHS = (8, 16, 32)


@dataclasses.dataclass(frozen=True)
class TrainerOptions(FitOptions):
  """How to train; see `trainer.FitOptions` for the rest.

  Attributes:
    loss: see `losses.item_loss`.
    negatives: of the loss "sampled".
    tokens_per_step: of a minibatch of users, padding included.
  """

  loss: Loss = "full"
  negatives: int = 1024
  tokens_per_step: int = 2000

  def __post_init__(self):
    """Checks the loss's name."""
    check_loss(self.loss)


@dataclasses.dataclass(frozen=True)
class SequenceOptions:
  """The sizes of a sequential recommender, and how it is trained.

  Attributes:
    width: of the item vectors.
    layers: of the encoder.
    heads: of its attention.
    dropout: rate after every layer, in training.
    max_length: how many of a user's last items are read.
    training: how to train.
  """

  width: int = 64
  layers: int = 2
  heads: int = 2
  dropout: float = 0.5
  max_length: int = 50
  training: TrainerOptions = TrainerOptions()


class SequenceRanker(abc.ABC):
  """Ranks by a vector of the history times the candidates' vectors.

  Without a history all candidates are tied. It is a `records.Ranker`.
  """

  name: ClassVar[str]
  causal: ClassVar[bool]
  options_class: ClassVar[type[SequenceOptions]] = SequenceOptions

  def __init__(self, *, num_items: int, length: int, options: SequenceOptions):
    """Makes a ranker without weights; see `fit`.

    Args:
      num_items: size of the catalogue.
      length: how many tokens are read.
      options: its sizes.
    """
    self.params: Params = {}
    self.report: dict[str, Any] = {}
    # Of all that was scored so far, and of a history by the length of its row.
    self.flops = 0.0
    self._flops: dict[int, float] = {}
    self.num_items = num_items
    self.length = length
    self.options = options
    self.config = EncoderConfig(
      # Padding, the items, and a mask.
      tokens=num_items + 2,
      max_length=length,
      causal=self.causal,
      width=options.width,
      layers=options.layers,
      heads=options.heads,
      dropout=options.dropout,
    )

  @classmethod
  def fit(
    cls, folder: DatasetFolder, options: SequenceOptions | None = None
  ) -> Self:
    """Returns a ranker trained on a folder's training interactions.

    Weights are kept in `baselines/NAME` of the folder, and used again as long
    as neither data nor options change.

    Args:
      folder: the dataset.
      options: other than the ranker's own.

    Raises:
      InputError: there is nothing to validate on.
    """
    options = options or cls.options_class()
    longest = int(folder.sequences.lengths.max(initial=1))
    ranker = cls(
      num_items=len(folder.items),
      length=min(options.max_length, longest),
      options=options,
    )
    ranker.params, ranker.report = kept_weights.load_or_fit(
      folder,
      cls.name,
      options=dataclasses.asdict(options),
      fit=functools.partial(ranker._train, folder),
    )
    return ranker

  @abc.abstractmethod
  def model_input(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the tokens from which the next one is predicted."""

  @abc.abstractmethod
  def example(self, tokens: np.ndarray, rng: np.random.Generator) -> Example:
    """Returns a training example from a user's tokens, two or more."""

  def encode(
    self, params: Params, histories: Sequence[Sequence[int] | np.ndarray]
  ) -> np.ndarray:
    """Returns a vector a history of item numbers, oldest first."""
    inputs = [self.model_input(np.asarray(h, np.int32) + 1) for h in histories]
    vectors_NxD = np.empty((len(inputs), self.options.width), np.float32)
    # By a history's own length, so that a result does not depend on the others.
    lengths = [n for n in _LENGTHS if n < self.length] + [self.length]
    bucket_N = np.searchsorted(
      lengths, np.array([min(len(i), self.length) for i in inputs], np.int64)
    )
    for bucket, length in enumerate(lengths):
      members = np.flatnonzero(bucket_N == bucket)
      for start in range(0, len(members), _ROWS):
        block = members[start : start + _ROWS]
        tokens = left_padded(
          [inputs[n] for n in block], rows=_ROWS, length=length
        )
        encoded = _encode_last(params, tokens, config=self.config)
        if length not in self._flops:
          lowered = _encode_last.lower(params, tokens, config=self.config)
          self._flops[length] = program_flops(lowered) / _ROWS
        self.flops += len(block) * self._flops[length]
        vectors_NxD[block] = np.asarray(encoded)[: len(block)]
    return vectors_NxD

  @property
  def num_parameters(self) -> int:
    """How many numbers its weights are."""
    return count_parameters(self.params)

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    vectors = self.encode(self.params, [r.history_items for r in requests])
    candidates = sum(len(request.candidate_items) for request in requests)
    self.flops += 2.0 * candidates * self.options.width
    return [
      self._score(request, vector)
      for request, vector in zip(requests, vectors, strict=True)
    ]

  def _score(self, request: RankingRequest, vector: np.ndarray) -> np.ndarray:
    tokens = np.array(request.candidate_items, np.int64) + 1
    if not request.history_items:
      return np.zeros(len(tokens))
    # Not a matrix product, whose sums would depend on a candidate's position.
    products = np.einsum("cd,d->c", self.params["table"][tokens], vector)
    return products + self.params["bias"][tokens]

  def _train(self, folder: DatasetFolder) -> tuple[Params, dict[str, Any]]:
    options = self.options.training
    sequences = folder.sequences
    users = [
      sequences.user(user)[:length] + 1
      for user, length in enumerate(folder.splits.training_lengths.tolist())
      if length >= 2
    ]

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
      order = rng.permutation(len(users))
      return pack(
        (self.example(users[user], rng) for user in order),
        rows=max(1, options.tokens_per_step // self.length),
        length=self.length,
      )

    fitted = fit(
      options,
      first=functools.partial(_first_params, config=self.config),
      loss=_ItemLoss(
        self.config, self.num_items, options.loss, options.negatives
      ),
      batches=batches,
      validate=self._validation(folder),
      label=self.name,
    )
    return fitted.params, fitted.report

  def _validation(self, folder: DatasetFolder) -> Callable[[Params], float]:
    """Returns NDCG@10 of weights on validation targets.

    Raises:
      InputError: there are no validation targets.
    """
    targets, sequences = folder.splits.validation, folder.sequences
    count = len(targets.users)
    if not count:
      raise InputError(
        f"{folder.path}: no user has a validation target, and training "
        "cannot know when to stop; prepare more data."
      )
    rng = np.random.default_rng(self.options.training.seed)
    rows = rng.permutation(count)[:VALIDATION_LIMIT]
    items = targets.items(sequences)[rows]
    histories = [
      sequences.user(user)[:position]
      for user, position in zip(
        targets.users[rows], targets.positions[rows], strict=True
      )
    ]

    def validate(params: Params) -> float:
      return catalogue_ndcg(
        self.encode(params, histories),
        np.asarray(params["table"])[1 : self.num_items + 1],
        np.asarray(params["bias"])[1 : self.num_items + 1],
        histories=histories,
        targets=items,
      )

    return validate


class SASRecRanker(SequenceRanker):
  """SASRec (Kang and McAuley, 2018), a causal transformer over item numbers.

  Its loss is cross-entropy over all items, with which it is far better than
  with one negative an item, as published; `loss="bce"` is that.
  """

  name = "sasrec"
  causal = True

  def model_input(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the history, whose last token predicts the next."""
    return tokens

  def example(self, tokens: np.ndarray, rng: np.random.Generator) -> Example:
    """Returns all but the last token, each of which predicts the next."""
    recent = tokens[-self.length - 1 :]
    return Example(recent[:-1], recent[1:])


@dataclasses.dataclass(frozen=True)
class BERT4RecOptions(SequenceOptions):
  """The sizes of a BERT4Rec, and how it is trained.

  An example has fewer positions to predict than SASRec's: batches are smaller
  and the learning rate is higher.

  Attributes:
    mask_share: probability of each item to be masked.
    last_share: share of histories of which the last item alone is masked, as
      it is when ranking.
  """

  dropout: float = 0.3
  mask_share: float = 0.4
  last_share: float = 0.3
  training: TrainerOptions = TrainerOptions(
    learning_rate=2e-3, tokens_per_step=1000
  )


class BERT4RecRanker(SequenceRanker):
  """BERT4Rec (Sun et al., 2019): predicts masked items from both sides."""

  name = "bert4rec"
  causal = False
  options_class = BERT4RecOptions

  def model_input(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the history with a mask after it."""
    return np.append(tokens, self._mask)

  def example(self, tokens: np.ndarray, rng: np.random.Generator) -> Example:
    """Returns the tokens with some masked, at least one."""
    options = self.options
    assert isinstance(options, BERT4RecOptions)
    recent = tokens[-self.length :]
    masked = np.zeros(len(recent), bool)
    if rng.random() >= options.last_share:
      masked = rng.random(len(recent)) < options.mask_share
      masked[rng.integers(len(recent))] |= not masked.any()
    else:
      masked[-1] = True
    return Example(
      np.where(masked, self._mask, recent), np.where(masked, recent, PADDING)
    )

  @property
  def _mask(self) -> int:
    return self.num_items + 1


@functools.partial(jax.jit, static_argnames="config")
def _encode_last(
  params: Params, tokens: np.ndarray, *, config: EncoderConfig
) -> jax.Array:
  encoded = SequenceEncoder(config).apply(
    {"params": params}, tokens, method=SequenceEncoder.last
  )
  assert isinstance(encoded, jax.Array)
  return encoded


@functools.partial(jax.jit, static_argnames="config")
def _first_params(key: jax.Array, *, config: EncoderConfig) -> Params:
  token = jnp.ones((1, 1), jnp.int32)
  variables = SequenceEncoder(config).init(key, token, token, 0 * token)
  return dict(variables["params"])


@dataclasses.dataclass(frozen=True)
class _ItemLoss:
  """The mean loss over the positions whose item is predicted."""

  config: EncoderConfig
  num_items: int
  loss: Loss
  negatives: int

  def __call__(self, params: Params, batch: Batch, key: jax.Array) -> jax.Array:
    dropout_key, draws_key = jax.random.split(key)
    hidden = SequenceEncoder(self.config).apply(
      {"params": params},
      batch.tokens,
      batch.segments,
      batch.distances,
      training=True,
      rngs={"dropout": dropout_key},
    )
    assert isinstance(hidden, jax.Array)
    loss_P = item_loss(
      hidden.reshape(-1, self.config.width)[batch.positions],
      params["table"][1 : self.num_items + 1],
      params["bias"][1 : self.num_items + 1],
      jnp.asarray(batch.targets) - 1,
      loss=self.loss,
      negatives=self.negatives,
      key=draws_key,
    )
    return (loss_P * batch.weights).sum() / batch.weights.sum()
