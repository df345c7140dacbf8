"""A sequence encoder as a ranker: fitted once, kept in the dataset folder."""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import jax
import numpy as np

from instructrec_jax.baselines import kept_weights
from instructrec_jax.baselines.sequence_batches import Example, left_padded
from instructrec_jax.baselines.sequence_encoder import (
  EncoderConfig,
  SequenceEncoder,
)
from instructrec_jax.baselines.sequence_options import SequenceOptions
from instructrec_jax.baselines.sequence_trainer import train
from instructrec_jax.baselines.sequence_validation import Validation
from instructrec_jax.baselines.trainer import Params
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.records import RankingRequest

# Histories that are read at once.
_ROWS = 256
# Tokens that rows have room for; the longest room is the model's own.
_ROOMS = (8, 16, 32)


class SequenceRanker(abc.ABC):
  """Ranks by a vector of the history times the candidates' vectors.

  Without a history all candidates are alike. It is a `records.Ranker`.
  """

  name: ClassVar[str]
  causal: ClassVar[bool]
  options_class: ClassVar[type[SequenceOptions]] = SequenceOptions

  def __init__(self, *, num_items: int, length: int, options: SequenceOptions):
    """Makes a ranker that has no weights yet; see `fit`.

    Args:
      num_items: size of the catalogue.
      length: how many tokens are read.
      options: its sizes.
    """
    self.params: Params = {}
    self.report: dict[str, Any] = {}
    self.num_items = num_items
    self.length = length
    self.options = options
    # Padding, the items, and a mask.
    self.config = options.encoder(
      tokens=num_items + 2, length=length, causal=self.causal
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
    ranker.params, ranker.report = kept_weights.kept(
      folder,
      cls.name,
      options=dataclasses.asdict(options),
      fit=functools.partial(ranker._train, folder),
    )
    return ranker

  def read(
    self, params: Params, histories: Sequence[Sequence[int] | np.ndarray]
  ) -> np.ndarray:
    """Returns a vector a history of item numbers, oldest first."""
    questions = [self.question(np.asarray(h, np.int32) + 1) for h in histories]
    vectors_NxD = np.empty((len(questions), self.options.width), np.float32)
    # By a history's own length, so that its neighbours make no difference.
    rooms = [room for room in _ROOMS if room < self.length] + [self.length]
    lengths = np.array([min(len(q), self.length) for q in questions], np.int64)
    room_N = np.searchsorted(rooms, lengths)
    for number, room in enumerate(rooms):
      members = np.flatnonzero(room_N == number)
      for start in range(0, len(members), _ROWS):
        block = members[start : start + _ROWS]
        tokens = left_padded(
          [questions[n] for n in block], rows=_ROWS, length=room
        )
        read = _read_last(params, tokens, config=self.config)
        vectors_NxD[block] = np.asarray(read)[: len(block)]
    return vectors_NxD

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns one score a candidate for each request."""
    vectors = self.read(self.params, [r.history_items for r in requests])
    return [
      self._score(request, vector)
      for request, vector in zip(requests, vectors, strict=True)
    ]

  @abc.abstractmethod
  def question(self, tokens: np.ndarray) -> np.ndarray:
    """Returns what is read to tell what follows a history's tokens."""

  @abc.abstractmethod
  def example(self, tokens: np.ndarray, rng: np.random.Generator) -> Example:
    """Returns what is trained on of a user's tokens, two or more."""

  def _score(self, request: RankingRequest, vector: np.ndarray) -> np.ndarray:
    tokens = np.array(request.candidate_items, np.int64) + 1
    if not request.history_items:
      return np.zeros(len(tokens))
    # Not a matrix product: its sums would depend on a candidate's place.
    products = np.einsum("cd,d->c", self.params["table"][tokens], vector)
    return products + self.params["bias"][tokens]

  def _train(self, folder: DatasetFolder) -> tuple[Params, dict[str, Any]]:
    options = self.options.training
    fitted = train(
      self.config,
      options,
      draw=functools.partial(self._draw, _training_tokens(folder)),
      num_items=self.num_items,
      validate=Validation(folder, self.read, seed=options.seed),
      label=self.name,
    )
    return fitted.params, fitted.report

  def _draw(
    self, users: list[np.ndarray], rng: np.random.Generator
  ) -> Iterator[Example]:
    for user in rng.permutation(len(users)):
      yield self.example(users[user], rng)


@functools.partial(jax.jit, static_argnames="config")
def _read_last(
  params: Params, tokens: np.ndarray, *, config: EncoderConfig
) -> jax.Array:
  read = SequenceEncoder(config).apply(
    {"params": params}, tokens, method=SequenceEncoder.last
  )
  assert isinstance(read, jax.Array)
  return read


def _training_tokens(folder: DatasetFolder) -> list[np.ndarray]:
  """Returns the tokens of users who have two training items or more."""
  sequences = folder.sequences
  lengths = folder.splits.training_lengths
  return [
    sequences.user(user)[:length] + 1
    for user, length in enumerate(lengths.tolist())
    if length >= 2
  ]
