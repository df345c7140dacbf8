import collections
import os
import pickle

import numpy as np
import pytest

from instructrec_jax import storage
from instructrec_jax.errors import InputError
from instructrec_jax.text import packed_dataset
from instructrec_jax.text.packed_dataset import PackedDataset, pack_pairs

LENGTHS = {"encoder_length": 64, "decoder_length": 16}


@pytest.fixture(scope="module")
def pairs(corpus):
  texts = [sentence.split() for sentence in corpus[:200]]
  return [
    (" ".join(words[: 1 + i % 8]), " ".join(words[: 1 + i % 2]))
    for i, words in enumerate(texts)
  ]


@pytest.fixture
def packed(tmp_path, byte_pair, pairs) -> PackedDataset:
  return pack_pairs(pairs, vocabulary=byte_pair, out=tmp_path / "p", **LENGTHS)


def _examples(batch):
  """Takes the examples of expanded rows apart again."""
  for row in range(len(batch["encoder_input_tokens"])):
    for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
      yield tuple(
        tuple(batch[tokens][row][batch[segments][row] == segment].tolist())
        for tokens, segments in (
          ("encoder_input_tokens", "encoder_segment_ids"),
          ("decoder_target_tokens", "decoder_segment_ids"),
        )
      )


@pytest.mark.parametrize("window", [1, 7, 8192])
def test_rows_hold_every_example_once(
  window, tmp_path, byte_pair, pairs, monkeypatch
):
  monkeypatch.setattr(packed_dataset, "_WINDOW", window)
  packed = pack_pairs(
    iter(pairs), vocabulary=byte_pair, out=tmp_path / "p", **LENGTHS
  )
  batch = packed.batch(np.arange(len(packed)))
  expected = (
    tuple((*ids, 1) for ids in byte_pair.encode(pair)) for pair in pairs
  )
  assert collections.Counter(_examples(batch)) == collections.Counter(expected)


def test_a_row_is_that_of_a_batch_here_and_elsewhere(packed):
  sent = pickle.dumps(packed)
  # The path, not the rows.
  assert len(sent) < 4096
  expected = packed.batch(np.arange(len(packed)))
  for source in (packed, pickle.loads(sent)):
    rows = [*source]
    assert len(rows) == len(source) == len(packed)
    assert repr(source) == repr(packed)
    for name, values in expected.items():
      np.testing.assert_array_equal([row[name] for row in rows], values)
  with pytest.raises(IndexError):
    packed[len(packed)]


def test_grain_reads_the_rows(packed):
  grain = pytest.importorskip("grain", reason="Grain is not installed")
  assert isinstance(packed, grain.sources.RandomAccessDataSource)
  batches = grain.MapDataset.source(packed).shuffle(seed=3).batch(4)
  found = [row.tobytes() for b in batches for row in b["encoder_input_tokens"]]
  rows = packed.batch(np.arange(len(packed)))["encoder_input_tokens"]
  expected = [row.tobytes() for row in rows]
  assert found != expected and sorted(found) == sorted(expected)


def test_the_manifest_counts(packed, byte_pair, pairs):
  batch = packed.batch(np.arange(len(packed)))
  manifest = packed.manifest
  assert manifest["rows"] == len(packed)
  assert manifest["examples"] == len(pairs)
  assert manifest["inputs_dropped"] == manifest["targets_cut"] == 0
  assert manifest["vocabulary_sha256"] == byte_pair.sha256
  assert manifest["model_vocab_size"] == byte_pair.model_vocab_size
  assert packed.feature_lengths == {"inputs": 64, "targets": 16}
  assert manifest["row_fill_inputs"] == pytest.approx(
    (batch["encoder_input_tokens"] > 0).mean()
  )
  assert manifest["row_fill_targets"] == pytest.approx(
    (batch["decoder_target_tokens"] > 0).mean()
  )
  assert packed.vocabulary.sha256 == byte_pair.sha256


def test_rows_are_mapped_not_read(packed):
  for name in packed_dataset.ARRAYS:
    array = np.load(packed.path / f"{name}.npy", mmap_mode="r")
    assert isinstance(array, np.memmap)
    assert array.dtype == (np.uint8 if "segments" in name else np.uint16)


def test_rows_can_be_read_in_any_order(packed):
  order = np.array([3, 0, 3])
  batch, whole = packed.batch(order), packed.batch(np.arange(len(packed)))
  for name, values in batch.items():
    np.testing.assert_array_equal(values, whole[name][order])


def test_long_inputs_are_dropped_and_long_targets_cut(tmp_path, byte_pair):
  ids, answer = byte_pair.encode(["9 " * 7, "8 " * 9])
  assert (len(ids), len(answer)) == (7, 9)
  packed = pack_pairs(
    [("9 " * 7, "8 " * 9), ("9 " * 8, "8")],
    vocabulary=byte_pair,
    out=tmp_path / "p",
    encoder_length=8,
    decoder_length=6,
  )
  assert packed.manifest["inputs_dropped"] == 1
  assert packed.manifest["targets_cut"] == 1
  assert packed.manifest["examples"] == 1
  [(inputs, targets)] = _examples(packed.batch(np.array([0])))
  assert inputs == (*ids, 1)
  assert targets == (*answer[:5], 1)


def test_an_interrupted_run_leaves_nothing(tmp_path, byte_pair, pairs):
  def broken():
    yield from pairs
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    pack_pairs(broken(), vocabulary=byte_pair, out=tmp_path / "p", **LENGTHS)
  assert not any(tmp_path.iterdir())


def test_a_killed_run_does_not_look_finished(
  tmp_path, byte_pair, pairs, monkeypatch
):
  # A kill cannot clean up: the rows are there, their count is not.
  monkeypatch.setattr(storage, "_remove", lambda path: None)
  monkeypatch.setattr(packed_dataset, "_WINDOW", 50)

  def broken():
    yield from pairs
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    pack_pairs(broken(), vocabulary=byte_pair, out=tmp_path / "p", **LENGTHS)
  [partial] = tmp_path.iterdir()
  assert partial.name == ".p.partial"
  with pytest.raises(InputError, match="not a packed dataset"):
    PackedDataset.open(partial)


def test_a_packed_dataset_is_replaced_only_by_force(packed, byte_pair):
  with pytest.raises(InputError, match="exists already"):
    pack_pairs([("a", "b")], vocabulary=byte_pair, out=packed.path)
  again = pack_pairs(
    [("a", "b")], vocabulary=byte_pair, out=packed.path, force=True
  )
  assert len(again) == 1


def test_nothing_to_pack_is_refused(tmp_path, byte_pair):
  with pytest.raises(InputError, match="nothing to pack"):
    pack_pairs([], vocabulary=byte_pair, out=tmp_path / "p")
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("lengths", [(0, 8), (8, -1)])
def test_rows_of_no_length_are_refused(lengths, tmp_path, byte_pair):
  lengths = dict(zip(LENGTHS, lengths, strict=True))
  with pytest.raises(InputError, match="at least 2 is needed"):
    pack_pairs([], vocabulary=byte_pair, out=tmp_path / "p", **lengths)
  assert not list(tmp_path.iterdir())


def test_a_folder_of_another_kind_is_refused(tmp_path):
  with pytest.raises(InputError, match="not a packed dataset"):
    PackedDataset.open(tmp_path / "absent")
  storage.write_json(tmp_path / "manifest.json", {"format": "csv"})
  with pytest.raises(InputError, match="not a packed dataset"):
    PackedDataset.open(tmp_path)


@pytest.mark.parametrize("size", [0, 40, 1000])
def test_a_truncated_array_is_refused(size, packed):
  os.truncate(packed.path / "encoder_tokens.npy", size)
  with pytest.raises(InputError, match=r"encoder_tokens.npy: .*damaged"):
    PackedDataset.open(packed.path)


def test_an_array_of_another_run_is_refused(packed):
  # Of a time when there were no checksums.
  (packed.path / "checksums.txt").unlink()
  array = np.load(packed.path / "decoder_targets.npy")
  np.save(packed.path / "decoder_targets.npy", array[:-1])
  with pytest.raises(InputError, match="where manifest.json says"):
    PackedDataset.open(packed.path)
