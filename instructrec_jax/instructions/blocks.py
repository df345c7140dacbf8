"""A build's rows in blocks of targets, which any process renders alike.

What is random is drawn from the seed, split and family for all targets at once,
which is quick; rendering takes the time, and is a function of a target and its
draws. So a block of targets is the same whoever renders it, and rows come in
the order of the blocks. What no block can know by itself, whether a training
row is there already, is decided where they come together.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import InputError
from instructrec_jax.instructions import sequences
from instructrec_jax.instructions.aspects import TaskForm
from instructrec_jax.instructions.material import Material
from instructrec_jax.instructions.paraphrases import Paraphrases
from instructrec_jax.instructions.rows import (
  NEGATIVES,
  Cuts,
  Part,
  Renderer,
  Row,
  instruction_parts,
)
from instructrec_jax.instructions.templates import Form

# Rows that are rendered at once.
_ROWS = 4096
# Blocks of each process that are rendered, or wait to be fetched.
_AHEAD = 3
# How often dead processes are looked for while a result is waited for.
_WATCH_SECONDS = 1.0

# The part that comes after those of instructions.
SEQUENCES = 2

Rendered = list[tuple[Row | None, Cuts]]
"""Rows, None where an answer did not fit, and what each truncated."""
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
  """Targets `start` to `end` of a part of a split.

  Attributes:
    part: an index of `instruction_parts`, or `SEQUENCES`.
  """

  split: str
  part: int
  start: int
  end: int

  @property
  def is_of_distinct(self) -> bool:
    """Whether rows that are there already, in any block, are left out."""
    return self.split == "train" and self.part != SEQUENCES


@dataclasses.dataclass(frozen=True)
class Source:
  """What the rows of a build are made of."""

  folder: DatasetFolder
  material: Material
  renderer: Renderer
  families: Mapping[str, Sequence[Form]]
  rows_per_target: int
  paraphrases: Paraphrases | None
  unlisted: float
  with_sequences: bool
  seed: int
  # Whether blocks of several splits are rendered in turns.
  keeps_draws: bool = False
  _drawn: dict[str, list[Part]] = dataclasses.field(default_factory=dict)

  def blocks(self) -> Iterator[Block]:
    """Yields all blocks, in the order of their rows."""
    for split in SPLITS:
      sizes = [(len(part), part.rows_of_target) for part in self._parts(split)]
      if self.with_sequences:
        sizes.append((sequences.count_sequences(self.material, split), 1))
      for number, (size, rows) in enumerate(sizes):
        step = max(1, _ROWS // max(rows, 1))
        for start in range(0, size, step):
          yield Block(split, number, start, min(start + step, size))

  def rendered(self, block: Block) -> Rendered:
    """Renders a block; repeats of training are still there."""
    if block.part != SEQUENCES:
      return list(
        self._parts(block.split)[block.part].rendered(
          self.renderer, start=block.start, end=block.end
        )
      )
    renderer = dataclasses.replace(self.renderer, cuts=Cuts())
    rows: Rendered = []
    for row in sequences.sequence_rows(
      self.material,
      renderer,
      split=block.split,
      seed=self.seed,
      block=slice(block.start, block.end),
    ):
      rows.append((row, renderer.cuts))
      renderer.cuts = Cuts()
    return rows

  def _parts(self, split: str) -> list[Part]:
    if split in self._drawn:
      return self._drawn[split]
    if not self.keeps_draws:
      # Of one split at a time: draws are as many as targets.
      self._drawn.clear()
    stored = of_items = None
    if split != "train":
      count = NEGATIVES[TaskForm.RERANKING]
      stored = self.folder.candidates(split, count)
      # There are none without categories, and then no such rows.
      with contextlib.suppress(InputError):
        of_items = self.folder.candidates(split, count, "items")
    self._drawn[split] = instruction_parts(
      self.material,
      facts=self.material.facts(split),
      families=self.families,
      rows_per_target=self.rows_per_target,
      candidates=stored,
      item_candidates=of_items,
      paraphrases=self.paraphrases,
      unlisted=self.unlisted,
      seed=self.seed,
    )
    return self._drawn[split]


class Engine(Protocol):
  """Others than `Processes` that run functions of a `Source`, and write rows.

  `seqio_bridge.beam.Engine` is one.
  """

  def map(
    self, function: Callable[[Source, Any], _T], arguments: Iterable[Any]
  ) -> Iterable[_T]:
    """Returns a function's results, in the order of its second arguments."""
    ...

  def write_rows(
    self, blocks: Iterable[Block], *, folder: pathlib.Path, splits: list[str]
  ) -> tuple[dict[str, int], Cuts]:
    """Writes the rows of blocks as `WriteRows` would, and truncates as many.

    Args:
      blocks: of `Source.blocks`.
      folder: as `build.WriteRows` has it.
      splits: likewise.

    Returns:
      The number of rows by split, and what they lost.
    """
    ...


class Processes:
  """Runs functions of a `Source` in several processes, or in this one.

  A context. Each process opens the folder for itself, by `make`.
  """

  def __init__(
    self, source: Source, make: Callable[[], Source], *, workers: int
  ):
    """Starts nothing yet.

    Args:
      source: of this process.
      make: returns another process its own; no lambda, as it is sent there.
      workers: how many; 1 for this process.
    """
    self._source, self._pool = source, None
    self._workers = workers
    if workers == 1:
      return
    # Not forked: threads of TensorFlow and polars would not come along.
    self._pool = concurrent.futures.ProcessPoolExecutor(
      workers,
      mp_context=multiprocessing.get_context("spawn"),
      initializer=_start,
      initargs=(make,),
    )

  def __enter__(self) -> "Processes":
    """Returns itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends the processes."""
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)

  def map(
    self, function: Callable[[Source, Any], _T], arguments: Iterable[Any]
  ) -> Iterator[_T]:
    """Yields a function's results, in the order of its second arguments.

    Raises:
      InputError: a process was ended from outside.
    """
    if self._pool is None:
      yield from (function(self._source, each) for each in arguments)
      return
    waiting: collections.deque[concurrent.futures.Future[_T]] = (
      collections.deque()
    )
    try:
      for each in arguments:
        waiting.append(self._pool.submit(_call, function, each))
        if len(waiting) >= _AHEAD * self._workers:
          yield self._result(waiting.popleft())
      while waiting:
        yield self._result(waiting.popleft())
    except concurrent.futures.process.BrokenProcessPool:
      raise InputError(
        "a process that makes instructions was ended from outside, as for want "
        "of memory: run the command again, with fewer --workers."
      ) from None

  def _result(self, future: concurrent.futures.Future[_T]) -> _T:
    """Waits for a result, also where a process dies in the midst of sending.

    The pool would wait for the rest for ever, as its own end of the pipe to
    write to is open. Raises BrokenProcessPool.
    """
    pool: Any = self._pool
    while not concurrent.futures.wait([future], timeout=_WATCH_SECONDS).done:
      processes = [*(pool._processes or {}).values()]
      if any(process.exitcode is not None for process in processes):
        for process in processes:
          process.kill()
        with contextlib.suppress(OSError):
          pool._result_queue._writer.close()
        break
    return future.result()


def _start(make: Callable[[], Source]) -> None:
  """Makes a process ready."""
  # The first process is told, and ends the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def follow() -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  # Nothing tells a process that the first was killed.
  threading.Thread(target=follow, daemon=True).start()
  try:
    _own.append(make())
  except InputError as error:
    # Raised here it would look like a process that was killed.
    _refused.append(error)


_own: list[Source] = []
_refused: list[InputError] = []


def _call(function: Callable[[Source, Any], _T], argument: Any) -> _T:
  if _refused:
    raise _refused[0]
  return function(_own[0], argument)
