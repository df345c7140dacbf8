"""The model as a ranker: requests in, a score for each candidate out."""

import collections
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import packing
from instructrec_jax.scoring.log_likelihood import token_log_likelihoods
from instructrec_jax.scoring.normalisation import (
  GHOST_THRESHOLD,
  NULL_INSTRUCTION,
  Normalisation,
  Reduced,
  byte_lengths,
  check_ghost_threshold,
)
from instructrec_jax.seq2seq import model_folder
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import Vocabulary

# Batches sent to the device before the first one's scores are fetched.
_IN_FLIGHT = 2


class T5Ranker:
  """Scores candidates by the log-likelihood of their texts.

  A score depends on its instruction and candidate alone: not on the other
  candidates, their order, the batch or the mesh.

  Attributes:
    normalisation: of what `score` returns; may be set to another's name.
    compiled_shapes: how many there are; at most `packing.MAX_SHAPES`.
  """

  def __init__(
    self,
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    mesh: Mesh | None = None,
    batch_tokens: int = 16384,
    normalisation: str = Normalisation.SUM,
    ghost_threshold: float = GHOST_THRESHOLD,
  ):
    """Lays the parameters out on the mesh.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: tokenises instructions and candidates.
      mesh: of `mesh.make_mesh`; one device if None.
      batch_tokens: about the most tokens, padding counted, in a batch.
      normalisation: one of `normalisation.Normalisation`.
      ghost_threshold: `ghost_free` leaves out tokens at least so probable.

    Raises:
      InputError: the vocabulary or the mesh does not fit the model, there is
        no such normalisation, or the threshold is not in (0, 1].
    """
    self.normalisation: str = Normalisation.parse(normalisation)
    check_ghost_threshold(ghost_threshold)
    self._ghost_threshold = ghost_threshold
    model_folder.check_vocabulary(config, vocabulary)
    self._vocabulary = vocabulary
    self._batch_tokens = batch_tokens
    self._mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
    axes = jax.eval_shape(lambda: model_folder.initial_variables(config))
    shardings = mesh_lib.parameter_shardings(
      axes["params_axes"], self._mesh, shapes=axes["params"]
    )
    self._shardings = shardings
    self.use(params)
    self._by_row = mesh_lib.batch_sharding(self._mesh)
    self.compiled_shapes = 0

    def score_batch(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
      # Only tracing runs this line: once for each new shape.
      self.compiled_shapes += 1
      return token_log_likelihoods(params, batch, config=config)

    self._score_batch = jax.jit(
      score_batch,
      in_shardings=(shardings, self._by_row),
      out_shardings=self._by_row,
    )
    self._shapes: list[packing.Shape] = []
    self._sizes: dict[packing.Shape, int] = {}

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    step: int | str | None = None,
    mesh: Mesh | None = None,
    batch_tokens: int = 16384,
    normalisation: str = Normalisation.SUM,
    ghost_threshold: float = GHOST_THRESHOLD,
  ) -> "T5Ranker":
    """Loads a folder of `train`; see `model_folder.load_params`.

    Raises:
      InputError: the folder holds no model, or no such step of it, or there
        is no such normalisation.
    """
    normalisation = Normalisation.parse(normalisation)
    config, params = model_folder.load_params(model_dir, step=step)
    return cls(
      config=config,
      params=params,
      vocabulary=model_folder.load_vocabulary(model_dir),
      mesh=mesh,
      batch_tokens=batch_tokens,
      normalisation=normalisation,
      ghost_threshold=ghost_threshold,
    )

  @property
  def name(self) -> str:
    """How tables call this ranker."""
    if self.normalisation == Normalisation.SUM:
      return "model"
    return f"model ({self.normalisation})"

  def use(self, params: Any) -> None:
    """Goes on with other parameters; what is compiled stays so."""
    self._params = jax.device_put(params, self._shardings)
    # log P(candidate | the null instruction) by the candidate's ids.
    self._priors: dict[tuple[int, ...], float] = {}

  def plan(self, requests: Sequence[RankingRequest]) -> None:
    """Fixes shapes as scoring these requests would.

    Rounding depends on shapes: for the same bits as an undisturbed run, one
    that is taken up again must plan for what it does not score again.
    """
    tokenized = packing.tokenize(requests, self._vocabulary)
    self._by_shape(tokenized)
    if self.normalisation == Normalisation.PMI:
      self._prior_scores(tokenized, requests)

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns each candidate's log-likelihood, normalised, in float32.

    Raises:
      InputError: an instruction or a candidate is too long.
    """
    name = self.normalisation
    return self.score_all(requests, (name,))[name]

  def score_all(
    self, requests: Sequence[RankingRequest], normalisations: Iterable[str]
  ) -> dict[str, list[np.ndarray]]:
    """Scores once, normalises often: to choose on validation.

    All come of one pass over the requests; `pmi` adds one over those of their
    distinct candidates that it has not met before.

    Returns:
      By normalisation, what `score` would return.

    Raises:
      InputError: an instruction or a candidate is too long, or there is no
        such normalisation.
    """
    wanted = list(map(Normalisation.parse, normalisations))
    tokenized = packing.tokenize(requests, self._vocabulary)
    reduced = Reduced(
      requests,
      {name.of_tokens for name in wanted},
      ghost_threshold=self._ghost_threshold,
    )
    in_flight: collections.deque = collections.deque()
    for batch in self._batches(tokenized):
      features = jax.device_put(batch.features, self._by_row)
      in_flight.append((batch, self._score_batch(self._params, features)))
      if len(in_flight) > _IN_FLIGHT:
        reduced.add(*in_flight.popleft())
    while in_flight:
      reduced.add(*in_flight.popleft())
    scores: dict[str, list[np.ndarray]] = {}
    for name in wanted:
      column = reduced.columns[name.of_tokens]
      if name is Normalisation.BYTE:
        column = map(np.divide, column, map(byte_lengths, requests))
      elif name is Normalisation.PMI:
        priors = self._prior_scores(tokenized, requests)
        column = map(np.subtract, column, priors)
      scores[str(name)] = [values.astype(np.float32) for values in column]
    return scores

  def _prior_scores(
    self,
    tokenized: Sequence[packing.TokenizedRequest],
    requests: Sequence[RankingRequest],
  ) -> list[np.ndarray]:
    """Returns log P(candidate | null instruction); each is computed once."""
    distinct = [
      (piece.index, ids, places)
      for piece in tokenized
      for ids, places in zip(piece.candidates, piece.places, strict=True)
    ]
    new = {
      ids: requests[index].candidates[places[0]]
      for index, ids, places in distinct
      if ids not in self._priors
    }
    if new:
      null = RankingRequest(
        request_id="null",
        instruction=NULL_INSTRUCTION,
        candidates=tuple(new.values()),
      )
      (sums,) = self.score_all([null], (Normalisation.SUM,))[Normalisation.SUM]
      self._priors.update(zip(new, sums.tolist(), strict=True))
    scores = [np.empty(len(r.candidates)) for r in requests]
    for index, ids, places in distinct:
      scores[index][places] = self._priors[ids]
    return scores

  def _batches(
    self, requests: Sequence[packing.TokenizedRequest]
  ) -> Iterator[packing.Batch]:
    for shape, members in self._by_shape(requests).items():
      size = self._sizes[shape]
      for start in range(0, len(members), size):
        yield packing.to_batch(
          members[start : start + size], size=size, shape=shape
        )

  def _by_shape(
    self, requests: Sequence[packing.TokenizedRequest]
  ) -> dict[packing.Shape, list[packing.TokenizedRequest]]:
    """Groups requests by their shapes, new ones included."""
    self._shapes = packing.plan_shapes(requests, shapes=self._shapes)
    groups = collections.defaultdict(list)
    for request in requests:
      groups[packing.choose_shape(request, self._shapes)].append(request)
    for shape, members in groups.items():
      if shape not in self._sizes:
        self._sizes[shape] = self._batch_size(shape, len(members))
    return groups

  def _batch_size(self, shape: packing.Shape, count: int) -> int:
    """Instructions in a batch: a multiple of the data axis.

    `count` of them, which come when a shape is first used, give batches about
    equally full; one request alone does not compute a large batch of padding.
    """
    data = self._mesh.shape["data"]
    most = max(self._batch_tokens // shape.tokens // data, 1)
    needed = -(-count // data)
    batches = -(-needed // most)
    return -(-needed // batches) * data
