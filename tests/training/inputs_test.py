import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.text import features
from instructrec_jax.training.inputs import balance, capacity_of_steps
from instructrec_jax.training.state import initial_state
from instructrec_jax.training.step import train_step

CONFIG = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  num_encoder_layers=2,
  num_decoder_layers=2,
  mlp_dim=32,
  dropout_rate=0.0,
)
LENGTHS = (24, 12)


@pytest.fixture(scope="module")
def batch():
  """Rows of one to three examples, one row of none."""
  rng = np.random.default_rng(0)
  arrays = []
  examples = [1, 3, 2, 0, 2, 1, 3, 2]
  for length in LENGTHS:
    counts = [rng.integers(1, length // 3 + 1, count) for count in examples]
    segments = features.pad(
      [np.repeat(np.arange(1, len(c) + 1), c).tolist() for c in counts], length
    )
    words = rng.integers(3, CONFIG.vocab_size, segments.shape)
    arrays += [np.where(segments > 0, words, 0), segments]
  return features.expand_packed(*arrays)


def counts_of(batch):
  return np.stack(
    [
      np.count_nonzero(batch[name], axis=1)
      for name in ("encoder_input_tokens", "decoder_target_tokens")
    ],
    axis=1,
  )


def take_step(batch, config=CONFIG, **options):
  # Updates are the gradients themselves, so that parameters show them.
  optimizer = optax.sgd(1.0)
  step = functools.partial(
    train_step, config=config, optimizer=optimizer, **options
  )
  state = initial_state(config, optimizer, seed=0)
  return jax.jit(step)(state, batch, jax.random.key(1))


def assert_same_step(ours, theirs):
  (state, metrics), (expected_state, expected) = ours, theirs
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    state.params,
    expected_state.params,
  )


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("remat_policy", ["none", "full"])
def test_a_step_is_that_of_rows(batch, microbatches, remat_policy):
  config = dataclasses.replace(CONFIG, remat_policy=remat_policy)
  capacity = capacity_of_steps([counts_of(batch)], microbatches)
  flat = take_step(batch, config, capacity=capacity, microbatches=microbatches)
  assert_same_step(flat, take_step(batch))


def test_tokens_beyond_the_capacity_are_no_silent_loss(batch):
  encoder, decoder = counts_of(batch).sum(0).tolist()
  for capacity in ((encoder - 1, decoder), (encoder, decoder - 1)):
    _, metrics = take_step(batch, capacity=capacity)
    assert jnp.isnan(metrics["loss"])
  _, metrics = take_step(batch, capacity=(encoder, decoder))
  assert jnp.isfinite(metrics["loss"])


@pytest.mark.parametrize("capacity", [(96, 64), (128, 96)])
def test_dropout_is_that_of_rows_whatever_the_capacity(batch, capacity):
  config = dataclasses.replace(CONFIG, dropout_rate=0.3)
  _, plain = take_step(batch)
  flat = take_step(batch, config, capacity=capacity)
  assert abs(plain["loss"] - flat[1]["loss"]) > 1e-3
  assert_same_step(flat, take_step(batch, config))


def test_microbatches_are_balanced_alike():
  counts = np.random.default_rng(0).integers(300, 512, 64)
  order = balance(counts, 4)
  np.testing.assert_array_equal(order, balance(jnp.asarray(counts), 4))
  assert sorted(order.tolist()) == list(range(64))
  sums = counts[order].reshape(-1, 4).sum(0)
  assert np.ptp(sums) <= 512
  assert np.ptp(sums) < np.ptp(counts.reshape(-1, 4).sum(0))


def test_accelerators_and_meshes_keep_rows():
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
  assert CONFIG.loops_over_examples(mesh) == (jax.default_backend() == "cpu")
  assert not CONFIG.loops_over_examples(mesh_lib.abstract_mesh("2x1"))
  at_once = dataclasses.replace(CONFIG, loop_over_examples=False)
  assert not at_once.loops_over_examples(mesh)
