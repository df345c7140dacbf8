"""Sequences from the dataset folder to a model that starts from their SVD."""

import collections

import gin
import numpy as np
import pytest
import seqio

from instructrec_jax import storage
from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli.main import main
from instructrec_jax.data.folder import DatasetFolder
from instructrec_jax.data.prepare import prepare
from instructrec_jax.instructions import blocks
from instructrec_jax.instructions.sequences import TASK
from instructrec_jax.requests import read_requests
from instructrec_jax.scoring.reranker import T5Ranker
from instructrec_jax.seqio_bridge.build import Options, build
from instructrec_jax.seqio_bridge.pack import pack_mixture
from instructrec_jax.seqio_bridge.registration import (
  ALL_AND_SEQUENCES,
  use_dataset,
)
from instructrec_jax.serving.model_export import export
from instructrec_jax.text.packed_dataset import SEPARATOR_KEY
from instructrec_jax.text.vocabulary import Vocabulary
from instructrec_jax.training.title_dropout import TitleDropout

from .conftest import stored_rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("sequences") / "data"
  prepare(out=path, format="synthetic", users=80, min_count=0)
  options = Options(families=("p1_i0_t2",), sequences=True, pieces="titles")
  with pytest.MonkeyPatch.context() as patch:
    # So that they are several.
    patch.setattr(blocks, "_ROWS", 50)
    build(path, train_vocabulary_size=500, options=options, fold_case=True)
  return path


@pytest.fixture(scope="module")
def packed(dataset, tmp_path_factory):
  out = tmp_path_factory.mktemp("packed") / "rows"
  return pack_mixture(
    mixture=TASK, dataset=dataset, out=out, input_length=64, target_length=16
  )


def test_rows_and_requests_are_written(dataset):
  folder = DatasetFolder.open(dataset)
  manifest = storage.read_json(dataset / "instructions.json", dict)
  bought = folder.splits.training_mask(folder.sequences).sum()
  assert manifest["families"]["train"]["sequences"] == bought
  assert len(stored_rows(dataset, "sequences_train")) == bought
  found = list(read_requests(dataset / "requests/sequences_test.parquet"))
  assert len(found) == len(folder.splits.test.users)
  titles = {item.title for item in folder.items}
  for request in found:
    assert titles.issuperset(request.instruction.split("; "))


def test_pieces_are_titles_that_many_buy(dataset):
  folder = DatasetFolder.open(dataset)
  vocabulary = Vocabulary.load(dataset / "vocabulary.model")
  mask = folder.splits.training_mask(folder.sequences)
  counts = np.bincount(folder.sequences.items[mask])
  titles = [folder.items[item].title for item in np.argsort(-counts)[:20]]
  assert sum(len(vocabulary.encode_one(t)) == 1 for t in titles) > 10
  for title in titles:
    ids = vocabulary.encode_one(title)
    # Within a list, and in small letters, it is the same.
    listed = vocabulary.encode_one(f"{titles[0]}; {title}; {titles[1]}")
    assert any(
      listed[n : n + len(ids)] == ids for n in range(len(listed) - len(ids))
    )
    assert vocabulary.encode_one(title.lower()) == ids


def test_each_title_that_is_bought_can_be_a_piece(tmp_path):
  path = tmp_path / "data"
  prepare(out=path, format="synthetic", users=40, min_count=0)
  options = Options(
    families=("p1_i0_t2",), sequences=True, pieces="whole-titles"
  )
  build(path, train_vocabulary_size=300, options=options)
  folder = DatasetFolder.open(path)
  vocabulary = Vocabulary.load(path / "vocabulary.model")
  bought = folder.sequences.items[folder.splits.training_mask(folder.sequences)]
  titles = {folder.items[item].title for item in bought.tolist()}
  assert all(len(vocabulary.encode_one(title)) == 1 for title in titles)
  assert vocabulary.num_pieces == 300 + len(titles)
  # What is asked for in words is read in words.
  brands = {title.split()[0] for title in titles}
  assert all(max(vocabulary.encode_one(brand)) < 300 for brand in brands)
  for spell, least, most in ((0.0, 300, 999), (1.0, 0, 300)):
    packed = pack_mixture(
      mixture=TASK,
      dataset=path,
      out=tmp_path / f"rows_{spell}",
      input_length=128,
      target_length=16,
      spell=spell,
    )
    rows = packed.batch(np.arange(len(packed)))["decoder_target_tokens"]
    assert least <= rows.max() < most


def test_the_task_stands_beside_the_templates(dataset):
  use_dataset(dataset)
  together = seqio.get_mixture_or_task(ALL_AND_SEQUENCES)
  names = {task.name for task in together.tasks}
  alone = seqio.get_mixture_or_task("instructrec_all_v1")
  assert names == {task.name for task in alone.tasks} | {TASK}


def test_packed_rows_know_what_is_bought(dataset, packed):
  folder = DatasetFolder.open(dataset)
  mask = folder.splits.training_mask(folder.sequences)
  titles = [folder.items[i].title for i in folder.sequences.items[mask]]
  counts = collections.Counter(titles)
  assert {t: n for t, n in packed.title_counts.items() if n} == counts


def test_only_rows_of_histories_alone_say_what_parts_titles(
  dataset, packed, tmp_path
):
  assert packed.manifest[SEPARATOR_KEY] == "; "
  assert TitleDropout.of(packed, rate=0.5, seed=0) is not None
  mixed = pack_mixture(
    mixture=f"{TASK}=1,instructrec_all_v1=1",
    dataset=dataset,
    out=tmp_path / "mixed",
    examples=50,
  )
  assert SEPARATOR_KEY not in mixed.manifest


def test_a_model_starts_from_them_and_keeps_the_counts(
  dataset, packed, tmp_path, capsys
):
  sizes = dict(EMB_DIM=32, NUM_HEADS=4, HEAD_DIM=8, NUM_LAYERS=1, MLP_DIM=32)
  requests = dataset / "requests/sequences_validation.parquet"
  macros = sizes | dict(
    MODEL_DIR=str(tmp_path / "model"),
    PACKED=str(packed.path),
    INITIAL_SVD=str(dataset),
    VALIDATION_REQUESTS=str(requests),
    VALIDATION_NORMALISATION="catalogue_prior",
    TRAIN_STEPS=30,
    BATCH_SIZE=8,
    LEARNING_RATE=3e-3,
    DROPOUT_RATE=0.0,
    TITLE_DROPOUT=0.2,
  )
  files = ("gin/model/mini.gin", "gin/run/train.gin")

  def train(**changes):
    named = [f"--gin.{k}={v!r}" for k, v in (macros | changes).items()]
    given = [x for file in files for x in ("--gin_file", file)]
    try:
      return main(["train", *given, *named])
    finally:
      gin.clear_config()

  assert train() == 0, capsys.readouterr()
  model = tmp_path / "model"
  assert model_folder.load_title_counts(model) == packed.title_counts
  export(model, tmp_path / "export")
  counts = model_folder.load_title_counts(tmp_path / "export")
  assert counts == packed.title_counts
  found = list(read_requests(requests))
  hits = {}
  for folder in (model, tmp_path / "export"):
    ranker = T5Ranker.load(folder, normalisation="catalogue_prior")
    scores = ranker.score(found)
    hits[folder] = np.mean(
      [s.argmax() == r.target for s, r in zip(scores, found, strict=True)]
    )
  assert hits[model] == hits[tmp_path / "export"]
  # A tenth is chance; the same steps from random weights have no more.
  assert hits[model] > 0.2
  capsys.readouterr()
  for changes, sentence in (
    (dict(NUM_HEADS=2), "NUM_HEADS x HEAD_DIM"),
    (dict(INITIAL_CHECKPOINT=str(model)), "not both"),
    (dict(INITIAL_SVD="nowhere"), "nowhere: not a dataset folder"),
    (dict(VALIDATION_NORMALISATION="most"), "no normalisation 'most'"),
  ):
    assert train(MODEL_DIR=str(tmp_path / "other"), **changes) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
