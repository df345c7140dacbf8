"""The model as a ranker: requests in, a score for each candidate out."""

import collections
import functools
import itertools
import math
import pathlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.checkpoints.weights import Weights
from instructrec_jax.errors import InputError
from instructrec_jax.records import RankingRequest
from instructrec_jax.scoring.arithmetic import scoring_flops
from instructrec_jax.scoring.batching import Batch, Batcher
from instructrec_jax.scoring.log_likelihood import (
  edge_log_likelihoods,
  encode_instructions,
)
from instructrec_jax.scoring.normalisation import (
  GHOST_THRESHOLD,
  NULL_INSTRUCTION,
  Normalisation,
  Reduced,
  byte_lengths,
  check_counted,
  check_ghost_threshold,
  log_prior,
)
from instructrec_jax.scoring.shapes import Members, Shape
from instructrec_jax.scoring.tokenization import (
  ID_BYTES,
  Chunk,
  TokenizedRequest,
  candidate_encoder,
  tokenize,
)
from instructrec_jax.scoring.user_states import UserStates
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import Vocabulary
from instructrec_jax.workers import ahead
from instructrec_jax.xla_options import compiler_options

# Batches sent to the device before the first one's scores are fetched.
_IN_FLIGHT = 2
# A device's tokens at a time: a processor's caches hold a few thousand.
_BIN_TOKENS = {"cpu": 5120}
# Requests that are laid out sooner than a thread starts.
_FEW = 64
_WITH_PRIOR = (Normalisation.PMI, Normalisation.CATALOGUE_PRIOR)
# Titles whose ids are cached: long ones take a KiB, and a server gets new ones.
_TITLES = 1 << 16


def find_t5x(model_dir: pathlib.Path, step: int | str | None) -> Weights | None:
  """Opens a checkpoint of T5X; None if the folder holds no such one.

  Raises:
    InputError: as `t5x_checkpoint.open_t5x` does.
  """
  if (model_dir / model_folder.CONFIG_FILE).is_file():
    return None
  # Imported here, as exports are served without tensorstore.
  from instructrec_jax.checkpoints import t5x_checkpoint

  if not t5x_checkpoint.is_t5x(model_dir):
    return None
  if step is not None and not str(step).isdigit():
    raise InputError(f"step is {step!r}: T5X's steps are numbers.")
  return t5x_checkpoint.open_t5x(
    model_dir, step=None if step is None else int(step)
  )


def load_model(
  model_dir: pathlib.Path,
  step: int | str | None,
  vocabulary: pathlib.Path | None,
  mesh: Mesh | None = None,
) -> tuple[T5Config, Any, Vocabulary]:
  """Loads a folder of `train` or `export`, or a checkpoint of T5X.

  Args:
    model_dir: of either kind.
    step: a number, "best", or None for the latest.
    vocabulary: of a checkpoint of T5X, which has none with it.
    mesh: of several devices, each of which is given its part of a folder of
      ours as that is read, so that the host never has all.

  Returns:
    The configuration, the parameters and the vocabulary.

  Raises:
    InputError: the folder holds no model, or no such step of it.
  """
  if not (foreign := find_t5x(model_dir, step)):
    shardings = None
    # Several processes read all alike: orbax would wait for one another.
    if mesh is not None and mesh.size > 1 and jax.process_count() == 1:
      config = model_folder.load_config(model_dir)
      shardings = mesh_lib.model_shardings(config, mesh)
    config, params = model_folder.load_params(
      model_dir, step=step, shardings=shardings
    )
    return config, params, model_folder.load_vocabulary(model_dir)
  if vocabulary is None:
    raise InputError(
      f"{model_dir}: a checkpoint of T5X has no vocabulary with it: name the "
      "SentencePiece model that it was trained with (--vocabulary)."
    )
  leaves = {name: leaf.read() for name, leaf in foreign.leaves.items()}
  params = traverse_util.unflatten_dict(leaves, sep="/")
  return foreign.config, params, Vocabulary.load(vocabulary)


class Prepared(NamedTuple):
  """Requests that are tokenised, and the bins that they go into, by part."""

  tokenized: Chunk
  parts: list[tuple[Chunk, dict[Shape, list[Members]]]]


class T5Ranker:
  """Scores candidates by the log-likelihood of their texts.

  A score depends on its instruction and candidate alone: not on the other
  candidates, their order, the batch or the mesh, but for rounding: about 1e-6
  of it where the model computes in float32, 1e-3 in bfloat16. Several threads
  may score.

  Attributes:
    normalisation: of what `score` returns; may be set to another's name.
    compiled_shapes: how many there are; at most `shapes.MAX_SHAPES`.
    compile_seconds: what they took so far.
    flops: of all that was scored so far; see `arithmetic.scoring_flops`.
    num_parameters: of the model.
  """

  def __init__(
    self,
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
    ghost_threshold: float = GHOST_THRESHOLD,
    title_counts: Mapping[str, int] | None = None,
    user_states: UserStates | None = None,
  ):
    """Lays the parameters out on the mesh.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: tokenises instructions and candidates.
      mesh: of `mesh.make_mesh`; one device if None.
      batch_tokens: about the most tokens that a device computes at a time; by
        default what suits the backend.
      normalisation: one of `normalisation.Normalisation`.
      ghost_threshold: `ghost_free` leaves out tokens at least so probable.
      title_counts: training purchases of the catalogue's titles, for
        `catalogue_prior`.
      user_states: keeps encoder states, of this model alone, for requests with
        the same instruction; for a single process.

    Raises:
      InputError: the vocabulary or the mesh does not fit the model, there is
        no such normalisation or what it needs, or the threshold is not in
        (0, 1].
    """
    self.normalisation: str = Normalisation.parse(normalisation)
    self._title_counts = dict(title_counts or {})
    check_counted(Normalisation(self.normalisation), self._title_counts)
    check_ghost_threshold(ghost_threshold)
    self._ghost_threshold = ghost_threshold
    model_folder.check_vocabulary(config, vocabulary)
    self._vocabulary = vocabulary
    # Titles recur in a stream.
    self._encode_candidate = functools.lru_cache(_TITLES)(
      candidate_encoder(vocabulary.encode_one)
    )
    self._mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
    self._batcher = Batcher(
      shards=self._mesh.shape["data"],
      bin_tokens=batch_tokens or _BIN_TOKENS.get(jax.default_backend(), 32768),
    )
    shardings = mesh_lib.model_shardings(config, self._mesh, params)
    self._shardings, self._config = shardings, config
    self.set_params(params)
    self._user_states = user_states
    self._by_shard = mesh_lib.batch_sharding(self._mesh)
    self.compiled_shapes = 0
    self.compile_seconds = 0.0
    self.flops = 0.0
    self.num_parameters = sum(
      math.prod(leaf.shape)
      for leaf in jax.tree.leaves(parameters.parameter_shapes(config))
    )

    def score_batch(
      params: Any, batch: dict[str, jax.Array], encoded: jax.Array | None
    ) -> jax.Array:
      # Only tracing runs this line: once for each new shape.
      self.compiled_shapes += 1
      return edge_log_likelihoods(params, batch, encoded, config=config)

    self._encode = jax.jit(
      mesh_lib.with_activation_axes(
        functools.partial(encode_instructions, config=config), self._mesh
      ),
      in_shardings=(shardings, self._by_shard),
      out_shardings=self._by_shard,
      compiler_options=compiler_options(),
    )
    self._score_batch = jax.jit(
      mesh_lib.with_activation_axes(score_batch, self._mesh),
      in_shardings=(shardings, self._by_shard, self._by_shard),
      # Few numbers, and each process can read only its own devices.
      out_shardings=mesh_lib.replicated(self._mesh),
      compiler_options=compiler_options(),
    )
    # Held while compiling: threads would each compile.
    self._lock = threading.Lock()
    self._compiled: set[Shape] = set()

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    step: int | str | None = None,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    normalisation: str = Normalisation.SUM,
    ghost_threshold: float = GHOST_THRESHOLD,
    vocabulary: pathlib.Path | None = None,
  ) -> "T5Ranker":
    """Loads a folder of `train`; see `model_folder.load_params`.

    A checkpoint of T5X, or a folder of some, is read in place, for activations
    in float32. It needs the `vocabulary` that it was trained with.

    Raises:
      InputError: the folder holds no model, or no such step of it, or there
        is no such normalisation.
    """
    normalisation = Normalisation.parse(normalisation)
    model_dir = pathlib.Path(model_dir)
    config, params, words = load_model(model_dir, step, vocabulary, mesh)
    return cls(
      config=config,
      params=params,
      vocabulary=words,
      title_counts=model_folder.load_title_counts(model_dir),
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

  @property
  def model(self) -> dict[str, Any]:
    """What another ranker, a `Generator` or a search is made of.

    They share the parameters, which lie where they are.
    """
    return {
      "config": self._config,
      "params": self._params,
      "vocabulary": self._vocabulary,
      "mesh": self._mesh,
    }

  def set_params(self, params: Any) -> None:
    """Replaces the parameters; compiled programs are kept.

    User states are not kept any more, as a search has those of the old ones.
    """
    self._user_states: UserStates | None = None
    self._params = mesh_lib.to_devices(
      parameters.for_inference(self._config, params), self._shardings
    )
    # log P(candidate | the null instruction) by the candidate's ids.
    self._priors: dict[bytes, float] = {}

  def drop_params(self) -> None:
    """Frees the parameters' memory until `set_params` gives others."""
    self._params = None

  def plan(self, requests: Sequence[RankingRequest]) -> None:
    """Fixes shapes as scoring these requests would.

    Rounding depends on shapes: for the same bits as an undisturbed run, one
    that is taken up again must plan for what it does not score again.
    """
    tokenized = self._tokenize(requests)
    self._batcher.bins(tokenized)
    if self.normalisation in _WITH_PRIOR:
      self._prior_scores(tokenized, requests)

  def add_shape(
    self, requests: Sequence[RankingRequest], *, together: int
  ) -> None:
    """Adds a compiled shape for requests like these; see `Batcher`."""
    self._batcher.add_shape(self._tokenize(requests), together=together)

  def score(
    self,
    requests: Sequence[RankingRequest],
    prepared: "Prepared | None" = None,
  ) -> list[np.ndarray]:
    """Returns each candidate's log-likelihood, normalised, in float32.

    Args:
      requests: any number.
      prepared: of these requests, where that was done before.

    Raises:
      InputError: an instruction or a candidate is too long, or the model's
        weights make no numbers.
    """
    name = self.normalisation
    return self.score_all(requests, (name,), prepared)[name]

  def prepare(self, requests: Sequence[RankingRequest]) -> "Prepared":
    """Returns what `score` does before the device has work, for a thread.

    Shapes follow from the order of these calls, and where `prepares_ahead` is
    false from those of `score` too.

    Raises:
      InputError: an instruction or a candidate is too long.
    """
    tokenized = self._tokenize(requests)
    parts = self._by_state(tokenized)
    return Prepared(tokenized, [(p, self._batcher.bins(p)) for p in parts])

  def _by_state(self, chunk: Chunk) -> list[Chunk]:
    """Returns requests apart whose instructions need not be encoded."""
    if self._user_states is None:
      return [chunk]
    parts: dict[bool, list[TokenizedRequest]] = {}
    for request in chunk.requests:
      known = request.instruction in self._user_states
      parts.setdefault(known, []).append(request)
    return list(map(Chunk, parts.values())) if len(parts) > 1 else [chunk]

  @property
  def prepares_ahead(self) -> bool:
    """Whether shapes do not depend on when a request is scored."""
    return self.normalisation not in _WITH_PRIOR

  def score_all(
    self,
    requests: Sequence[RankingRequest],
    normalisations: Iterable[str],
    prepared: "Prepared | None" = None,
  ) -> dict[str, list[np.ndarray]]:
    """Scores once, normalises often: to choose on validation.

    All come of one pass over the requests; `pmi` adds one over those of their
    distinct candidates that it has not met before.

    Args:
      requests: any number.
      normalisations: names of them.
      prepared: of these requests, where that was done before.

    Returns:
      By normalisation, what `score` would return.

    Raises:
      InputError: an instruction or a candidate is too long, there is no such
        normalisation, or the model's weights make no numbers.
    """
    wanted = list(map(Normalisation.parse, normalisations))
    for name in wanted:
      check_counted(name, self._title_counts)
    tokenized, parts = prepared or self.prepare(requests)
    self.flops += scoring_flops(tokenized, self._config)
    reduced = Reduced(
      requests,
      {name.of_tokens for name in wanted},
      ghost_threshold=self._ghost_threshold,
    )
    in_flight: collections.deque = collections.deque()
    batches = itertools.chain.from_iterable(
      itertools.starmap(self._batcher.batches, parts)
    )

    def take() -> None:
      batch, log_likelihoods, encoded = in_flight.popleft()
      reduced.add(batch, log_likelihoods)
      if encoded is not None and self._user_states:
        tokens, lengths = batch.prompts
        self._user_states.keep(tokens, lengths, np.asarray(encoded))

    # Laid out in a thread while the device computes and numbers come back.
    for shape, batch in ahead(batches) if len(requests) > _FEW else batches:
      in_flight.append((batch, *self._on_device(batch, shape)))
      if len(in_flight) > _IN_FLIGHT:
        take()
    while in_flight:
      take()
    scores: dict[str, list[np.ndarray]] = {}
    for name in wanted:
      column = reduced.columns[name.of_tokens]
      if name is Normalisation.BYTE:
        column = map(np.divide, column, map(byte_lengths, requests))
      elif name in _WITH_PRIOR:
        priors = self._prior_scores(tokenized, requests)
        column = map(np.subtract, column, priors)
        if name is Normalisation.CATALOGUE_PRIOR:
          column = map(np.add, column, self._log_priors(requests))
      scores[str(name)] = [values.astype(np.float32) for values in column]
    return scores

  @property
  def normalisations(self) -> tuple[Normalisation, ...]:
    """Those that it can compute."""
    left_out = () if self._title_counts else (Normalisation.CATALOGUE_PRIOR,)
    return tuple(name for name in Normalisation if name not in left_out)

  def prior_offsets(self, titles: Sequence[str]) -> np.ndarray:
    """Returns [titles]: what `catalogue_prior` adds to each one's sum."""
    request = RankingRequest("titles", NULL_INSTRUCTION, tuple(titles))
    (log_priors,) = self._log_priors([request])
    (of_model,) = self._prior_scores(self._tokenize([request]), [request])
    return log_priors - of_model

  def _log_priors(self, requests: Sequence[RankingRequest]) -> list[np.ndarray]:
    """Returns each candidate's `normalisation.log_prior`."""
    return [
      np.array([log_prior(t, self._title_counts) for t in request.candidates])
      for request in requests
    ]

  def _prior_scores(
    self,
    tokenized: Chunk,
    requests: Sequence[RankingRequest],
  ) -> list[np.ndarray]:
    """Returns log P(candidate | null instruction); each is computed once."""
    distinct = [
      (piece.index, ids[piece.said * ID_BYTES :], places)
      for piece in tokenized.requests
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

  def _tokenize(self, requests: Sequence[RankingRequest]) -> Chunk:
    encode = self._vocabulary.encode_one
    return Chunk(tokenize(requests, encode, self._encode_candidate))

  def _on_device(
    self, batch: Batch, shape: Shape
  ) -> tuple[jax.Array, jax.Array | None]:
    """Has a batch computed; returns before that is done.

    Returns:
      Its log-likelihoods, and the encoder's states if they are to be kept.
    """
    features = mesh_lib.to_devices(batch.features, self._by_shard)
    if shape in self._compiled:
      return self._scored(batch, features)
    with self._lock:
      start = time.perf_counter()
      result = self._scored(batch, features)
      self.compile_seconds += time.perf_counter() - start
      self._compiled.add(shape)
    return result

  def _scored(
    self, batch: Batch, features: Any
  ) -> tuple[jax.Array, jax.Array | None]:
    encoded = new = None
    if states := self._user_states:
      if (known := states.find(*batch.prompts)) is not None:
        encoded = mesh_lib.to_devices(known, self._by_shard)
      else:
        encoded = new = self._encode(self._params, features)
    return self._score_batch(self._params, features, encoded), new
