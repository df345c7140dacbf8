"""Training of adapters beside torch and Hugging Face's PEFT, same weights."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from instructrec_jax.checkpoints import hugging_face, peft
from instructrec_jax.checkpoints.weights import leaves_of
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text import features
from instructrec_jax.training import optimizer
from instructrec_jax.training.state import initial_state
from instructrec_jax.training.step import train_step

_ABSENT = "torch, transformers or peft is absent: pip install -e '.[parity]'"
torch = pytest.importorskip("torch", reason=_ABSENT)
transformers = pytest.importorskip("transformers", reason=_ABSENT)
hf_peft = pytest.importorskip("peft", reason=_ABSENT)

STEPS, RATE, RANK, ALPHA = 20, 1e-3, 8, 16.0
CONFIG = T5Config(
  vocab_size=128,
  emb_dim=32,
  num_heads=4,
  head_dim=8,
  num_encoder_layers=2,
  num_decoder_layers=2,
  mlp_dim=48,
  dropout_rate=0.0,
  lora_rank=RANK,
  lora_alpha=ALPHA,
)


def _torch_model(base, folder):
  """Returns a transformers model of our weights, from the files we write."""
  config = dataclasses.replace(CONFIG, lora_rank=0)
  hugging_face.write_hugging_face(
    folder,
    hugging_face.Weights(folder, config, leaves_of(base)),
    dtype="float32",
  )
  return transformers.T5ForConditionalGeneration.from_pretrained(folder)


def _batches():
  rng = np.random.default_rng(0)
  for _ in range(STEPS):
    inputs = rng.integers(2, 128, (4, 12))
    inputs[1, 7:] = 0
    targets = rng.integers(2, 128, (4, 6))
    targets[2, 3:] = 0
    yield inputs, targets


def test_twenty_steps_equal_pefts(tmp_path):
  transform = optimizer.adamw(RATE)
  state = jax.jit(functools.partial(initial_state, CONFIG, transform, seed=3))()
  (tmp_path / "base").mkdir()
  model = _torch_model(state.frozen, tmp_path / "base")
  # Both begin with the adapters that we write.
  (tmp_path / "first").mkdir()
  peft.write_peft(
    tmp_path / "first", state.params, rank=RANK, alpha=ALPHA, base="base"
  )
  model = hf_peft.PeftModel.from_pretrained(
    model, tmp_path / "first", is_trainable=True
  )
  trained = [p for p in model.parameters() if p.requires_grad]
  assert sum(p.numel() for p in trained) == sum(
    leaf.size for leaf in jax.tree.leaves(state.params)
  )
  theirs = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
  step = jax.jit(
    functools.partial(
      train_step, config=CONFIG, optimizer=transform, z_loss=0.0
    )
  )
  for inputs, targets in _batches():
    segments = (inputs > 0).astype(int), (targets > 0).astype(int)
    batch = features.expand_packed(inputs, segments[0], targets, segments[1])
    state, metrics = step(state, batch, jax.random.key(0))
    labels = np.where(targets > 0, targets, -100)
    loss = model(
      input_ids=torch.tensor(inputs),
      attention_mask=torch.tensor(inputs > 0),
      labels=torch.tensor(labels),
    ).loss
    theirs.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    theirs.step()
    np.testing.assert_allclose(metrics["loss"], loss.item(), atol=1e-4)
  model.save_pretrained(tmp_path / "last")
  last, scale = peft.read_peft(
    tmp_path / "last", dataclasses.replace(CONFIG, lora_rank=0)
  )
  assert scale == ALPHA / RANK
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-4),
    state.params,
    last,
  )
  assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(last))
