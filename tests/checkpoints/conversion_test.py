import dataclasses
import json
import os
import shutil
import subprocess
import sys
import weakref

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from instructrec_jax.checkpoints import conversion, model_folder, t5x_checkpoint
from instructrec_jax.checkpoints.conversion import convert
from instructrec_jax.checkpoints.weights import Weights, flatten, leaves_of
from instructrec_jax.cli.main import main
from instructrec_jax.errors import InputError
from instructrec_jax.mesh import make_mesh, parameter_shardings
from instructrec_jax.seq2seq import parameters
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.vocabulary import train_vocabulary

CONFIG = T5Config(
  vocab_size=256,
  emb_dim=8,
  num_heads=2,
  head_dim=3,
  num_encoder_layers=2,
  num_decoder_layers=1,
  mlp_dim=10,
  dropout_rate=0.25,
)


def _vocabulary(path, size):
  words = (f"{a}{b}{c}" for a in "abcdefgh" for b in "aeiou" for c in "rstlnm")
  return train_vocabulary(words, path, size=size)


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, params):
  """A model folder as `train` writes it, by orbax itself; tests copy it."""
  path = tmp_path_factory.mktemp("ours") / "model"
  path.mkdir()
  _vocabulary(path / "vocabulary.model", 100)
  model_folder.save_config(path, CONFIG)
  ocp.PyTreeCheckpointer().save(path / "checkpoints" / "7" / "params", params)
  return path


def _assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("through", ["ours", "hf", "t5x"])
def test_there_and_back(tmp_path, ours, params, through):
  there, back = tmp_path / "there", tmp_path / "back"
  weights = convert(ours, there, to=through)
  named = ours / "vocabulary.model" if through == "t5x" else None
  convert(there, back, to="ours", vocabulary=named)
  config, found = model_folder.load_params(back)
  _assert_same(found, params)
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {
    np.dtype("float32")
  }
  # T5X's checkpoints do not say the dropout, Hugging Face's have no step.
  kept = 0.1 if through == "t5x" else 0.25
  assert config == dataclasses.replace(CONFIG, dropout_rate=kept)
  assert model_folder.find_step(back, None) == (0 if through == "hf" else 7)
  assert weights.step == 7
  assert model_folder.load_vocabulary(back).num_pieces > 0


@pytest.mark.parametrize("to", ["ours", "hf", "t5x"])
def test_bfloat16_halves_the_disk_and_rounds(tmp_path, ours, params, to):
  convert(ours, tmp_path / "half", to=to, dtype="bfloat16")
  weights = conversion.open_weights(tmp_path / "half")
  for name, leaf in weights.leaves.items():
    found = leaf.read()
    assert found.dtype == ml_dtypes.bfloat16
    expected = flatten(params)[name].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("all_devices")
def test_a_converted_model_loads_onto_a_mesh_and_starts_a_run(
  tmp_path, ours, params
):
  convert(ours, tmp_path / "out", to="ours", activation_dtype="bfloat16")
  axes = jax.eval_shape(lambda: parameters.initial_variables(CONFIG))
  shardings = parameter_shardings(axes["params_axes"], make_mesh())
  config, sharded = model_folder.load_params(
    tmp_path / "out", shardings=shardings
  )
  _assert_same(sharded, params)
  assert config.dtype == "bfloat16"
  _assert_same(
    model_folder.load_initial_params(tmp_path / "out", CONFIG), params
  )


def test_another_conversion_is_another_model_to_score(tmp_path, ours):
  """`score` tells models apart by this file, as it resumes."""
  texts = set()
  for dtype in ("float32", "bfloat16"):
    convert(ours, tmp_path / dtype, to="ours", dtype=dtype)
    texts.add(model_folder.identity_file(tmp_path / dtype, 7).read_text())
  assert len(texts) == 2


def test_ours_is_an_export_that_needs_no_orbax(tmp_path, ours):
  convert(ours, tmp_path / "out", to="ours")
  manifest = json.loads((tmp_path / "out" / "export.json").read_text())
  assert (manifest["name"], manifest["step"]) == ("out", 7)
  assert sorted(manifest["files"]) == [
    "model.json",
    "model.safetensors",
    "vocabulary.model",
  ]
  with pytest.raises(InputError, match="of step 7, not 8"):
    model_folder.load_params(tmp_path / "out", step=8)


def test_one_array_is_in_memory_at_a_time(tmp_path, ours, monkeypatch):
  read: list[weakref.ref] = []

  def watched(leaf):
    def read_and_watch():
      assert not any(earlier() is not None for earlier in read)
      # A copy: tensorstore's own array cannot be watched.
      array = leaf.read().copy()
      read.append(weakref.ref(array))
      return array

    return dataclasses.replace(leaf, read=read_and_watch)

  def open_watched(source, *, step):
    weights = open_weights(source, step=step)
    leaves = {name: watched(leaf) for name, leaf in weights.leaves.items()}
    return dataclasses.replace(weights, leaves=leaves)

  open_weights = conversion.open_weights
  monkeypatch.setattr(conversion, "open_weights", open_watched)
  for to in ("ours", "hf", "t5x"):
    weights = convert(ours, tmp_path / to, to=to)
    assert len(read) == len(weights.leaves)
    read.clear()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"size": T5Config(vocab_size=256)}, "another size: emb_dim is 8, not 512"),
    ({"to": "msgpack"}, "to is 'msgpack': one of ours, hf, t5x"),
    ({"dtype": "float16"}, "dtype is 'float16'"),
    ({"activation_dtype": "int8"}, "activation_dtype is 'int8'"),
    ({"step": 8}, "no checkpoint of step 8; there are 7"),
  ],
)
def test_refused_options_write_nothing(tmp_path, ours, options, message):
  with pytest.raises(InputError, match=message):
    convert(ours, tmp_path / "out", **({"to": "hf"} | options))
  assert not list(tmp_path.iterdir())


def test_a_vocabulary_must_fit(tmp_path, ours):
  for size in (24, 270):
    other = _vocabulary(tmp_path / f"{size}.model", size)
    assert other.model_vocab_size != 256
    with pytest.raises(InputError, match=r"do not fit|another vocabulary\."):
      convert(ours, tmp_path / "out", to="ours", vocabulary=other.path)
  convert(ours, tmp_path / "t5x", to="t5x")
  with pytest.raises(InputError, match="no SentencePiece model .*--vocabulary"):
    convert(tmp_path / "t5x", tmp_path / "out", to="ours")
  assert not (tmp_path / "out").exists()


def test_a_tied_model_of_ours_is_refused(tmp_path, ours):
  copy = shutil.copytree(ours, tmp_path / "copy")
  model_folder.save_config(copy, CONFIG.replace(logits_via_embedding=True))
  with pytest.raises(InputError, match=r"only T5 1\.1 is converted"):
    convert(copy, tmp_path / "out", to="hf")


def test_a_damaged_array_is_named_and_leaves_nothing(tmp_path, ours):
  copy = shutil.copytree(ours, tmp_path / "copy")
  for data in copy.rglob("d/*"):
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
  with pytest.raises(InputError, match="is missing or damaged"):
    convert(copy, tmp_path / "out", to="t5x")
  assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("to", ["ours", "hf", "t5x"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_no_number_is_refused(tmp_path, ours, to, value):
  convert(ours, tmp_path / "hf", to="hf")
  file = tmp_path / "hf" / "model.safetensors"
  whole = bytearray(file.read_bytes())
  whole[-4:] = np.float32(value).tobytes()
  file.write_bytes(whole)
  with pytest.raises(InputError, match=r"\w+ holds NaN or infinity"):
    convert(
      *(tmp_path / "hf", tmp_path / "out"),
      to=to,
      vocabulary=ours / "vocabulary.model",
    )
  assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="no checkpoint: there is neither"):
    convert(tmp_path / "empty", tmp_path / "out", to="ours")
  with pytest.raises(InputError, match=r"no such folder.*gcloud"):
    convert(tmp_path / "none", tmp_path / "out", to="ours")


def test_never_onto_itself_nor_over_another(tmp_path, ours):
  copy = shutil.copytree(ours, tmp_path / "copy")
  with pytest.raises(InputError, match="which is read"):
    convert(copy, copy, to="ours", force=True)
  with pytest.raises(InputError, match="exists already"):
    convert(ours, copy, to="ours")
  with pytest.raises(InputError, match="was not made by `instructrec conv"):
    convert(ours, copy, to="hf", force=True)
  out = tmp_path / "out"
  convert(ours, out, to="ours")
  convert(ours, out, to="hf", force=True)
  assert (out / "config.json").is_file()


def test_command_line(tmp_path, ours, capsys):
  out = str(tmp_path / "out")
  assert main(["convert", str(ours), out, "--to", "t5x", "--json"]) == 0
  said = json.loads(capsys.readouterr().out)
  assert said["step"] == 7
  assert said["parameters"] == sum(
    leaf.size for leaf in jax.tree.leaves(parameters.parameter_shapes(CONFIG))
  )
  arguments = ["convert", out, str(tmp_path / "xl"), "--to", "hf"]
  assert main([*arguments, "--size", "xl"]) == 2
  message = capsys.readouterr().err
  assert "emb_dim is 8, not 2048" in message
  assert message.count("\n") == 1
  assert main([*arguments, "--size", "huge"]) == 2
  assert "one of base, large, mini" in capsys.readouterr().err
  assert not (tmp_path / "xl").exists()


def test_tool(tmp_path, ours, root):
  tool = root / "tools" / "convert_checkpoint.py"
  command = [sys.executable, tool, ours, tmp_path / "out", "--to", "hf"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert "step 7 (embedding 256 x 8, 2 + 1 layers" in done.stdout


def test_a_pipe_in_a_checkpoint_is_refused(tmp_path, random_params):
  t5x_checkpoint.write_t5x(
    tmp_path,
    Weights(tmp_path, CONFIG, leaves_of(random_params(CONFIG)), step=1),
    dtype="float32",
  )
  chunk = next((tmp_path / "checkpoint_1").glob("*.kernel/0.0"))
  chunk.unlink()
  os.mkfifo(chunk)
  with pytest.raises(InputError, match="0.0: cannot be read .is a pipe"):
    conversion.open_weights(tmp_path)
