"""Tests for instructrec_jax/data/folder.py."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from instructrec_jax import storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.data.splits import SPLITS, split_items
from instructrec_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("data") / "shop"
  return prepare(out=out, format="synthetic", users=300, max_items=6)


def test_the_tables_agree_with_each_other(folder):
  frame = folder.interactions
  assert frame.columns == [
    *("user", "user_id", "item", "position"),
    *("timestamp", "rating", "summary", "text"),
  ]
  assert frame.equals(frame.sort("user", "position"))
  for user in (0, 1, len(folder.sequences) - 1):
    rows = frame.filter(user=user)
    assert rows["item"].to_list() == folder.sequences.user(user).tolist()
    assert rows["position"].to_list() == list(range(rows.height))
    assert rows["timestamp"].is_sorted()
    assert rows["user_id"].n_unique() == 1


def test_owned_items_end_with_the_kept_ones(folder):
  assert folder.owned.lengths.max() > 6 == folder.sequences.lengths.max()
  assert len(folder.owned.items) == folder.statistics["interactions_before_cut"]
  for user in range(len(folder.sequences)):
    kept = folder.sequences.user(user)
    assert folder.owned.user(user)[-len(kept) :].tolist() == kept.tolist()


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("negatives", [9, 99])
def test_stored_candidates_keep_the_rules(folder, split, negatives):
  stored = folder.candidates(split, negatives)
  targets = getattr(folder.splits, split)
  assert stored.keys.tolist() == targets.users.tolist()
  assert stored.candidates.shape == (len(stored.keys), negatives + 1)
  rows = np.arange(len(stored.keys))
  hit = stored.candidates[rows, stored.target]
  assert hit.tolist() == targets.items(folder.sequences).tolist()
  for user, row in zip(stored.keys, stored.candidates, strict=True):
    assert len(np.intersect1d(row, folder.known_items(split).user(user))) == 1
    assert len(set(row.tolist())) == negatives + 1


def test_validation_does_not_know_what_is_tested(folder):
  """Else a list would tell, by what it never holds, what comes next."""
  stored = folder.candidates("validation", 99)
  tested = folder.splits.test.items(folder.sequences)
  found = (stored.candidates == tested[:, None]).any(axis=1).sum()
  known = folder.known_items("validation").lengths[stored.keys]
  chances = 99 / (len(folder.items) - known)
  assert abs(found - chances.sum()) < 5 * np.sqrt(chances.sum())


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("negatives", [9, 99])
def test_candidates_of_product_search_keep_the_rules(folder, split, negatives):
  stored = folder.candidates(split, negatives, "items")
  in_split = folder.item_split == SPLITS.index(split)
  # All of the synthetic shop's items have categories.
  assert stored.keys.tolist() == np.flatnonzero(in_split).tolist()
  assert stored.candidates.shape == (len(stored.keys), negatives + 1)
  rows = np.arange(len(stored.keys))
  hit = stored.candidates[rows, stored.target]
  assert hit.tolist() == stored.keys.tolist()
  assert all(len(set(row)) == negatives + 1 for row in stored.candidates)
  groups = folder.title_groups
  same_title = groups[stored.candidates] == groups[stored.keys, None]
  assert (same_title.sum(axis=1) == 1).all()


def test_the_stored_item_split_is_the_computed_one(folder):
  assert folder.item_split.tolist() == (
    split_items(folder.title_groups, seed=0).tolist()
  )


def test_a_folder_split_by_global_time(tmp_path):
  folder = prepare(
    out=tmp_path / "shop", format="synthetic", users=300, split="global-time"
  )
  assert folder.manifest["options"]["split"] == "global-time"
  splits, sequences = folder.splits, folder.sequences
  times = folder.interactions["timestamp"].to_numpy()
  cut = times[~splits.training_mask(sequences)].min()
  assert times[splits.training_mask(sequences)].max() < cut
  for split in ("validation", "test"):
    targets = getattr(splits, split)
    places = sequences.offsets[targets.users] + targets.positions
    assert times[places].min() >= cut
    assert folder.candidates(split, 9).keys.tolist() == targets.users.tolist()
  assert len(splits.test.users) == folder.statistics["test_users"]

  # Without it the cut would be another one, of what is left after filtering.
  (folder.path / "splits" / "users.parquet").unlink()
  with pytest.raises(InputError, match=r"users.parquet: no such file"):
    _ = DatasetFolder.open(folder.path).splits
  # A folder of before, which filtered first, has no such file.
  manifest = json.loads((folder.path / "manifest.json").read_text())
  del manifest["ties"]
  (folder.path / "manifest.json").write_text(json.dumps(manifest))
  old = DatasetFolder.open(folder.path).splits
  assert old.test.users.tolist() and old.validation.users.tolist()


def test_a_damaged_split_is_told(tmp_path):
  folder = prepare(
    out=tmp_path / "shop", format="synthetic", users=300, split="global-time"
  )
  path = folder.path / "splits" / "users.parquet"
  frame = pl.read_parquet(path)
  for wrong in (frame[1:], frame.with_columns(pl.col("training") + 5)):
    wrong.write_parquet(path)
    with pytest.raises(InputError, match=r"users.parquet: users or lengths"):
      _ = DatasetFolder.open(folder.path).splits


def test_absent_candidates_are_told(folder):
  with pytest.raises(InputError, match="has items_test_9, items_test_99, "):
    folder.candidates("test", 19)


def test_what_is_no_dataset_folder_is_refused(tmp_path):
  with pytest.raises(InputError, match="not a dataset folder"):
    DatasetFolder.open(tmp_path)
  storage.write_json(tmp_path / "manifest.json", {"version": 0})
  with pytest.raises(InputError, match="another version"):
    DatasetFolder.open(tmp_path)


def test_a_damaged_table_is_told(folder, tmp_path):
  for name in ("manifest.json", "statistics.json"):
    (tmp_path / name).write_bytes((folder.path / name).read_bytes())
  (tmp_path / "items.parquet").write_bytes(b"PAR1")
  damaged = DatasetFolder.open(tmp_path)
  with pytest.raises(InputError, match=r"items.parquet: not a Parquet file"):
    _ = damaged.items
  with pytest.raises(InputError, match=r"interactions.parquet: no such file"):
    _ = damaged.sequences


def test_a_flipped_byte_in_candidates_is_told(folder, tmp_path):
  path = shutil.copytree(folder.path, tmp_path / "copy")
  damaged = path / "candidates" / "test_9.parquet"
  data = bytearray(damaged.read_bytes())
  data[len(data) // 2] ^= 0x41
  damaged.write_bytes(data)
  copy = DatasetFolder.open(path)
  for read in (copy.check_candidates, lambda: copy.candidates("test", 9)):
    with pytest.raises(InputError, match="test_9.parquet: candidates that are"):
      read()
