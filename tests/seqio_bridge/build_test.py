import shutil

import pytest
import tensorflow_datasets as tfds
import yaml

from instructrec_jax import requests, storage
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.errors import InputError
from instructrec_jax.instructions.templates import DEFAULT_FILE
from instructrec_jax.seqio_bridge import build as build_lib
from instructrec_jax.seqio_bridge.build import build
from instructrec_jax.text.vocabulary import Vocabulary

TFDS = "instructrec/main/1.0.0"
USERS = 40


def _copy(dataset, tmp_path):
  """A dataset folder as `prepare` left it."""
  copy = tmp_path / "data"
  shutil.copytree(dataset, copy)
  for name in ("instructrec", "requests"):
    shutil.rmtree(copy / name)
  for name in ("instructions.json", "vocabulary.model", "templates.yaml"):
    (copy / name).unlink()
  return copy


def _files(folder):
  return {
    path.relative_to(folder): storage.sha256_of(path)
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_plain_tfds_reads_what_the_manifest_says(dataset):
  manifest = storage.read_json(dataset / "instructions.json")
  info = tfds.builder_from_directory(dataset / TFDS).info
  counts = {name: split.num_examples for name, split in info.splits.items()}
  assert counts == {n: rows for n, rows in manifest["rows"].items() if rows}
  # Six training positions of eight but the first: five, for three families.
  train = [n for name, n in counts.items() if name.endswith("_train")]
  assert sum(train) == USERS * 5 * 3
  rows = list(
    tfds.as_numpy(
      tfds.load("instructrec/main", data_dir=dataset, split="A07_train")
    )
  )
  assert len(rows) == counts["A07_train"]
  folder = DatasetFolder.open(dataset)
  for row in rows:
    assert folder.items[row["item"]].title == row["targets"].decode()
    assert row["targets"] in row["inputs"]
    assert row["item"] in folder.sequences.user(row["user"])[1:-2]


def test_requests_hold_the_stored_candidates(dataset):
  folder = DatasetFolder.open(dataset)
  for split in ("validation", "test"):
    for name, negatives in (("sequential", 9), ("sequential_99", 99)):
      path = dataset / "requests" / f"{name}_{split}.parquet"
      stored = folder.candidates(split, negatives)
      found = list(requests.read_requests(path))
      assert len(found) == USERS
      for request, items in zip(found, stored.candidates, strict=True):
        assert list(request.candidate_items) == items.tolist()
        assert request.target is not None
        item = request.candidate_items[request.target]
        last = -1 if split == "test" else -2
        assert item == folder.sequences.user(request.user)[last]
        shown = [title in request.instruction for title in request.candidates]
        # A hundred titles do not fit: those are matched, not reranked.
        assert all(shown) == (negatives == 9)


def test_the_same_seed_writes_the_same_files(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  vocabulary = dataset / "vocabulary.model"
  build(copy, vocabulary=vocabulary)
  assert _files(copy) == _files(dataset)
  build(copy, seed=1, force=True)
  changed = _files(copy)
  assert changed.keys() == _files(dataset).keys()
  assert changed != _files(dataset)


def test_a_second_build_is_refused(dataset):
  before = _files(dataset)
  with pytest.raises(InputError, match="--force"):
    build(dataset)
  assert _files(dataset) == before


def test_a_build_that_fails_leaves_nothing(dataset, tmp_path, monkeypatch):
  copy = _copy(dataset, tmp_path)
  before = _files(copy)

  def fail(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(build_lib, "write_requests", fail)
  with pytest.raises(KeyboardInterrupt):
    build(copy, vocabulary=dataset / "vocabulary.model")
  assert _files(copy) == before


def test_without_a_vocabulary_it_says_where_there_is_one(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  with pytest.raises(InputError, match=r"spiece.model .*--train-vocab"):
    build(copy)
  with pytest.raises(InputError, match="no such vocabulary"):
    build(copy, vocabulary=tmp_path / "absent")
  with pytest.raises(InputError, match="at least 1"):
    build(copy, train_vocabulary_size=300, rows_per_target=0)
  assert not (copy / "vocabulary.model").exists()


def test_templates_that_no_dataset_can_fill_are_refused(dataset, tmp_path):
  path = tmp_path / "mine.yaml"
  entry = {
    "name": "A02",
    "preferences": ["P1", "P2"],
    "intention": "I0",
    "task_form": "T2",
    "response": "item",
    "text": "Had: {history}. Likes: {preference}. What comes next?",
  }
  path.write_text(yaml.safe_dump([entry]))
  with pytest.raises(InputError, match=r"mine.yaml: template A02 needs a pref"):
    build(dataset, templates_file=path, force=True)


def test_instructions_keep_to_the_budget(dataset, tmp_path):
  copy = _copy(dataset, tmp_path)
  vocabulary = dataset / "vocabulary.model"
  templates = tmp_path / "one.yaml"
  entries = yaml.safe_load(DEFAULT_FILE.read_text())
  templates.write_text(yaml.safe_dump(entries[:1]))
  manifest = build(
    copy, vocabulary=vocabulary, templates_file=templates, input_length=50
  )
  assert manifest["cuts"]["items_dropped"] > 0
  assert manifest["cuts"]["rows_over_budget"] == 0
  count = Vocabulary.load(vocabulary).count_tokens
  rows = tfds.load("instructrec/main", data_dir=copy, split="A01_train")
  for row in tfds.as_numpy(rows):
    assert count(row["inputs"].decode()) < 50
