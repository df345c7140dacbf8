"""A SeqIO mixture -> packed rows for the trainer.

Training examples are sampled at the mixing rates; an epoch of another split
has each of its rows once.
"""

import array
import contextlib
import dataclasses
import difflib
import itertools
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.splits import SPLITS
from instructrec_jax.errors import (
  InputError,
  check_counts,
  check_seed,
  read_number,
)
from instructrec_jax.instructions.material import title_counts
from instructrec_jax.instructions.render import SEPARATOR
from instructrec_jax.instructions.scenarios import SEQUENCES
from instructrec_jax.seqio_bridge.registration import (
  InstructionSource,
  count_rows,
  told_damage,
  use_dataset,
)
from instructrec_jax.text.packed_dataset import (
  SEPARATOR_KEY,
  PackedDataset,
  pack_pairs,
)
from instructrec_jax.text.spelling import Spelling
from instructrec_jax.text.vocabulary import Vocabulary

_READ_BATCH = 4096
_TEXTS: dict[str, Any] = dict.fromkeys(
  ("inputs", "targets"), tf.io.FixedLenFeature((), tf.string)
)


@dataclasses.dataclass(frozen=True)
class Member:
  """A task of a mixture, with its rows in the split."""

  task: seqio.Task
  # Its mixing rate, normalised to sum to 1.
  share: float
  rows: int


def open_mixture(
  name: str, *, dataset: pathlib.Path, split: str
) -> list[Member]:
  """Returns the tasks of a mixture, or a task by itself, that have rows.

  Several may be named with how much each weighs, "NAME=3,NAME=1": within each,
  tasks keep their mixing rates.

  Raises:
    InputError: an unbuilt dataset, or no such mixture or split, or no rows.
  """
  use_dataset(dataset)
  if split not in SPLITS:
    raise InputError(f"the split is {split!r}, not one of {', '.join(SPLITS)}.")
  weights = _weights(name)
  parts = {part: _members(part, dataset, split) for part in weights}
  # A part without rows, of validation say, leaves its weight to the others.
  total = sum(weight for part, weight in weights.items() if parts[part])
  if not total:
    raise InputError(f"{dataset}: {name} has no rows in its {split} split.")
  members: dict[str, Member] = {}
  for part, weight in weights.items():
    for member in parts[part]:
      known = members.get(member.task.name)
      share = member.share * weight / total + (known.share if known else 0)
      members[member.task.name] = dataclasses.replace(member, share=share)
  return list(members.values())


def _weights(name: str) -> dict[str, float]:
  """Parses "NAME" or "NAME=WEIGHT,NAME=WEIGHT".

  Raises:
    InputError: a weight is missing or not positive, or a name comes twice.
  """
  if "=" not in name and "," not in name:
    return {name: 1.0}
  weights: dict[str, float] = {}
  for part in name.split(","):
    single, _, number = part.strip().partition("=")
    try:
      weight = read_number(number)
    except ValueError:
      weight = math.nan
    if not single or single in weights or not 0 < weight < math.inf:
      raise InputError(
        f"the mixture is {name!r:.200}: names are needed, each once and with a "
        "number above 0, such as instructrec_sequences_v1=3,"
        "instructrec_p0_i2_t3_v1=1."
      )
    weights[single] = weight
  return weights


def _members(name: str, dataset: pathlib.Path, split: str) -> list[Member]:
  """Returns the tasks of one mixture, or a task, that have rows."""
  try:
    provider = seqio.get_mixture_or_task(name)
  except ValueError:
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    close = difflib.get_close_matches(name, known) or ["instructrec_all_v1"]
    raise InputError(
      f"there is no mixture or task {name!r}; among the {len(known)} there are "
      f"{', '.join(close)}."
    ) from None
  with told_damage(dataset):
    if isinstance(provider, seqio.Task):
      rates = {provider: 1.0}
    else:
      rates = {task: provider.get_rate(task) for task in provider.tasks}
    rows = {task: count_rows(task, split) for task in rates}
  total = sum(rate for task, rate in rates.items() if rows[task])
  if not total:
    # Rates are numbers of training rows, and there may be none.
    rates, total = rows, sum(rows.values())
  return [
    Member(task, share=rate / total, rows=rows[task])
    for task, rate in rates.items()
    if rows[task]
  ]


def pack_mixture(
  *,
  mixture: str,
  dataset: pathlib.Path,
  out: pathlib.Path,
  split: str = "train",
  input_length: int = 512,
  target_length: int = 64,
  examples: int | None = None,
  spell: float = 0.0,
  seed: int = 0,
  force: bool = False,
) -> PackedDataset:
  """Samples examples of a mixture, tokenises and packs them.

  Args:
    mixture: name of a SeqIO mixture or task, or several with weights; see
      `open_mixture`.
    dataset: a folder of `build`.
    out: the folder to write.
    split: "train", "validation" or "test".
    input_length: a row's tokens for instructions.
    target_length: a row's tokens for answers.
    examples: how many to sample at the mixing rates; if None, as many as the
      tasks have rows, and each row of "validation" and "test" once.
    spell: the share of pieces of several words, whole titles say, that are
      spelled in single words instead.
    seed: of the sample and its order, and of what is spelled.
    force: replace `out`.

  Raises:
    InputError: no such mixture, an unbuilt dataset, or `out` exists.
  """
  check_counts(least=2, input_length=input_length, target_length=target_length)
  check_counts(**{} if examples is None else {"examples": examples})
  check_seed(seed)
  folder = DatasetFolder.open(dataset)
  members = open_mixture(mixture, dataset=dataset, split=split)
  total = examples or sum(member.rows for member in members)
  if examples is None and split != "train":
    # The mixing rates are those of training.
    members = [
      dataclasses.replace(member, share=member.rows / total)
      for member in members
    ]
  vocabulary = Vocabulary.load(folder.vocabulary_path)
  spelling = Spelling(vocabulary, rate=spell, seed=seed) if spell else None
  manifest: dict[str, Any] = {
    "mixture": mixture,
    "split": split,
    "seed": seed,
    **({"spell": spell} if spell else {}),
    "tasks": {
      member.task.name: {"share": member.share, "rows": member.rows}
      for member in members
    },
  }
  if all(f"_{SEQUENCES}_" in member.task.name for member in members):
    manifest[SEPARATOR_KEY] = SEPARATOR
  return pack_pairs(
    _draw(members, dataset, split=split, total=total, seed=seed, beside=out),
    vocabulary=vocabulary,
    out=out,
    encoder_length=input_length,
    decoder_length=target_length,
    manifest=manifest,
    total=total,
    force=force,
    inputs=(dataset,),
    title_counts=title_counts(folder),
    spelling=spelling,
  )


def _draw(
  members: list[Member],
  dataset: pathlib.Path,
  *,
  split: str,
  total: int,
  seed: int,
  beside: pathlib.Path,
) -> Iterator[tuple[str, str]]:
  """Yields pairs in random order; a task repeats no row within an epoch.

  Texts wait in a nameless file beside another, so memory holds numbers alone.
  """
  rng = np.random.default_rng(seed)
  place = pathlib.Path(beside).absolute().parent
  with contextlib.ExitStack() as opened:
    pairs = [opened.enter_context(_Texts(place)) for _ in members]
    for texts, member in zip(pairs, members, strict=True):
      texts.fill(_read(member.task, split, dataset))
    shares = np.array([member.share for member in members])
    counts = _apportion(shares, total, rng)
    orders = [
      iter(_epochs(len(rows), int(count), rng))
      for rows, count in zip(pairs, counts, strict=True)
    ]
    tasks = np.arange(len(members), dtype=np.int32)
    for member in rng.permutation(np.repeat(tasks, counts)):
      yield pairs[member][next(orders[member])]


def _apportion(
  shares: np.ndarray, total: int, rng: np.random.Generator
) -> Int[np.ndarray, " tasks"]:
  """Rounds shares of a total to integers that sum to it, at random."""
  exact = shares * total
  counts = np.floor(exact).astype(int)
  rest = exact - counts
  missing = total - counts.sum()
  if missing:
    chosen = rng.choice(
      len(shares), missing, replace=False, p=rest / rest.sum()
    )
    counts[chosen] += 1
  return counts


def _epochs(
  rows: int, count: int, rng: np.random.Generator
) -> Int[np.ndarray, " count"]:
  """Returns row numbers: as many permutations of all rows as needed."""
  epochs = [rng.permutation(rows) for _ in range(-(-count // rows))]
  return np.concatenate([np.empty(0, int), *epochs])[:count]


class _Texts:
  """The untokenised pairs of a task, on disk, read at random. A context."""

  def __init__(self, folder: pathlib.Path):
    """Opens a file there that has no name, so that no killed run leaves it."""
    self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    # Where inputs and targets end, after 0.
    self._ends = array.array("q", [0])

  def __enter__(self) -> "_Texts":
    return self

  def __exit__(self, *_: object) -> None:
    self._file.close()

  def fill(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Writes all pairs, of which there are none yet."""
    end = 0
    for text in itertools.chain.from_iterable(pairs):
      end += self._file.write(text)
      self._ends.append(end)
    self._file.flush()

  def __len__(self) -> int:
    return len(self._ends) // 2

  def __getitem__(self, row: int) -> tuple[str, str]:
    start, middle, end = self._ends[2 * row : 2 * row + 3]
    text = os.pread(self._file.fileno(), end - start, start)
    return text[: middle - start].decode(), text[middle - start :].decode()


def _read(
  task: seqio.Task, split: str, dataset: pathlib.Path
) -> Iterator[tuple[bytes, bytes]]:
  """Yields the untokenised texts of a task's source."""
  source = task.source
  with told_damage(dataset):
    files = source.files(split) if isinstance(source, InstructionSource) else ()
    if len(files) == 1:
      # As TFDS would, but for the functions that it traces anew for each task,
      # which take longer than to read the rows of a small one.
      records = tf.data.TFRecordDataset(files).batch(_READ_BATCH)
      batches = (tf.io.parse_example(batch, _TEXTS) for batch in records)
    else:
      rows = source.get_dataset(split=split, shuffle=False)
      batches = rows.batch(_READ_BATCH).prefetch(tf.data.AUTOTUNE)
    for batch in batches:
      texts = (batch[name].numpy() for name in _TEXTS)
      yield from zip(*texts, strict=True)
