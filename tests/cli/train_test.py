import json
import math
import random
import re
import shutil
from unittest import mock

import gin
import jax
import numpy as np
import pytest

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.cli.main import main
from instructrec_jax.records import RankingRequest
from instructrec_jax.requests import write_requests
from instructrec_jax.seqio_bridge import pack
from instructrec_jax.text.packed_dataset import PackedDataset, pack_pairs
from instructrec_jax.text.vocabulary import train_vocabulary

FILES = ("--gin_file", "gin/model/mini.gin", "--gin_file", "gin/run/train.gin")
WORDS = "amber birch cedar delta ember fjord grove haven iris jade".split()
TINY = dict(EMB_DIM=16, NUM_HEADS=2, HEAD_DIM=8, NUM_LAYERS=1, MLP_DIM=16)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  texts = [" ".join(random.Random(n).sample(WORDS, 4)) for n in range(200)]
  vocabulary = train_vocabulary(texts, folder / "vocabulary.model", size=100)
  data = pack_pairs(
    [(text, text.split()[0]) for text in texts],
    vocabulary=vocabulary,
    out=folder / "packed",
    encoder_length=32,
    decoder_length=8,
    manifest={"mixture": "words"},
    title_counts=dict.fromkeys(WORDS, 1),
  )
  return data.path


@pytest.fixture
def requests_file(tmp_path):
  path = tmp_path / "requests.parquet"
  requests = [
    RankingRequest(
      request_id=str(number),
      instruction=" ".join(WORDS[number : number + 3]),
      candidates=tuple(WORDS[number : number + 3]),
      target=0,
    )
    for number in range(6)
  ]
  write_requests(path, requests, metadata={})
  return path


@pytest.fixture
def command(packed, tmp_path, monkeypatch, capsys):
  """Runs `instructrec train` elsewhere than in the repository."""
  monkeypatch.chdir(tmp_path)

  def command(*arguments, files=FILES, **macros):
    defaults = dict(
      MODEL_DIR="model", PACKED=str(packed), TRAIN_STEPS=2, BATCH_SIZE=8
    )
    bound = defaults | TINY | macros if files == FILES else macros
    bindings = [f"--gin.{name}={value!r}" for name, value in bound.items()]
    status = main(["train", *files, *bindings, *arguments])
    return status, *capsys.readouterr()

  yield command
  gin.clear_config()


def test_trains_with_what_is_bound(command, packed, tmp_path):
  status, out, _ = command("--json", LEARNING_RATE=0.25)
  assert status == 0
  assert json.loads(out)["learning_rate"] == 0.25
  config, _ = model_folder.load_params(tmp_path / "model")
  assert (config.emb_dim, config.num_decoder_layers) == (16, 1)
  # The vocabulary's size is taken from the data.
  manifest = json.loads((packed / "manifest.json").read_text())
  assert config.vocab_size == manifest["model_vocab_size"]


def test_the_recipe_of_one_gpu_trains(command, packed, requests_file, tmp_path):
  # Sizes alone are made smaller; these titles are no pieces of their own.
  status, out, error = command(
    "--json",
    files=("--gin_file", "gin/experiment/games_gpu.gin"),
    MODEL_DIR="model",
    PACKED=str(packed),
    VALIDATION_REQUESTS=str(requests_file),
    BATCH_SIZE=4,
    TRAIN_STEPS=2,
    WARMUP_STEPS=1,
    TITLE_DROPOUT=0.0,
    **TINY,
  )
  assert status == 0, error
  metrics = json.loads(out)
  # After a step of warm-up: its peak, from which it falls.
  assert metrics["learning_rate"] == pytest.approx(5e-4)
  assert math.isfinite(metrics["loss"]) and "validation/hr@1" in metrics
  config, _ = model_folder.load_params(tmp_path / "model")
  assert config.dtype == "bfloat16"


def test_the_resolved_config_repeats_the_run(command, tmp_path):
  command()
  again = ("--gin_file", "model/config.gin")
  status, _, error = command(
    files=again, MODEL_DIR="again", TRAIN_STEPS=2, SEED=0
  )
  assert status == 0, error
  (_, first), (_, second) = (
    model_folder.load_params(tmp_path / name) for name in ("model", "again")
  )
  jax.tree.map(np.testing.assert_array_equal, first, second)
  status, _, error = command(files=again, MODEL_DIR="again", SEED=1)
  assert status == 2 and "seed is 0, not 1" in error


def test_validates_on_requests(command, requests_file):
  status, out, _ = command(
    "--json", VALIDATION_REQUESTS=str(requests_file), VALIDATION_LIMIT=4
  )
  assert status == 0
  metrics = json.loads(out)
  assert metrics["validation/hr@1"] in (0, 0.25, 0.5, 0.75, 1)
  assert 0 < metrics["validation/ndcg@5"] <= 1


def test_starts_from_an_earlier_run(command, tmp_path):
  command()
  status, _, error = command(
    MODEL_DIR="later",
    INITIAL_CHECKPOINT="model",
    LEARNING_RATE=1e-12,
    SEED=1,
  )
  assert status == 0, error
  (_, first), (_, second) = (
    model_folder.load_params(tmp_path / name) for name in ("model", "later")
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, second
  )


def test_a_mixture_is_packed_at_a_runs_first_start(command, packed):
  def copy(*, out, **_):
    return PackedDataset.open(shutil.copytree(packed, out))

  macros = dict(PACKED=None, MIXTURE="words", DATASET="shop")
  # What packing does has tests of its own; this checks when it is called.
  with mock.patch.object(pack, "pack_mixture", autospec=True) as packing:
    packing.side_effect = copy
    assert command(TRAIN_STEPS=1, INPUT_LENGTH=32, **macros)[0] == 0
    assert command(TRAIN_STEPS=2, **macros)[0] == 0
    packing.assert_called_once()
    assert packing.call_args.kwargs["mixture"] == "words"
    assert packing.call_args.kwargs["input_length"] == 32
    status, _, error = command(**(macros | dict(MIXTURE="others")))
  assert status == 2 and "holds the mixture words, not others" in error


@pytest.mark.parametrize(
  ("macros", "said"),
  [
    (dict(PACKED="nowhere"), "nowhere: not a packed dataset"),
    (dict(PACKED=None), "bind either PACKED"),
    (dict(MIXTURE="words"), "bind either PACKED"),
    (dict(MIXTURE="words", PACKED=None), "bind either PACKED"),
    (dict(TRIAN_STEPS=3), "no macro TRIAN_STEPS"),
    (dict(BATCH_SIZE=0), "batch_size is 0"),
    (dict(TRAIN_STEPS="many"), "steps is 'many'"),
    (dict(MESH="3x1"), "mesh of data 3"),
    (dict(MESH=3), "mesh is 3"),
    (dict(LEARNING_RATE=-1.0), "learning_rate is -1.0"),
    (dict(VOCAB_SIZE=64), "do not fit a model of vocab_size 64"),
    (dict(EMB_DIM="wide"), "emb_dim is 'wide'"),
    (dict(INITIAL_CHECKPOINT="nowhere"), "not a model folder"),
    (dict(VALIDATION_REQUESTS="nowhere.parquet"), "nowhere.parquet"),
  ],
)
def test_wrong_values_are_told_in_a_sentence(command, tmp_path, macros, said):
  _refused(command(**macros), said)
  assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ((), "no gin file"),
    (("--gin_file", "nowhere.gin"), "nowhere.gin"),
    (("--gin_file", "broken.gin"), "broken.gin"),
    (("--gin_file", "gin/run/train.gin"), "there is no model"),
    (("--gin_file", "gin/model/mini.gin"), "no macro PACKED"),
    ((*FILES, "--gin.TRAIN_STEPS=2"), "MODEL_DIR is required"),
    ((*FILES, "--gin.MODEL_DIR='model'"), "TRAIN_STEPS is required"),
    ((*FILES, "--gin.MODEL_DIR=model"), "quotes of their own"),
    ((*FILES, "--gin.loop.train.stepz=2"), "stepz"),
    ((*FILES, "--gin.optimizer.nope.x=2"), "optimizer.nope"),
    ((*FILES, "--steps=2"), "unknown option '--steps=2'"),
  ],
)
def test_what_gin_refuses_is_told_in_a_sentence(
  command, tmp_path, arguments, said
):
  (tmp_path / "broken.gin").write_text("import nowhere\n")
  _refused(command(*arguments, files=()), said)


def _refused(result, said):
  status, out, error = result
  assert (status, out) == (2, "")
  assert said in error
  assert re.fullmatch(r"instructrec train: .+\n", error), "one line, no more"


def test_files_are_found_in_their_folder_and_in_search_paths(command, tmp_path):
  for folder in ("own", "elsewhere"):
    (tmp_path / folder).mkdir()
  (tmp_path / "own" / "run.gin").write_text(
    "include 'beside.gin'\ninclude 'searched.gin'\n"
  )
  (tmp_path / "own" / "beside.gin").write_text("include 'gin/run/train.gin'\n")
  (tmp_path / "elsewhere" / "searched.gin").write_text("TRAIN_STEPS = 7\n")
  status, _, error = command(
    "--gin_search_paths",
    "elsewhere",
    files=("--gin_file", "gin/model/mini.gin", "--gin_file", "own/run.gin"),
    MODEL_DIR="model",
  )
  # Everything was found; only the data is not bound.
  assert status == 2 and "bind either PACKED" in error
  assert gin.query_parameter("TRAIN_STEPS/macro.value") == 7
