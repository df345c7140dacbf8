"""The model as a writer: instructions in, answers out."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_numbers,
  check_seed,
)
from instructrec_jax.generation import decode
from instructrec_jax.progress import progress
from instructrec_jax.scoring.reranker import load_model
from instructrec_jax.scoring.title_trie import TitleTrie
from instructrec_jax.scoring.trie import to_bytes
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import EOS_ID, PAD_ID, Vocabulary
from instructrec_jax.xla_options import compiler_options

# Instructions and answers are padded to one of these, the batch to a power of
# two, so that few shapes are compiled.
_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
_ANSWERS = (32, 128, 512, 1024)
RULES = ("hugging_face", "t5x")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How answers are decoded: greedily, unless it is said otherwise.

  Attributes:
    max_tokens: of an answer, its end included.
    beams: of a beam search; 1 takes the likeliest token each time.
    length_penalty: the exponent of a sequence's length, by which beams are
      compared; 0 compares log-likelihoods, more favours long answers.
    rules: of the beam search: "hugging_face" or "t5x", see
      `decode.beam_search`.
    temperature: divides logits before tokens are drawn; 0 draws none.
    top_k: tokens to draw from; 0: all.
    top_p: the least probability of the tokens to draw from.
    seed: of what is drawn.
    answers: to each instruction: the best beams, or as many draws.
  """

  max_tokens: int = 128
  beams: int = 1
  length_penalty: float = 1.0
  rules: str = "hugging_face"
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  answers: int = 1

  def __post_init__(self):
    """Raises InputError if there is no such decoding."""
    check_counts(max_tokens=self.max_tokens, most=_ANSWERS[-1])
    check_counts(beams=self.beams, answers=self.answers, most=64)
    check_counts(top_k=self.top_k, least=0)
    check_seed(self.seed)
    check_numbers(length_penalty=self.length_penalty, least=-10, most=10)
    check_numbers(temperature=self.temperature, most=100)
    check_numbers(top_p=self.top_p, least=1e-6, most=1)
    if self.rules not in RULES:
      raise InputError(
        f"the rules of a beam search are {self.rules!r}: "
        f"{' or '.join(RULES)} is needed."
      )
    if self.temperature == 0 and (self.top_k or self.top_p < 1):
      raise InputError(
        "top_k and top_p are of tokens that are drawn: give a temperature, "
        "such as 1, or leave them out."
      )
    if self.temperature and self.beams > 1:
      raise InputError(
        f"a beam search of {self.beams} draws nothing: leave the temperature "
        "out, or the beams."
      )
    if not self.is_beam and (self.rules, self.length_penalty) != (RULES[0], 1):
      raise InputError(
        "rules and a length penalty are of a beam search: give beams, such as "
        "4, or leave them out."
      )
    if self.answers > max(self.beams, 1) and not self.temperature:
      raise InputError(
        f"{self.answers} answers need as many beams, or a temperature to be "
        "drawn at."
      )

  @property
  def is_beam(self) -> bool:
    """Whether it is a beam search."""
    return self.beams > 1

  @property
  def sequences(self) -> int:
    """How many are decoded at a time for each instruction."""
    return self.beams if self.is_beam else self.answers


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
  """One that the model has written.

  Attributes:
    text: without special tokens.
    tokens: its ids, with its end if it has one.
    log_likelihood: the sum of its tokens', as the ranker's `sum`.
    score: what beams are compared by; the log-likelihood without beams.
    is_whole: whether it has an end, or was cut at the most tokens.
  """

  text: str
  tokens: tuple[int, ...]
  log_likelihood: float
  score: float
  is_whole: bool


class Generator:
  """Writes answers to instructions.

  An answer depends on its instruction alone, and where tokens are drawn on the
  seed and the instruction's number: not on the others of its batch, padding or
  the mesh, but for rounding, which decides where two tokens are as likely to
  1e-6. For one thread at a time.
  """

  def __init__(
    self,
    *,
    config: T5Config,
    params: Any,
    vocabulary: Vocabulary,
    titles: Sequence[str] = (),
    mesh: Mesh | None = None,
    batch: int = 16,
  ):
    """Lays the parameters out on the mesh.

    Args:
      config: the model's sizes.
      params: its parameters.
      vocabulary: tokenises instructions and titles.
      titles: the only answers, if there are any: a catalogue's.
      mesh: of `mesh.make_mesh`; one device if None.
      batch: instructions at a time, on each device of the data axis.

    Raises:
      InputError: the vocabulary or the mesh does not fit the model.
    """
    check_counts(batch=batch, most=1 << 16)
    model_folder.check_vocabulary(config, vocabulary)
    self._config, self._vocabulary = config, vocabulary
    self._mesh = mesh or mesh_lib.make_mesh(devices=jax.devices()[:1])
    self._batch = batch * self._mesh.shape["data"]
    self._titles: dict[tuple[int, ...], str] = {}
    for title in titles:
      # Titles of the same tokens are one answer, the first.
      ids = (*vocabulary.encode_one(title), EOS_ID)
      self._titles.setdefault(ids, title)
    self._allowed = None
    if self._titles:
      trie = TitleTrie(sorted(map(to_bytes, self._titles)))
      self._allowed = jax.device_put(
        decode.Allowed.of(trie), mesh_lib.replicated(self._mesh)
      )
    shardings = mesh_lib.model_shardings(config, self._mesh, params)
    self._params = mesh_lib.to_devices(
      parameters.for_inference(config, params), shardings
    )
    self._reads_end_to_end = (
      self._mesh.size == 1 and config.loops_over_examples(self._mesh)
    )
    # Of this object, as the programs below.
    self._read = functools.cache(self._new_read)
    # Of this object, not its class: which would keep it, and its parameters.
    self._program = functools.cache(self._new_program)
    self._start = functools.cache(self._new_start)

  @classmethod
  def load(
    cls,
    model_dir: pathlib.Path,
    *,
    step: int | str | None = None,
    vocabulary: pathlib.Path | None = None,
    **options: Any,
  ) -> "Generator":
    """Loads a model, see `reranker.load_model`, for `Generator`'s options."""
    config, params, words = load_model(
      pathlib.Path(model_dir), step, vocabulary
    )
    return cls(config=config, params=params, vocabulary=words, **options)

  def check(self, instruction: str, name: str) -> list[int]:
    """Returns the tokens of an instruction, which an error calls by a name.

    Raises:
      InputError: it is too long.
    """
    ids = [*self._vocabulary.encode_one(instruction), EOS_ID]
    if len(ids) > _LENGTHS[-1]:
      raise InputError(
        f"{name} has {len(ids):,} tokens; at most {_LENGTHS[-1]:,} can be "
        "answered."
      )
    return ids

  def generate(
    self,
    instructions: Sequence[str],
    decoding: Decoding | None = None,
    *,
    numbers: Sequence[int] | None = None,
  ) -> list[tuple[Answer, ...]]:
    """Returns the answers to each instruction, the best first.

    Args:
      instructions: what the model is to answer.
      decoding: how; greedily if None.
      numbers: of the instructions, which random numbers depend on; from 0 if
        None.

    Raises:
      InputError: an instruction is too long, a title has more tokens than an
        answer may have, or the model's weights make no numbers.
    """
    decoding = decoding or Decoding()
    ids = self._encode(instructions)
    self._check_depth(decoding)
    numbers = range(len(ids)) if numbers is None else numbers
    found: list[tuple[Answer, ...]] = [()] * len(ids)
    batches = list(self._batches(ids))
    # A single batch is over before a bar would tell anything.
    for members in progress(
      batches, "generate", unit="batch", shown=len(batches) > 1
    ):
      state, memory, advance = self._begin(
        [ids[m] for m in members], [numbers[m] for m in members], decoding
      )
      state = advance(state, memory, decoding.max_tokens)
      for member, answers in zip(
        members, self._answers(state, decoding), strict=False
      ):
        found[member] = answers
    return found

  def stream(
    self,
    instruction: str,
    decoding: Decoding | None = None,
    *,
    number: int = 0,
  ) -> Iterator[str]:
    """Yields an answer piece by piece, each as soon as it is decoded.

    Together they are the text that `generate` returns. An answer that is one
    of a catalogue comes in one piece, as its title is written.

    Args:
      instruction: what the model is to answer.
      decoding: how; greedily if None.
      number: of the instruction, as in `generate`.

    Raises:
      InputError: as `generate` does, or beams or several answers are asked.
    """
    decoding = decoding or Decoding()
    if decoding.sequences > 1:
      raise InputError(
        "one answer can be streamed, without beams: what is best is known at "
        "the end."
      )
    self._check_depth(decoding)
    state, memory, advance = self._begin(
      self._encode([instruction]), [number], decoding
    )
    said = ""
    for limit in range(1, decoding.max_tokens + 1):
      state = advance(state, memory, limit)
      is_over = bool(state.is_done[0, 0]) or limit == decoding.max_tokens
      if self._titles and not is_over:
        continue
      ((answer,), *_) = self._answers(state, decoding)
      # Half a character, of a piece that is a byte, waits for its other half.
      text = answer.text if is_over else answer.text.rstrip("\ufffd")
      if text.startswith(said) and text != said:
        yield text[len(said) :]
        said = text
      if is_over:
        return

  def _encode(self, instructions: Sequence[str]) -> list[list[int]]:
    return [
      self.check(text, f"instruction {number}")
      for number, text in enumerate(instructions, start=1)
    ]

  def _check_depth(self, decoding: Decoding) -> None:
    longest = max(map(len, self._titles), default=0)
    if longest > decoding.max_tokens:
      raise InputError(
        f"a title has {longest} tokens, an answer at most "
        f"{decoding.max_tokens}: allow as many tokens as the longest title has."
      )

  def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
    """Yields the numbers of instructions of about one length."""
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    for first in range(0, len(order), self._batch):
      yield order[first : first + self._batch]

  def _begin(
    self, ids: list[list[int]], numbers: Sequence[int], decoding: Decoding
  ) -> tuple[decode.State, decode.Read, Any]:
    """Reads a batch; returns a state of nothing and what goes on from it."""
    data = self._mesh.shape["data"]
    size = data
    while size < len(ids):
      size *= 2
    length = _at_least(max(map(len, ids)), _LENGTHS)
    of = np.zeros(size, np.uint32)
    of[: len(ids)] = [number % (1 << 32) for number in numbers]
    by_batch = mesh_lib.batch_sharding(self._mesh)
    of, is_any = mesh_lib.to_devices((of, np.arange(size) < len(ids)), by_batch)
    memory = self._memory(ids, size, length)
    start = self._start(
      decoding.sequences,
      _at_least(decoding.max_tokens, _ANSWERS),
      decoding.is_beam,
    )
    state = start(of, is_any, np.uint32(decoding.seed))
    return state, memory, self._advance(decoding)

  def _memory(
    self, ids: list[list[int]], size: int, length: int
  ) -> decode.Read:
    """Returns what decoding reads of instructions, in so many rows."""
    if self._reads_end_to_end:
      total, quarter = sum(map(len, ids)), size * length // 4
      tokens = np.full((1, -(-total // quarter) * quarter), PAD_ID, np.int32)
      tokens[0, :total] = list(itertools.chain.from_iterable(ids))
      lengths = np.zeros(size, np.int32)
      lengths[: len(ids)] = [*map(len, ids)]
      return self._read(length)(self._params, tokens, lengths)
    tokens = np.full((size, length), PAD_ID, np.int32)
    for row, of_one in enumerate(ids):
      tokens[row, : len(of_one)] = of_one
    by_batch = mesh_lib.batch_sharding(self._mesh)
    return self._read(None)(self._params, mesh_lib.to_devices(tokens, by_batch))

  def _new_read(self, length: int | None) -> Any:
    if length is None:
      return self._jit(decode.read, config=self._config)
    return self._jit(decode.read_end_to_end, config=self._config, length=length)

  def _advance(self, decoding: Decoding) -> Any:
    """Returns what decodes up to a limit of tokens."""
    if decoding.is_beam:
      search = self._program(decode.beam_search, is_t5x=decoding.rules == "t5x")
      numbers = (np.float32(decoding.length_penalty),)
    else:
      search = self._program(
        decode.sample,
        top_k=decoding.top_k,
        is_random=decoding.temperature > 0,
      )
      numbers = (np.float32(decoding.temperature), np.float32(decoding.top_p))

    def advance(state, memory, limit):
      return search(
        self._params,
        state,
        memory,
        self._allowed,
        np.int32(limit),
        *numbers,
      )

    return advance

  def _new_program(self, function: Any, **static: Any) -> Any:
    return self._jit(function, donate_argnums=1, config=self._config, **static)

  def _new_start(self, sequences: int, length: int, is_beam: bool) -> Any:
    program = functools.partial(
      decode.start,
      config=self._config,
      sequences=sequences,
      length=length,
      is_beam=is_beam,
    )

    def start(*arguments: Any) -> decode.State:
      # Split over the data axis, so that no device holds another's cache.
      shapes = jax.eval_shape(program, *arguments)
      shardings = jax.tree.map(
        lambda leaf: NamedSharding(
          self._mesh, PartitionSpec(*("data",)[: leaf.ndim])
        ),
        shapes,
      )
      return jax.jit(program, out_shardings=shardings)(*arguments)

    return start

  def _jit(self, function: Any, *, donate_argnums: Any = (), **static: Any):
    program = functools.partial(function, **static)
    # `with_activation_axes` asks for a function with a name.
    functools.update_wrapper(program, function)
    return jax.jit(
      mesh_lib.with_activation_axes(program, self._mesh),
      donate_argnums=donate_argnums,
      compiler_options=compiler_options(),
    )

  def _answers(
    self, state: decode.State, decoding: Decoding
  ) -> Iterator[tuple[Answer, ...]]:
    """Yields the answers of each row of a batch."""
    if ended := state.ended:
      fetched = (ended.tokens, ended.sums, ended.scores, ended.is_any)
    else:
      fetched = (state.tokens, state.sums, state.sums, state.sums < jnp.inf)
    if not all(array.is_fully_addressable for array in fetched):
      fetched = jax.jit(
        lambda *arrays: arrays, out_shardings=mesh_lib.replicated(self._mesh)
      )(*fetched)
    tokens, sums, scores, is_any = map(np.asarray, fetched)
    step = int(state.step)
    for row in zip(tokens, sums, scores, is_any, strict=True):
      answers = []
      for ids, log_likelihood, score, is_one in zip(*row, strict=True):
        if np.isnan(log_likelihood):
          raise InputError(
            "the model's weights make no numbers: the log-likelihood of an "
            "answer is not a number; train it again, or take another step."
          )
        if is_one:
          answers.append(self._answer(ids[:step], log_likelihood, score))
      yield tuple(answers[: decoding.answers])

  def _answer(self, ids: np.ndarray, log_p: float, score: float) -> Answer:
    (ends,) = np.nonzero(ids == EOS_ID)
    whole = tuple(map(int, ids[: ends[0] + 1] if len(ends) else ids))
    text = self._titles.get(whole) or self._vocabulary.decode(whole)
    return Answer(text, whole, float(log_p), float(score), bool(len(ends)))


def _at_least(number: int, sizes: Sequence[int]) -> int:
  return next(size for size in sizes if number <= size)
