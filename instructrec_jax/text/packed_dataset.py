"""Packed rows on disk, memory-mapped: written by `pack`, read by `train`.

A folder of manifest.json, vocabulary.model and four .npy arrays of shape
[rows, length], from which `features.expand_packed` derives the other features,
title_counts.json (see `PackedDataset`), and checksums.txt of them all.
"""

import functools
import itertools
import operator
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from instructrec_jax import checksums, storage
from instructrec_jax.errors import InputError, check_counts
from instructrec_jax.progress import progress
from instructrec_jax.text import features, packing
from instructrec_jax.text.spelling import Spelling
from instructrec_jax.text.vocabulary import Vocabulary

MANIFEST_FILE = "manifest.json"
VOCABULARY_FILE = "vocabulary.model"
TITLE_COUNTS_FILE = "title_counts.json"
SEPARATOR_KEY = "title_separator"
"""Of the manifest, if inputs are histories alone: what parts their titles."""
ARRAYS = (
  "encoder_tokens",
  "encoder_segments",
  "decoder_targets",
  "decoder_segments",
)
# What readers need of the manifest.
_MANIFEST = {
  "rows": int,
  "feature_lengths": {"inputs": int, "targets": int},
  "model_vocab_size": int,
}
# Examples that are packed together; bounds the memory.
_WINDOW = 8192
# Reserved for an .npy header, written when the number of rows is known.
_HEADER_BYTES = 128


class PackedDataset:
  """Packed rows, read at random: a `grain.RandomAccessDataSource` as it is.

  Another process gets the path, and maps the same files.

  Attributes:
    path: the folder.
    manifest: mixture, seed, counts, row fill, hash of the vocabulary, ...
    feature_lengths: {"inputs": encoder length, "targets": decoder length}.
    title_counts: how often each title of the catalogue is bought in training;
      none where the rows were packed without.
  """

  def __init__(self, path: pathlib.Path):
    self.path = pathlib.Path(path)
    manifest = self.path / MANIFEST_FILE
    if not manifest.is_file() or not (self.path / f"{ARRAYS[0]}.npy").exists():
      raise InputError(
        f"{self.path}: not a packed dataset; `instructrec pack` makes one."
      )
    checksums.verify(self.path, remedy="run `instructrec pack` again")
    self.manifest: dict[str, Any] = storage.read_json(manifest, _MANIFEST)
    self.feature_lengths: dict[str, int] = self.manifest["feature_lengths"]
    self._arrays = [self._map(name) for name in ARRAYS]
    counts = self.path / TITLE_COUNTS_FILE
    self.title_counts: dict[str, int] = (
      storage.read_json(counts, {str: int}) if counts.exists() else {}
    )

  @classmethod
  def open(cls, path: pathlib.Path) -> "PackedDataset":
    """Opens a folder that `pack_pairs` wrote.

    Raises:
      InputError: it is missing, something else, or truncated.
    """
    return cls(path)

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """The vocabulary that tokenised the rows."""
    return Vocabulary.load(self.path / VOCABULARY_FILE)

  def __len__(self) -> int:
    return len(self._arrays[0])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns T5X's features of a row; IndexError if there is no such row."""
    features = self.batch(np.array([operator.index(index)]))
    return {name: rows[0] for name, rows in features.items()}

  def __repr__(self) -> str:
    """Returns what Grain compares when it goes on where it was."""
    digest = storage.sha256_of(self.path / MANIFEST_FILE)
    return f"PackedDataset({len(self):,} rows, {digest[:16]})"

  def __getstate__(self) -> dict[str, Any]:
    unshared = ("_arrays", "vocabulary")
    return {n: v for n, v in vars(self).items() if n not in unshared}

  def __setstate__(self, state: dict[str, Any]) -> None:
    # They were verified by whoever opened them.
    vars(self).update(state)
    self._arrays = [self._map(name) for name in ARRAYS]

  def batch(self, rows: Int[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
    """Returns T5X's features of these rows."""
    return features.expand_packed(*(array[rows] for array in self._arrays))

  def token_counts(
    self, rows: Int[np.ndarray, " batch"]
  ) -> Int[np.ndarray, "batch 2"]:
    """Returns rows' non-padding tokens, of inputs and of targets."""
    inputs, _, targets, _ = self._arrays
    counts = [np.count_nonzero(a[rows], axis=1) for a in (inputs, targets)]
    return np.stack(counts, axis=1)

  def _map(self, name: str) -> np.ndarray:
    path = self.path / f"{name}.npy"
    try:
      array = np.load(path, mmap_mode="r")
    except Exception:
      # Of many types, since NumPy reads the header as Python.
      raise InputError(
        f"{path}: missing or truncated; run `instructrec pack` again."
      ) from None
    side = "inputs" if name.startswith("encoder") else "targets"
    shape = self.manifest["rows"], self.feature_lengths[side]
    if array.shape != shape or array.dtype.kind not in "iu":
      raise InputError(
        f"{path}: {array.dtype} of the shape {array.shape} where "
        f"{MANIFEST_FILE} says {shape[0]} rows of {shape[1]} numbers; run "
        "`instructrec pack` again."
      )
    return array


def pack_pairs(
  pairs: Iterable[tuple[str, str]],
  *,
  vocabulary: Vocabulary,
  out: pathlib.Path,
  encoder_length: int = 512,
  decoder_length: int = 64,
  manifest: dict[str, Any] | None = None,
  total: int | None = None,
  force: bool = False,
  inputs: Sequence[pathlib.Path] = (),
  title_counts: Mapping[str, int] | None = None,
  spelling: Spelling | None = None,
) -> PackedDataset:
  """Tokenises and packs (input, target) texts into a folder.

  Inputs are never truncated here: one that does not fit a row (rare, since the
  renderer keeps to its token budget) is dropped, and counted in the manifest.
  Targets are truncated, and counted.

  Args:
    pairs: the examples, shuffled; read once.
    encoder_length: a row's capacity in input tokens.
    decoder_length: a row's capacity in target tokens.
    manifest: further entries of manifest.json.
    total: number of pairs, for the progress bar.
    force: replace `out` if it exists.
    inputs: folders that are read, and may not be replaced.
    title_counts: of the catalogue, to be kept with the rows.
    spelling: of pieces of several words, where an example then fits.

  Raises:
    InputError: `out` exists, a length is below 2, or there is nothing to pack.
  """
  check_counts(
    least=2, input_length=encoder_length, target_length=decoder_length
  )
  counts = {"examples": 0, "inputs_dropped": 0, "targets_cut": 0}
  tokens = {"inputs": 0, "targets": 0}
  with storage.staged_folder(
    pathlib.Path(out), force=force, made_by="pack", inputs=inputs
  ) as partial:
    writer = _Writer(partial, vocabulary, encoder_length, decoder_length)
    bar = progress(pairs, total=total, desc="pack", unit="example")
    examples = iter(bar)
    while window := list(itertools.islice(examples, _WINDOW)):
      inputs, targets = [], []
      for source, target in window:
        ids = vocabulary.encode_one(source)
        answer = vocabulary.encode_one(target)
        if len(ids) >= encoder_length:
          counts["inputs_dropped"] += 1
          continue
        counts["targets_cut"] += len(answer) >= decoder_length
        if spelling:
          spelled = spelling(ids), spelling(answer)
          ids = spelled[0] if len(spelled[0]) < encoder_length else ids
          answer = spelled[1] if len(spelled[1]) < decoder_length else answer
        inputs.append(features.with_eos(ids, limit=encoder_length))
        targets.append(features.with_eos(answer, limit=decoder_length))
      counts["examples"] += len(inputs)
      tokens["inputs"] += sum(map(len, inputs))
      tokens["targets"] += sum(map(len, targets))
      if inputs:
        writer.write(inputs, targets)
    if not writer.rows:
      raise InputError("there is nothing to pack: no example fits a row.")
    writer.close()
    shutil.copyfile(vocabulary.path, partial / VOCABULARY_FILE)
    if title_counts:
      storage.write_json(partial / TITLE_COUNTS_FILE, dict(title_counts))
    lengths = {"inputs": encoder_length, "targets": decoder_length}
    storage.write_json(
      partial / MANIFEST_FILE,
      {
        **(manifest or {}),
        "feature_lengths": lengths,
        "rows": writer.rows,
        **counts,
        **{
          f"row_fill_{name}": tokens[name] / writer.rows / lengths[name]
          for name in lengths
        },
        "vocabulary_sha256": vocabulary.sha256,
        "model_vocab_size": vocabulary.model_vocab_size,
      },
    )
    checksums.write(partial)
  return PackedDataset.open(out)


class _Writer:
  """Appends packed windows to the four arrays."""

  def __init__(
    self,
    folder: pathlib.Path,
    vocabulary: Vocabulary,
    encoder_length: int,
    decoder_length: int,
  ):
    self.rows = 0
    self._lengths = encoder_length, decoder_length
    small = vocabulary.model_vocab_size <= 1 << 16
    # No row holds more examples than tokens.
    segment = np.min_scalar_type(min(self._lengths))
    self._dtypes = [np.uint16 if small else np.int32, segment] * 2
    self._files = [open(folder / f"{name}.npy", "wb") for name in ARRAYS]
    for file in self._files:
      file.write(b"\0" * _HEADER_BYTES)

  def write(self, inputs: list[list[int]], targets: list[list[int]]) -> None:
    encoder_length, decoder_length = self._lengths
    rows = packing.pack_lengths(
      list(map(len, inputs)),
      list(map(len, targets)),
      encoder_length=encoder_length,
      decoder_length=decoder_length,
    )
    arrays = [
      *_lay_out(rows, inputs, encoder_length),
      *_lay_out(rows, targets, decoder_length),
    ]
    for file, array, dtype in zip(
      self._files, arrays, self._dtypes, strict=True
    ):
      file.write(array.astype(dtype).tobytes())
    self.rows += len(rows)

  def close(self) -> None:
    for index, (file, dtype) in enumerate(
      zip(self._files, self._dtypes, strict=True)
    ):
      file.seek(0)
      np.lib.format.write_array_header_1_0(
        file,
        {
          "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
          "fortran_order": False,
          "shape": (self.rows, self._lengths[index // 2]),
        },
      )
      assert file.tell() == _HEADER_BYTES
      file.close()


def _lay_out(
  rows: list[list[int]], sequences: list[list[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens and segment ids [rows, length] of packed rows."""
  order = [example for row in rows for example in row]
  sizes = np.array([len(sequences[example]) for example in order])
  counts = np.array([len(row) for row in rows])
  first = np.cumsum(counts) - counts
  row_of = np.repeat(np.arange(len(rows)), counts)
  before = np.cumsum(sizes) - sizes
  start = row_of * length + before - before[first][row_of]
  place = np.repeat(start - before, sizes) + np.arange(sizes.sum())
  tokens = np.zeros(len(rows) * length, np.int32)
  ids = itertools.chain.from_iterable(sequences[example] for example in order)
  tokens[place] = np.fromiter(ids, np.int32, len(place))
  segments = np.zeros(len(rows) * length, np.int32)
  segments[place] = np.repeat(np.arange(len(order)) - first[row_of] + 1, sizes)
  return tokens.reshape(-1, length), segments.reshape(-1, length)
