"""A build on Apache Beam, for more machines than one.

Blocks are a PCollection. Workers render them, leave repeats out where records
come together by their digests, and write the shards: what is written is the
same, byte for byte, as without Beam. They need the package, and the dataset
folder under the same path.
"""
# The package is an extra.
# pyright: reportMissingImports=false

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import pickle
import re
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import PipelineRunner, create_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.instructions import blocks
from instructrec_jax.instructions.blocks import Block, Source
from instructrec_jax.instructions.rows import Cuts
from instructrec_jax.seqio_bridge import tfds_writer

_DIRECT = "direct"
# They have options of their own, which Beam's Python does not know.
_OF_JOB_SERVERS = ("portable", "flink", "spark")

_Record = tuple[str, bytes, bytes, tuple[int, ...]]
"""A row's split, digest (b"" where it may repeat), bytes and cuts; a row whose
answer does not fit has no split."""


@dataclasses.dataclass(frozen=True)
class Runner:
  """One of Beam's runners and its options, as TFDS names them.

  Attributes:
    name: such as "DirectRunner" or "DataflowRunner".
    options: of Beam, "NAME=VALUE" each.
  """

  name: str
  options: Sequence[str] = ()

  def __post_init__(self):
    """Raises InputError if there is no such runner, or no such option."""
    self._runner()
    parser = _Parser(allow_abbrev=False, add_help=False)
    # As Beam gathers them, which prints and ends the process instead.
    for each in PipelineOptions.__subclasses__():
      each._add_argparse_args(parser)
    found, unknown = parser.parse_known_args(self._flags)
    # Beam itself would fail later, or heed neither.
    workers = {"--beam_options direct_num_workers": found.direct_num_workers}
    check_counts(least=0, **workers)
    if found.runner:
      raise InputError(
        f"--beam_options has runner={found.runner:.60}: a runner is named with "
        "--beam_runner."
      )
    if unknown and self._kind not in _OF_JOB_SERVERS:
      raise InputError(
        f"--beam_options has {unknown[0][2:]!r:.60}, which Beam does not know: "
        "NAME=VALUE,NAME=VALUE of its pipeline options is needed."
      )

  def run(
    self,
    construct: Callable[[beam.Pipeline], beam.PCollection],
    *,
    scratch: pathlib.Path,
  ) -> list[Any]:
    """Runs a pipeline; returns what it ends with, in any order.

    Args:
      construct: returns the last PCollection; it must fit in memory.
      scratch: a folder that all workers see.

    Raises:
      InputError: it failed.
    """
    path = scratch / f"{uuid.uuid4().hex}.pickle"
    try:
      pipeline = beam.Pipeline(
        runner=self._runner(), options=PipelineOptions(self._flags)
      )
      found = construct(pipeline) | "listed" >> beam.combiners.ToList()
      _ = found | "kept" >> beam.Map(_keep, path=path)
      pipeline.run().wait_until_finish()
      return pickle.loads(path.read_bytes())
    except Exception as error:
      raise InputError(self._why(error)) from error

  def _why(self, error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    # It comes from a worker as text.
    if ours := re.findall(r"InputError: (.+)", text):
      return ours[-1].partition(" [while running")[0].rstrip("\\n'\"")
    reason = text.splitlines()[-1]
    reason = reason[:300].rstrip(".")
    return f"Beam's {self.name} failed, and nothing is built: {reason}."

  def _runner(self) -> Any:
    if self._kind == _DIRECT:
      # That one would look for a newer one to download, which heeds neither
      # the number of its workers nor how they run.
      return FnApiRunner()
    try:
      runner = create_runner(self.name)
      if not isinstance(runner, PipelineRunner):
        raise TypeError("it is no runner")
      return runner
    except Exception as error:  # of any module that the name is taken for
      reason = (str(error).splitlines() or [type(error).__name__])[0]
      raise InputError(
        f"--beam_runner is {self.name!r:.60}, which Beam does not know "
        f"({reason:.200}): DirectRunner and DataflowRunner are two."
      ) from None

  @property
  def _kind(self) -> str:
    """The name as Beam reads it."""
    return self.name.lower().removesuffix("runner")

  @property
  def _flags(self) -> list[str]:
    return [f"--{option}" for option in self.options]


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise InputError(f"--beam_options: {message:.200}.")


class Engine:
  """Renders and writes on Beam, as `blocks.Engine` has it."""

  def __init__(
    self, make: Callable[[], Source], scratch: pathlib.Path, *, runner: Runner
  ):
    """Starts nothing yet.

    Args:
      make: opens the source; it is sent to the workers.
      scratch: a folder that they see, which no other build has.
      runner: where they are.
    """
    self._opened = _Opened(make, scratch.name)
    self._scratch, self._runner = scratch, runner

  def map(
    self, function: Callable[[Source, Any], Any], arguments: Iterable[Any]
  ) -> Iterator[Any]:
    """Yields a function's results, in the order of its second arguments."""

    def construct(pipeline: beam.Pipeline) -> beam.PCollection:
      return (
        pipeline
        | "arguments" >> beam.Create([*enumerate(arguments)])
        | "spread" >> beam.Reshuffle()
        | "called" >> beam.Map(_call, opened=self._opened, function=function)
      )

    found = self._runner.run(construct, scratch=self._scratch)
    for _, result in sorted(found, key=lambda each: each[0]):
      yield result

  def write_rows(
    self, blocks: Iterable[Block], *, folder: pathlib.Path, splits: list[str]
  ) -> tuple[dict[str, int], Cuts]:
    """Writes all rows; returns their number by split, and what they lost."""
    (folder / tfds_writer.SHARDS).mkdir(parents=True)

    def construct(pipeline: beam.Pipeline) -> beam.PCollection:
      rendered = (
        pipeline
        | "blocks" >> beam.Create([*enumerate(blocks)])
        | "spread" >> beam.Reshuffle()
        | "rendered" >> beam.Map(_render, opened=self._opened)
      )
      repeats = (
        rendered
        | "digests" >> beam.FlatMap(_digests)
        | "by digest" >> beam.GroupByKey()
        | "repeats" >> beam.FlatMap(_repeats)
      )
      kept = (
        {"records": rendered, "repeats": repeats}
        | "by block" >> beam.CoGroupByKey()
        | "without repeats" >> beam.Map(_without_repeats)
      )
      starts = (
        kept
        | "counts" >> beam.FlatMap(_counts)
        | "by split" >> beam.GroupByKey()
        | "starts" >> beam.Map(_starts)
      )
      shards = (
        kept
        | "into shards"
        >> beam.FlatMap(_into_shards, starts=beam.pvalue.AsDict(starts))
        | "by shard" >> beam.GroupByKey()
        | "written"
        >> beam.Map(_write_shard, folder=folder, scratch=self._scratch)
      )
      cuts = (
        kept
        | "cuts" >> beam.Map(lambda block: block[2])
        | "all cuts" >> beam.CombineGlobally(_add_cuts)
      )
      return (shards, cuts) | "both" >> beam.Flatten()

    found = self._runner.run(construct, scratch=self._scratch)
    (cuts,) = (each for each in found if isinstance(each, Cuts))
    shards = {split: [] for split in splits}
    written = (each for each in found if not isinstance(each, Cuts))
    for split, _, *size in sorted(written):
      shards[split].append(tuple(size))
    tfds_writer.write_info(folder, shards)
    counts = {name: sum(n for n, _ in sizes) for name, sizes in shards.items()}
    return counts, cuts


@dataclasses.dataclass(frozen=True)
class _Opened:
  """A source that each worker's process opens once."""

  make: Callable[[], Source]
  token: str

  @contextlib.contextmanager
  def source(self) -> Iterator[Source]:
    """Yields it, to one thread at a time."""
    with _lock:
      if self.token not in _own:
        _own.clear()
        # A bundle's blocks are of any split.
        _own[self.token] = dataclasses.replace(self.make(), keeps_draws=True)
      yield _own[self.token]


_lock = threading.Lock()
_own: dict[str, Source] = {}


def _keep(found: list[Any], path: pathlib.Path) -> None:
  partial = path.with_suffix(f".{uuid.uuid4().hex}")
  partial.write_bytes(pickle.dumps(found))
  os.replace(partial, path)


def _call(
  numbered: tuple[int, Any],
  opened: _Opened,
  function: Callable[[Source, Any], Any],
) -> tuple[int, Any]:
  number, argument = numbered
  with opened.source() as source:
    return number, function(source, argument)


def _render(
  numbered: tuple[int, Block], opened: _Opened
) -> tuple[int, list[_Record]]:
  number, block = numbered
  records: list[_Record] = []
  with opened.source() as source:
    for row, cuts in source.rendered(block):
      lost = tuple(vars(cuts).values())
      if row is None:
        records.append(("", b"", b"", lost))
        continue
      digest = b""
      if block.is_of_distinct:
        texts = "\0".join((row.form, row.inputs, row.targets))
        digest = hashlib.blake2b(texts.encode(), digest_size=16).digest()
      split = f"{row.form}_{block.split}"
      records.append((split, digest, tfds_writer.serialized(row), lost))
  return number, records


def _digests(
  block: tuple[int, list[_Record]],
) -> Iterator[tuple[bytes, tuple[int, int]]]:
  number, records = block
  for place, (_, digest, _, _) in enumerate(records):
    if digest:
      yield digest, (number, place)


def _repeats(
  found: tuple[bytes, Iterable[tuple[int, int]]],
) -> list[tuple[int, int]]:
  """Returns the blocks and places of a row, but for the first."""
  return sorted(found[1])[1:]


def _without_repeats(
  found: tuple[int, dict[str, Iterable[Any]]],
) -> tuple[int, dict[str, list[bytes]], Cuts]:
  """Returns a block's number, its new records by split, and their cuts."""
  number, of_block = found
  (records,) = of_block["records"]
  repeats = {*of_block["repeats"]}
  kept = [each for place, each in enumerate(records) if place not in repeats]
  by_split: dict[str, list[bytes]] = {}
  for split, _, record, _ in kept:
    if split:
      by_split.setdefault(split, []).append(record)
  lost = zip(*(cuts for *_, cuts in kept), strict=True)
  return number, by_split, Cuts(*map(sum, lost))


def _counts(
  block: tuple[int, dict[str, list[bytes]], Cuts],
) -> Iterator[tuple[str, tuple[int, int]]]:
  number, by_split, _ = block
  for split, records in by_split.items():
    yield split, (number, len(records))


def _starts(
  counted: tuple[str, Iterable[tuple[int, int]]],
) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
  """Returns the blocks of a split, and where in it each starts."""
  split, counts = counted
  numbers, sizes = np.array(sorted(counts)).T
  return split, (numbers, np.cumsum(sizes) - sizes)


def _into_shards(
  block: tuple[int, dict[str, list[bytes]], Cuts],
  starts: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[tuple[str, int], tuple[int, list[bytes]]]]:
  number, by_split, _ = block
  for split, records in by_split.items():
    numbers, first = starts[split]
    place = int(first[np.searchsorted(numbers, number)])
    while records:
      shard, within = divmod(place, tfds_writer.SHARD_ROWS)
      fits = tfds_writer.SHARD_ROWS - within
      yield (split, shard), (within, records[:fits])
      records = records[fits:]
      place += fits


def _write_shard(
  found: tuple[tuple[str, int], Iterable[tuple[int, list[bytes]]]],
  folder: pathlib.Path,
  scratch: pathlib.Path,
) -> tuple[str, int, int, int]:
  """Returns a shard's split and number, its records and their bytes."""
  (split, number), pieces = found
  ordered = sorted(pieces, key=lambda piece: piece[0])
  records = [*itertools.chain.from_iterable(piece for _, piece in ordered)]
  # A worker that was given up may still be writing the same.
  partial = scratch / uuid.uuid4().hex
  with tf.io.TFRecordWriter(str(partial)) as writer:
    for record in records:
      writer.write(record)
  os.replace(partial, tfds_writer.shard_path(folder, split, number))
  return split, number, len(records), sum(map(len, records))


def _add_cuts(found: Iterable[Cuts]) -> Cuts:
  total = Cuts()
  for cuts in found:
    total.add(cuts)
  return total


def engine(runner: Runner) -> Callable[..., blocks.Engine]:
  """Returns what `build` takes as its `engine`."""
  return functools.partial(Engine, runner=runner)
