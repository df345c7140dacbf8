import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import SingleDeviceSharding

from instructrec_jax.checkpoints import model_folder
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

CONFIG = T5Config(
  vocab_size=32,
  emb_dim=8,
  num_heads=2,
  head_dim=3,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=10,
)
# By step; the best is neither the first nor the last.
VALIDATION = {10: 0.1, 20: 0.3, 30: 0.2}


@pytest.fixture(scope="module")
def original(tmp_path_factory, random_params) -> pathlib.Path:
  """A folder as training leaves it; each step's parameters differ."""
  folder = tmp_path_factory.mktemp("model")
  _write(folder, random_params, VALIDATION)
  return folder


@pytest.fixture
def model_dir(original, tmp_path) -> pathlib.Path:
  return shutil.copytree(original, tmp_path / "model")


def _write(folder, random_params, validation):
  model_folder.save_config(folder, CONFIG)
  with ocp.CheckpointManager(
    folder / model_folder.CHECKPOINTS,
    options=ocp.CheckpointManagerOptions(
      best_fn=lambda metrics: metrics.get(model_folder.BEST_METRIC, -1.0)
    ),
    item_names=("params", "optimizer"),
  ) as manager:
    for step, value in validation.items():
      manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.PyTreeSave(random_params(CONFIG, seed=step)),
          optimizer=ocp.args.PyTreeSave({"count": np.int32(step)}),
        ),
        metrics={} if value is None else {model_folder.BEST_METRIC: value},
      )


@pytest.mark.parametrize(
  ("step", "loaded"), [(None, 30), ("best", 20), (10, 10), ("10", 10)]
)
def test_parameters_of_a_step(model_dir, random_params, step, loaded):
  config, params = model_folder.load_params(model_dir, step=step)
  assert config == CONFIG
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
  jax.tree.map(
    np.testing.assert_array_equal, params, random_params(CONFIG, seed=loaded)
  )


def test_the_optimizer_is_not_needed(model_dir):
  shutil.rmtree(model_dir / "checkpoints" / "30" / "optimizer")
  model_folder.load_params(model_dir)


@pytest.mark.usefixtures("all_devices")
def test_shardings_place_the_parameters(model_dir, random_params):
  device = jax.devices()[1]
  shardings = jax.tree.map(
    lambda _: SingleDeviceSharding(device), random_params(CONFIG)
  )
  _, params = model_folder.load_params(model_dir, shardings=shardings)
  assert {
    leaf_device
    for leaf in jax.tree.leaves(params)
    for leaf_device in leaf.devices()
  } == {device}
  jax.tree.map(
    np.testing.assert_array_equal, params, random_params(CONFIG, seed=30)
  )


def test_no_best_without_validation(tmp_path, random_params):
  _write(tmp_path, random_params, {10: None})
  with pytest.raises(InputError, match=r"no checkpoint was validated.*\(10\)"):
    model_folder.load_params(tmp_path, step="best")


def test_unfinished_checkpoints_do_not_count(model_dir):
  checkpoints = model_dir / "checkpoints"
  (checkpoints / "40.orbax-checkpoint-tmp").mkdir()
  assert model_folder.find_step(model_dir, None) == 30


def test_what_is_no_model_is_told_apart(model_dir, tmp_path):
  with pytest.raises(InputError, match="not a model folder.*model.json"):
    model_folder.load_params(tmp_path / "nowhere")
  with pytest.raises(
    InputError, match="no checkpoint of step 15; .* 10, 20, 30"
  ):
    model_folder.load_params(model_dir, step=15)
  shutil.rmtree(model_dir / "checkpoints")
  with pytest.raises(InputError, match="no finished checkpoint"):
    model_folder.load_params(model_dir)
  (model_dir / "model.json").write_text("{")
  with pytest.raises(InputError, match=r"model\.json: not the JSON"):
    model_folder.load_params(model_dir)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    (
      {"mlp_dim": 12},
      r"mlp/wi_0/kernel has the shape \(8, 10\), .* \(8, 12\)",
    ),
    (
      {"num_encoder_layers": 2},
      "missing encoder/layers_1/attention/key/kernel, .* and 6 more",
    ),
    (
      {"logits_via_embedding": True},
      "unknown decoder/logits_dense/kernel",
    ),
  ],
)
def test_a_checkpoint_of_another_size_is_refused(model_dir, fields, said):
  model_folder.save_config(model_dir, CONFIG.replace(**fields))
  with pytest.raises(InputError, match=said):
    model_folder.load_params(model_dir)


def test_initial_parameters_must_be_of_the_new_runs_size(model_dir):
  params = model_folder.load_initial_params(model_dir, CONFIG)
  assert params["token_embedder"]["embedding"].shape == (32, 8)
  with pytest.raises(InputError, match=r"\(8, 32\), .* \(8, 128\)"):
    model_folder.load_initial_params(model_dir, CONFIG.replace(vocab_size=128))


def test_initial_parameters_are_float32(model_dir, random_params):
  """Those of a converted checkpoint may be stored in half of it."""
  narrow = jax.tree.map(
    lambda leaf: leaf.astype(ml_dtypes.bfloat16), random_params(CONFIG, seed=5)
  )
  with ocp.CheckpointManager(
    model_dir / model_folder.CHECKPOINTS, item_names=("params",)
  ) as manager:
    manager.save(
      40, args=ocp.args.Composite(params=ocp.args.PyTreeSave(narrow))
    )
  _, stored = model_folder.load_params(model_dir)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(stored)} == {"bfloat16"}
  loaded = model_folder.load_initial_params(model_dir, CONFIG)
  for wide, leaf in zip(
    jax.tree.leaves(loaded), jax.tree.leaves(narrow), strict=True
  ):
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide, leaf.astype(np.float32))


# Orbax's threads outlive the reading that failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_refused(model_dir):
  params = model_dir / "checkpoints" / "30" / "params"
  for data in params.rglob("d/*"):
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
  with pytest.raises(InputError, match=r"30/params: .*damaged"):
    model_folder.load_params(model_dir)
  shutil.rmtree(params)
  with pytest.raises(InputError, match=r"30/params: .*damaged"):
    model_folder.load_params(model_dir)


def test_the_vocabulary_must_fit(model_dir, shared):
  source = shared / "vocab" / "t5" / "spiece.model"
  shutil.copyfile(source, model_dir / model_folder.VOCABULARY_FILE)
  with pytest.raises(InputError, match="32128 ids .*vocab_size 32"):
    model_folder.load_vocabulary(model_dir)
  model_folder.save_config(model_dir, CONFIG.replace(vocab_size=32128))
  assert model_folder.load_vocabulary(model_dir).model_vocab_size == 32128
