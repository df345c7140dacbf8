"""The model as a ranker: requests in, a score for each candidate out."""

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring import packing
from instructrec_jax.scoring.log_likelihood import token_log_likelihoods
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
    compiled_shapes: how many there are; at most `packing.MAX_SHAPES`.
  """

  name = "model"

  def __init__(
    self,
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    mesh: Mesh | None = None,
    batch_tokens: int = 16384,
  ):
    """Lays the parameters out on the mesh.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: tokenises instructions and candidates.
      mesh: of `mesh.make_mesh`; one device if None.
      batch_tokens: about how many tokens, padding counted, go into a batch.

    Raises:
      InputError: the vocabulary or the mesh does not fit the model.
    """
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

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    step: int | str | None = None,
    mesh: Mesh | None = None,
    batch_tokens: int = 16384,
  ) -> "T5Ranker":
    """Loads a folder of `train`; see `model_folder.load_params`.

    Raises:
      InputError: the folder holds no model, or no such step of it.
    """
    config, params = model_folder.load_params(model_dir, step=step)
    return cls(
      config=config,
      params=params,
      vocabulary=model_folder.load_vocabulary(model_dir),
      mesh=mesh,
      batch_tokens=batch_tokens,
    )

  def use(self, params: Any) -> None:
    """Goes on with other parameters; what is compiled stays so."""
    self._params = jax.device_put(params, self._shardings)

  def score(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns sum log P(token), end included, for each candidate.

    Raises:
      InputError: a request is too long.
    """
    tokenized = packing.tokenize(requests, self._vocabulary)
    if not self._shapes and tokenized:
      self._shapes = packing.plan_shapes(tokenized)
    scores: list[Any] = [None] * len(requests)
    in_flight: collections.deque = collections.deque()
    for batch, features in self._batches(tokenized):
      in_flight.append((batch, self._score_batch(self._params, features)))
      if len(in_flight) > _IN_FLIGHT:
        _collect(in_flight.popleft(), scores)
    while in_flight:
      _collect(in_flight.popleft(), scores)
    return scores

  def _batches(
    self, requests: Sequence[packing.TokenizedRequest]
  ) -> Iterator[tuple[Sequence[packing.TokenizedRequest], Any]]:
    by_shape = collections.defaultdict(list)
    for request in requests:
      by_shape[packing.choose_shape(request, self._shapes)].append(request)
    for shape, members in by_shape.items():
      rows = self._rows(shape)
      for start in range(0, len(members), rows):
        batch = members[start : start + rows]
        arrays = packing.to_batch(batch, rows=rows, shape=shape)
        yield batch, jax.device_put(arrays, self._by_row)

  def _rows(self, shape: packing.Shape) -> int:
    """Rows of a batch of this shape: a multiple of the data axis."""
    data = self._mesh.shape["data"]
    rows = self._batch_tokens // sum(shape)
    return max(rows // data, 1) * data


def _collect(
  scored: tuple[Sequence[packing.TokenizedRequest], jax.Array],
  scores: list[Any],
) -> None:
  """Sums each candidate's tokens, on the host and in its own order."""
  batch, log_likelihoods = scored
  values = np.asarray(log_likelihoods, np.float64)
  for row, request in zip(values, batch, strict=False):
    lengths = np.array(list(map(len, request.candidates)))
    starts = np.cumsum(lengths) - lengths
    scores[request.index] = np.add.reduceat(row[: request.width], starts)
