"""Runs of LoRA: adapters alone are trained and kept, and load merged."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from instructrec_jax.checkpoints import lora_file, model_folder, peft
from instructrec_jax.checkpoints.conversion import convert
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq import lora
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text.packed_dataset import pack_pairs
from instructrec_jax.text.vocabulary import train_vocabulary
from instructrec_jax.training import loop, optimizer

SIZES = dict(
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=32,
  dropout_rate=0.0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  pairs = [(f"Which of {i} and {i + 7} ?", str(i % 9)) for i in range(60)]
  vocabulary = train_vocabulary(
    [text for pair in pairs for text in pair],
    folder / "vocabulary.model",
    size=60,
  )
  return pack_pairs(
    iter(pairs),
    vocabulary=vocabulary,
    out=folder / "packed",
    encoder_length=32,
    decoder_length=8,
  )


@pytest.fixture(scope="module")
def config(data):
  return T5Config(vocab_size=data.manifest["model_vocab_size"], **SIZES)


def train(model_dir, data, config, *, steps, **options):
  return loop.train(
    model_dir=model_dir,
    data=data,
    config=config,
    optimizer=optimizer.adamw(1e-2),
    steps=steps,
    batch_size=4,
    checkpoint_period=3,
    log_period=3,
    **options,
  )


@pytest.fixture(scope="module")
def base(data, config, tmp_path_factory):
  folder = tmp_path_factory.mktemp("base") / "model"
  train(folder, data, config, steps=3)
  return folder


def adapt(model_dir, data, config, base, *, steps, **options):
  adapted = dataclasses.replace(config, lora_rank=2, lora_alpha=4.0)
  return train(
    model_dir,
    data,
    adapted,
    steps=steps,
    initial_params=model_folder.load_initial_params(base, adapted),
    base=model_folder.base_of(base, adapted),
    **options,
  )


@pytest.fixture(scope="module")
def adapted(data, config, base, tmp_path_factory):
  folder = tmp_path_factory.mktemp("adapted") / "model"
  adapt(folder, data, config, base, steps=6)
  return folder


def leaves(folder):
  return jax.tree.leaves(model_folder.load_params(folder)[1])


def test_checkpoints_hold_adapters_alone(adapted, base):
  adapters, settings = model_folder.load_adapters(adapted)
  assert settings.rank == 2 and settings.scale == 2.0
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(adapters))
  (checkpoint,) = (adapted / "checkpoints").glob("6")
  arrays = {
    path.name.split(".")[-1]
    for path in (checkpoint / "params").iterdir()
    if path.is_dir()
  }
  stored = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
  whole = sum(p.stat().st_size for p in base.rglob("*") if p.is_file())
  assert stored < whole / 2, arrays


def test_a_run_loads_with_its_adapters_merged(adapted, base):
  adapters, settings = model_folder.load_adapters(adapted)
  _, params = model_folder.load_params(base)
  expected = lora.merge(params, adapters, scale=settings.scale)
  jax.tree.map(
    np.testing.assert_array_equal,
    model_folder.load_params(adapted)[1],
    expected,
  )
  changed = [
    not np.array_equal(ours, theirs)
    for ours, theirs in zip(leaves(adapted), leaves(base), strict=True)
  ]
  assert sum(changed) == 7 + 11


def test_resuming_is_bit_equal_to_training_straight(
  adapted, data, config, base, tmp_path
):
  for steps in (3, 6):
    adapt(tmp_path / "model", data, config, base, steps=steps)
  for ours, theirs in zip(
    leaves(tmp_path / "model"), leaves(adapted), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_validation_sees_the_merged_model(data, config, base, tmp_path):
  seen = []

  def validate(params):
    seen.append(jax.tree.map(np.asarray, params))
    return {"validation/hr@1": 0.5}

  folder = tmp_path / "model"
  adapt(folder, data, config, base, steps=3, validate=validate)
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
    seen[-1],
    model_folder.load_params(folder)[1],
  )


@pytest.mark.parametrize("to", ["ours", "hf", "t5x"])
def test_conversion_merges(adapted, tmp_path, to):
  counts = {"a title": 3}
  (adapted / model_folder.TITLE_COUNTS_FILE).write_text(json.dumps(counts))
  convert(adapted, tmp_path / "out", to=to)
  if to == "ours":
    assert model_folder.load_title_counts(tmp_path / "out") == counts
  back = tmp_path / "out"
  if to != "ours":
    convert(
      back,
      tmp_path / "back",
      to="ours",
      vocabulary=adapted / model_folder.VOCABULARY_FILE,
    )
    back = tmp_path / "back"
  for ours, theirs in zip(leaves(back), leaves(adapted), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_round_trip_over_pefts_files(adapted, base, config, tmp_path):
  convert(adapted, tmp_path / "peft", to="peft")
  read, scale = peft.read_peft(tmp_path / "peft", config)
  adapters, settings = model_folder.load_adapters(adapted)
  assert scale == settings.scale
  jax.tree.map(np.testing.assert_array_equal, read, adapters)
  convert(tmp_path / "peft", tmp_path / "merged", to="ours", base=base)
  for ours, theirs in zip(
    leaves(tmp_path / "merged"), leaves(adapted), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
  "options",
  [{"dtype": "bfloat16"}, {"activation_dtype": "float32"}, {"base": "model"}],
)
def test_pefts_files_have_no_other_options(adapted, tmp_path, options):
  with pytest.raises(InputError, match=rf"--to peft.*{[*options][0][:4]}"):
    convert(adapted, tmp_path / "peft", to="peft", **options)
  assert not (tmp_path / "peft").exists()


def test_another_or_no_base_is_told(adapted, data, config, base, tmp_path):
  with pytest.raises(InputError, match="LORA_RANK is bound, but no model"):
    train(
      tmp_path / "none",
      data,
      dataclasses.replace(config, lora_rank=2),
      steps=3,
    )
  assert not (tmp_path / "none").exists()
  moved = tmp_path / "moved"
  shutil.copytree(base, moved)
  adapt(tmp_path / "model", data, config, moved, steps=3)
  shutil.rmtree(moved)
  with pytest.raises(InputError, match="which is not there: put it back"):
    model_folder.load_params(tmp_path / "model")
  train(moved, data, config, steps=6)
  other = dataclasses.replace(lora_file.read(tmp_path / "model"), base_step=6)
  path = tmp_path / "model" / lora_file.FILE
  path.write_text(json.dumps(dataclasses.asdict(other)))
  (tmp_path / "model" / "checksums.txt").unlink()
  with pytest.raises(InputError, match="adapters of another model"):
    model_folder.load_params(tmp_path / "model")


def test_a_run_of_another_rank_is_another_run(
  adapted, data, config, base, tmp_path
):
  other = dataclasses.replace(config, lora_rank=3)
  shutil.copytree(adapted, tmp_path / "copy")
  with pytest.raises(InputError, match="holds a run whose lora is"):
    train(
      tmp_path / "copy",
      data,
      other,
      steps=9,
      initial_params=model_folder.load_initial_params(base, other),
      base=model_folder.base_of(base, other),
    )


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"use_dora": True}, "only plain LoRA is read"),
    ({"bias": "all"}, "only plain LoRA is read"),
    ({"r": 3}, "the shape"),
    ({"r": 0}, "lora_rank|rank"),
  ],
)
def test_pefts_files_of_another_kind(
  adapted, config, tmp_path, change, sentence
):
  convert(adapted, tmp_path / "peft", to="peft")
  path = tmp_path / "peft" / peft.CONFIG_FILE
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(InputError, match=sentence):
    peft.read_peft(tmp_path / "peft", config)
