"""Checkpoints of T5X in each of the ways that T5X has written them."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization, traverse_util

from instructrec_jax.checkpoints.t5x_checkpoint import (
  is_t5x,
  lora_of,
  open_t5x,
  write_t5x,
)
from instructrec_jax.checkpoints.weights import Weights, leaves_of
from instructrec_jax.cli.main import main
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config

CONFIG = T5Config(
  vocab_size=128,
  emb_dim=8,
  num_heads=2,
  head_dim=3,
  num_encoder_layers=2,
  num_decoder_layers=1,
  mlp_dim=10,
)
QUERY = "target.encoder.layers_1.attention.query.kernel"
PARAMETER = "encoder/layers_1/attention/query/kernel"
ADAPTED = CONFIG.replace(lora_rank=2, lora_alpha=6.0)


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture
def adapted(random_params):
  """Nested: a test may take some away."""
  return random_params(ADAPTED, seed=1)


def _save_orbax(folder, params):
  tree = {"target": params, "state": {"step": np.int32(5)}}
  ocp.PyTreeCheckpointer().save(folder / "state", tree)
  return folder


@pytest.fixture
def legacy(tmp_path, params):
  memory = pathlib.Path("memory")
  weights = Weights(memory, CONFIG, leaves_of(params), step=12)
  write_t5x(tmp_path, weights, dtype="float32")
  # T5X itself writes none.
  (tmp_path / "checkpoint_12" / "checksums.txt").unlink()
  return tmp_path / "checkpoint_12"


def _inline(folder, params, **around):
  folder.mkdir(exist_ok=True)
  tree = {"target": params, "state": {"step": np.int32(3)}}
  tree = {"optimizer": tree, **around} if around else tree
  (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
  return folder


def _assert_same(weights, params):
  flat = traverse_util.flatten_dict(params, sep="/")
  assert weights.leaves.keys() == flat.keys()
  for name, array in flat.items():
    np.testing.assert_array_equal(weights.leaves[name].read(), array)
  assert weights.config == CONFIG


def _edited(folder, edit):
  """Rewrites the msgpack of a legacy checkpoint."""
  path = folder / "checkpoint"
  tree = serialization.msgpack_restore(path.read_bytes())
  edit(tree["optimizer"]["target"])
  path.write_bytes(serialization.msgpack_serialize(tree))


def test_legacy(legacy, params):
  weights = open_t5x(legacy)
  _assert_same(weights, params)
  assert weights.step == 12
  assert (legacy / QUERY / ".zarray").is_file()


@pytest.mark.parametrize("around", [{}, {"version": 3}])
def test_legacy_with_arrays_in_msgpack(tmp_path, params, around):
  folder = _inline(tmp_path / "checkpoint_3", params, **around)
  _assert_same(open_t5x(folder), params)


def test_legacy_saved_to_a_bucket_by_an_old_tensorstore(legacy, params):
  def to_bucket(target):
    kernel = target["encoder"]["layers_1"]["attention"]["query"]["kernel"]
    kernel["kvstore"] = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    kernel["path"] = QUERY
    del kernel["metadata"]["compressor"]

  _edited(legacy, to_bucket)
  _assert_same(open_t5x(legacy), params)


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("zarr3", [True, False])
def test_orbax(tmp_path, params, ocdbt, zarr3):
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
  moments = {"m": np.zeros(3, np.float32)}
  tree = {
    "target": params,
    "state": {"step": np.int32(5), "param_states": moments},
  }
  folder = tmp_path / "checkpoint_5"
  ocp.Checkpointer(handler).save(
    folder / "state", args=ocp.args.PyTreeSave(tree)
  )
  _assert_same(open_t5x(folder), params)


def test_steps_of_a_model_dir(tmp_path, params):
  for step in (3, 20):
    _inline(tmp_path / f"checkpoint_{step}", params)
  (tmp_path / "checkpoint_30.tmp-1").mkdir()
  assert open_t5x(tmp_path).step == 20
  assert open_t5x(tmp_path, step=3).step == 3
  with pytest.raises(InputError, match="no checkpoint of step 30; .* 3, 20"):
    open_t5x(tmp_path, step=30)
  with pytest.raises(InputError, match="one checkpoint"):
    open_t5x(tmp_path / "checkpoint_3", step=3)
  assert not is_t5x(tmp_path / "checkpoint_30.tmp-1")


def test_a_missing_chunk_is_no_zeros(legacy):
  (legacy / QUERY / "0.0").unlink()
  leaf = open_t5x(legacy).leaves[PARAMETER]
  with pytest.raises(InputError, match=f"{QUERY} is missing or damaged"):
    leaf.read()


def test_a_truncated_chunk_is_refused(legacy):
  chunk = legacy / QUERY / "0.0"
  chunk.write_bytes(chunk.read_bytes()[:-9])
  leaf = open_t5x(legacy).leaves[PARAMETER]
  with pytest.raises(InputError, match=f"{QUERY} is missing or damaged"):
    leaf.read()


def test_a_missing_folder_is_refused(legacy):
  for file in (legacy / QUERY).iterdir():
    file.unlink()
  with pytest.raises(InputError, match=f"{QUERY} is missing or damaged"):
    open_t5x(legacy)


def test_a_truncated_msgpack_is_refused(legacy):
  path = legacy / "checkpoint"
  for kept in (0, 1, 100):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"not T5X's msgpack|is missing"):
      open_t5x(legacy)


def test_missing_and_unknown_parameters_are_named(legacy):
  def rename(target):
    layer = target["encoder"]["layers_0"]
    layer["attn"] = layer.pop("attention")["out"]

  _edited(legacy, rename)
  with pytest.raises(InputError, match="attention/query/kernel is missing"):
    open_t5x(legacy)


def test_a_missing_layer_is_named(tmp_path, params):
  params = jax.tree.map(lambda leaf: leaf, params)
  del params["encoder"]["layers_0"]["mlp"]["wo"]
  params["encoder"]["extra"] = np.zeros(2, np.float32)
  with pytest.raises(
    InputError,
    match=r"missing encoder/layers_0/mlp/wo/kernel; unknown encoder/extra\.",
  ):
    open_t5x(_inline(tmp_path / "checkpoint_1", params))


def test_a_wrong_shape_is_named(tmp_path, params):
  params = jax.tree.map(lambda leaf: leaf, params)
  params["decoder"]["logits_dense"]["kernel"] = np.zeros((8, 64), np.float32)
  with pytest.raises(
    InputError, match=r"logits_dense/kernel .* \(8, 64\), .* \(8, 128\)\."
  ):
    open_t5x(_inline(tmp_path / "checkpoint_1", params))


@pytest.mark.parametrize(
  "fields", [{"logits_via_embedding": True}, {"mlp_activations": ("relu",)}]
)
def test_t5_1_0_is_refused(tmp_path, random_params, fields):
  params = random_params(CONFIG.replace(**fields))
  with pytest.raises(InputError, match=r"so this is a T5 1\.0"):
    open_t5x(_inline(tmp_path / "checkpoint_1", params))


def test_real_t5x_loads_what_is_written(legacy, params):
  checkpoints = pytest.importorskip(
    "t5x.checkpoints", reason="T5X is absent: docs/t5x.md says how to install"
  )
  tree = checkpoints.load_t5x_checkpoint(str(legacy))
  jax.tree.map(np.testing.assert_array_equal, tree["target"], params)
  assert tree["state"]["step"] == 12


def test_a_flipped_byte_of_ours_is_refused(tmp_path, params):
  weights = Weights(tmp_path, CONFIG, leaves_of(params), step=12)
  write_t5x(tmp_path, weights, dtype="float32")
  chunk = max(tmp_path.glob("*/*/0*"), key=lambda path: path.stat().st_size)
  data = bytearray(chunk.read_bytes())
  data[len(data) // 2] ^= 0x41
  chunk.write_bytes(data)
  with pytest.raises(InputError, match="damaged.*convert or copy it again"):
    open_t5x(tmp_path)


@pytest.mark.parametrize("save", [_inline, _save_orbax])
def test_adapters_are_merged(tmp_path, adapted, save):
  folder = save(tmp_path / "checkpoint_5", adapted)
  assert lora_of(folder) == (2, None)
  # As T5X writes it: gin's macros, among much else.
  (tmp_path / "config.gin").write_text(
    "# Macros:\nLORA_ALPHA = 6\nLORA_RANK = 2\n"
  )
  assert lora_of(folder) == (2, 6.0)
  # A binding that does not follow the macro.
  with (tmp_path / "config.gin").open("a") as file:
    file.write("config.T5Config.lora_alpha = 1e-3\n")
  assert lora_of(folder) == (2, 1e-3)
  (tmp_path / "config.gin").write_text(
    "LORA_ALPHA = 6.0\nconfig.T5Config.lora_alpha = %LORA_ALPHA\n"
  )
  expected = traverse_util.flatten_dict(adapted, sep="/")
  for name in [name for name in expected if name.endswith("/lora_a")]:
    path = name.removesuffix("/lora_a")
    low = expected.pop(name) @ expected.pop(f"{path}/lora_b")
    expected[f"{path}/kernel"] = expected[f"{path}/kernel"] + 3 * low
  weights = open_t5x(folder)
  assert weights.config == CONFIG
  assert weights.leaves.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_allclose(weights.leaves[name].read(), array, atol=1e-6)


@pytest.mark.parametrize("text", [None, "LORA_ALPHA = %ALPHA\n", "\xff\n"])
def test_what_scales_adapters_must_be_told(tmp_path, adapted, text, capsys):
  (tmp_path / "run").mkdir()
  folder = _inline(tmp_path / "run" / "checkpoint_5", adapted)
  if text is not None:
    (folder.parent / "config.gin").write_text(text, encoding="latin-1")
  out = tmp_path / "out"
  assert main(["convert", str(folder.parent), str(out), "--to", "hf"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "are scaled by LORA_ALPHA, which no config.gin beside it says" in line
  assert not out.exists()


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda query: query.pop("lora_b"), "missing .*query/lora_b"),
    (
      lambda query: query.update(lora_a=query["lora_a"][:, :1]),
      r"query/lora_a has the shape \(8, 1\), .* \(8, 2\)",
    ),
    (
      lambda query: query.update(lora_c={"lora_a": query["lora_a"]}),
      "unknown .*query/lora_c/lora_a",
    ),
  ],
)
def test_adapters_that_are_not_the_model_s_are_named(
  tmp_path, adapted, change, said
):
  change(adapted["encoder"]["layers_1"]["attention"]["query"])
  folder = _inline(tmp_path / "checkpoint_5", adapted)
  (tmp_path / "config.gin").write_text("LORA_ALPHA = 6.0\n")
  with pytest.raises(InputError, match=said):
    open_t5x(folder)


@pytest.mark.parametrize("shape", [(), (8,), (8, 0), (8, 2, 1)])
def test_an_adapter_is_a_matrix(tmp_path, adapted, shape):
  first = adapted["decoder"]["layers_0"]["encoder_decoder_attention"]["key"]
  first["lora_a"] = np.zeros(shape, np.float32)
  folder = _inline(tmp_path / "checkpoint_5", adapted)
  with pytest.raises(InputError, match="key/lora_a has the shape"):
    open_t5x(folder)
