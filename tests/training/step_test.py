import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.seq2seq import stacking
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.seq2seq.transformer import Transformer
from instructrec_jax.text import features
from instructrec_jax.training import losses, optimizer
from instructrec_jax.training.collectives import collectives
from instructrec_jax.training.state import (
  initial_state,
  is_stacked,
  state_shardings,
)
from instructrec_jax.training.step import jitted_step, train_step

pytestmark = pytest.mark.usefixtures("all_devices")

CONFIG = T5Config(
  vocab_size=64,
  emb_dim=16,
  num_heads=8,
  head_dim=4,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=32,
  dropout_rate=0.0,
)
ROWS = 8


@pytest.fixture(scope="module")
def batch():
  """Packed rows of two segments, of unequal lengths, and padding."""
  rng = np.random.default_rng(0)
  tokens, segments = [], []
  for length in (12, 6):
    ends = np.sort(rng.integers(1, length, (ROWS, 2)), axis=1)
    index = np.arange(length)
    segment = 1 + (index >= ends[:, :1]) - 2 * (index >= ends[:, 1:])
    segments.append(np.maximum(segment, 0))
    words = rng.integers(3, CONFIG.vocab_size, (ROWS, length))
    tokens.append(np.where(segments[-1] > 0, words, 0))
  batch = features.expand_packed(tokens[0], segments[0], tokens[1], segments[1])
  counts = batch["decoder_loss_weights"].sum(1)
  assert len(set(counts.tolist())) > 2, "rows should weigh differently"
  return batch


def make_step(transform, config=CONFIG, **options):
  return jax.jit(
    functools.partial(train_step, config=config, optimizer=transform, **options)
  )


def make_state(transform, config=CONFIG):
  return jax.jit(functools.partial(initial_state, config, transform, seed=0))()


def largest_difference(tree, other):
  return max(
    float(jnp.abs(a - b).max())
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
  )


def assert_same_step(ours, theirs):
  (state, metrics), (expected_state, expected) = ours, theirs
  assert largest_difference(state.params, expected_state.params) < 1e-5
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def sgd():
  # Updates are the gradients themselves, so that parameters show them.
  transform = optax.sgd(1.0)
  return transform, make_state(transform)


def test_loss_is_that_of_the_models_own_logits(batch, sgd):
  transform, state = sgd
  _, metrics = make_step(transform, z_loss=0.0)(state, batch, jax.random.key(0))
  logits = jax.jit(
    functools.partial(Transformer(CONFIG).apply, enable_dropout=False)
  )(
    {"params": state.params},
    *(
      batch[name]
      for name in (
        "encoder_input_tokens",
        "decoder_input_tokens",
        "decoder_target_tokens",
        "encoder_segment_ids",
        "decoder_segment_ids",
      )
    ),
  )
  weights = batch["decoder_loss_weights"]
  entropies = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch["decoder_target_tokens"]
  )
  tokens = weights.sum()
  assert metrics["target_tokens"] == tokens < weights.size
  np.testing.assert_allclose(
    metrics["loss"], (entropies * weights).sum() / tokens, rtol=1e-5
  )
  right = logits.argmax(-1) == batch["decoder_target_tokens"]
  np.testing.assert_allclose(
    metrics["accuracy"], (right * weights).sum() / tokens, rtol=1e-6
  )


def test_the_normalizing_factor_replaces_the_number_of_tokens(batch, sgd):
  transform, state = sgd
  key = jax.random.key(0)
  _, mean = make_step(transform)(state, batch, key)
  _, fixed = make_step(transform, loss_normalizing_factor=7.0)(
    state, batch, key
  )
  for name in ("loss", "z_loss", "grad_norm"):
    np.testing.assert_allclose(
      fixed[name] * 7.0, mean[name] * mean["target_tokens"], rtol=1e-5
    )
  assert fixed["accuracy"] == mean["accuracy"]


def test_microbatches_take_the_step_of_the_whole_batch(batch, sgd):
  transform, state = sgd
  key = jax.random.key(0)
  whole = make_step(transform)(state, batch, key)
  assert largest_difference(whole[0].params, state.params) > 1e-2
  parts = make_step(transform, microbatches=4)(state, batch, key)
  assert_same_step(parts, whole)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_processors_take_the_step_of_accelerators(batch, sgd, dropout_rate):
  """Attention row by row and in all rows at once, with the same dropout."""
  transform, state = sgd
  key = jax.random.key(0)
  config = CONFIG.replace(dropout_rate=dropout_rate)
  by_row = make_step(transform, config)(state, batch, key)
  config = config.replace(loop_over_examples=False)
  assert_same_step(make_step(transform, config)(state, batch, key), by_row)


@pytest.mark.parametrize(("data", "model"), [(1, 1), (4, 2)])
def test_the_kernel_takes_the_step_of_plain_attention(batch, sgd, data, model):
  """Interpreted; with dropout, and with rows and heads split over devices."""
  transform, state = sgd
  # Of answers without an instruction, what is gathered has no meaning.
  whole = [
    set(answer) <= {*instruction, 0}
    for instruction, answer in zip(
      batch["encoder_segment_ids"], batch["decoder_segment_ids"], strict=True
    )
  ]
  batch = {name: rows[whole][:4] for name, rows in batch.items()}
  key = jax.random.key(0)
  config = CONFIG.replace(dropout_rate=0.3)
  plain = make_step(transform, config)(state, batch, key)
  config = config.replace(attention="pallas")
  devices = jax.devices()[: data * model]
  mesh = mesh_lib.make_mesh(data=data, model=model, devices=devices)
  step = functools.partial(train_step, config=config, optimizer=transform)
  split = jax.jit(mesh_lib.with_activation_axes(step, mesh))
  state, key = jax.device_put((state, key), mesh_lib.replicated(mesh))
  batch = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
  assert_same_step(split(state, batch, key), jax.device_get(plain))


def test_rows_of_padding_change_nothing(batch, sgd):
  transform, state = sgd
  padded = {
    name: np.concatenate([rows, np.zeros_like(rows)])
    for name, rows in batch.items()
  }
  key = jax.random.key(0)
  plain = make_step(transform)(state, batch, key)
  same = make_step(transform)(state, padded, key)
  assert_same_step(same, plain)
  np.testing.assert_allclose(same[1]["loss"], plain[1]["loss"], rtol=1e-6)


def test_dropout_depends_on_its_key_alone(batch):
  config = CONFIG.replace(dropout_rate=0.3)
  transform = optax.sgd(1.0)
  state = make_state(transform, config)
  step = make_step(transform, config)
  first, again, other = (
    float(step(state, batch, jax.random.key(seed))[1]["loss"])
    for seed in (0, 0, 1)
  )
  assert first == again != other


@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("sgd", dict(remat_policy="minimal")),
    ("adamw", dict(lora_rank=2)),
    ("adafactor", dict(emb_dim=128, mlp_dim=128)),
  ],
)
def test_layers_in_a_loop_take_the_step_of_layers_apart(batch, name, changes):
  """Foreign optimizers with layers apart, ours with layers stacked."""
  config = CONFIG.replace(
    num_encoder_layers=2, num_decoder_layers=3, scan_layers=False, **changes
  )
  looped = config.replace(scan_layers=True)
  transform = {"sgd": optax.sgd, **vars(optimizer)}[name](1.0)
  state = make_state(transform, config)
  if config.lora_rank:
    # Where one of two factors is 0, the other has no gradient.
    params = jax.tree.map(lambda leaf: leaf + 0.1, state.params)
    state = state.replace(params=params)
  key = jax.random.key(0)
  expected = make_step(transform, config)(state, batch, key)
  assert is_stacked(looped, transform) == (name != "sgd")
  if is_stacked(looped, transform):
    state = stacking.stack_layers(state)
    assert stacking.is_stacked(state.params)
  after, metrics = make_step(transform, looped)(state, batch, key)
  after = stacking.unstack_layers(after)
  assert_same_step((after, metrics), expected)
  assert largest_difference(after, expected[0]) < 1e-5


def test_a_step_logs_the_learning_rate(batch):
  transform = optimizer.adafactor(optimizer.constant(1e-2))
  state = make_state(transform)
  after, metrics = make_step(transform)(state, batch, jax.random.key(0))
  assert after.step == 1
  np.testing.assert_allclose(metrics["learning_rate"], 1e-2, rtol=1e-6)


def _losses_on(
  batch, initial, *, shape, config=CONFIG, zero=False, microbatches=1
):
  """Losses of three steps on a mesh, the state after them, and the program."""
  transform, state = initial
  size = math.prod(mesh_lib.parse_shape(shape))
  mesh = mesh_lib.make_mesh(shape, devices=jax.devices()[:size])
  shardings = state_shardings(
    config, transform, state=state, mesh=mesh, zero=zero
  )
  step = jitted_step(
    config,
    transform,
    mesh=mesh,
    shardings=shardings,
    zero=zero,
    microbatches=microbatches,
  )
  # The step consumes its state, which may be the initial one itself.
  state = jax.device_put(jax.device_get(state), shardings)
  batch = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
  step = step.lower(state, batch).compile()
  losses = []
  for _ in range(3):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  return losses, state, step.as_text()


@pytest.fixture(scope="module")
def initial():
  transform = optimizer.adamw(1e-2)
  return transform, make_state(transform)


@pytest.fixture(scope="module")
def one_device(batch, initial):
  """Losses and parameters after three steps: with dropout, and without."""

  def steps(rate):
    config = CONFIG.replace(dropout_rate=rate)
    found, state, _ = _losses_on(batch, initial, shape="1x1", config=config)
    return found, jax.device_get(state.params)

  return steps(0.3), steps(0.0)


@pytest.mark.parametrize(
  ("shape", "microbatches", "zero"),
  [
    ("8x1", 1, False),
    ("4x1", 2, False),
    ("2x2", 2, False),
    ("1x8", 1, False),
    ("8x1", 1, "optimizer"),
    ("4x1", 2, "optimizer"),
    ("4x2", 2, "optimizer"),
    ("8x1", 1, True),
    ("2x2", 2, True),
    ("2x4", 1, True),
  ],
)
def test_every_mesh_takes_the_steps_of_one_device(
  batch, initial, one_device, shape, microbatches, zero, monkeypatch
):
  """With dropout, once there are no microbatches, which have their own."""
  if len(jax.devices()) != 8:
    pytest.skip("needs 8 simulated devices, which another setting prevents")
  # A slice of one position at a time, so that the loss loops.
  monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", CONFIG.vocab_size)
  config = CONFIG.replace(dropout_rate=0.3 if microbatches == 1 else 0.0)
  found, state, program = _losses_on(
    batch,
    initial,
    shape=shape,
    config=config,
    microbatches=microbatches,
    zero=zero,
  )
  expected = one_device[microbatches > 1]
  np.testing.assert_allclose(found, expected[0], rtol=1e-5)
  assert found[2] < found[0]
  # Adam divides by gradients near 0, which magnifies rounding.
  assert largest_difference(state.params, expected[1]) < 1e-3

  data, model = mesh_lib.parse_shape(shape)
  held = {
    "params": 1 if zero is not True else data,
    "optimizer_state": data if zero else 1,
  }
  # Left whole are, by the mesh, the norms' scales or the buckets' biases.
  left = 4 * (7 * CONFIG.emb_dim + 2 * CONFIG.num_heads * 32)
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(expected[1]))
  for name, parts in held.items():
    here = sum(
      leaf.addressable_shards[0].data.nbytes
      for leaf in jax.tree.leaves(getattr(state, name))
    )
    # Adam has two means of each parameter.
    copies = 1 if name == "params" else 2
    low = copies * whole / (parts * model)
    assert low <= here < low + copies * left + 64, name

  _assert_reduces_once(program, state.params, data, model, microbatches, zero)


def _assert_reduces_once(program, params, data, model, microbatches, zero):
  """Gradients are summed once a step, and no loop exchanges parameters."""
  between = [
    each
    for each in collectives(program)
    # Devices are numbered along the model axis first.
    if len({device // model for device in each.devices}) > 1
  ]
  if data == 1:
    assert not between
    return
  if zero is not True:
    smallest = 4 * CONFIG.emb_dim * CONFIG.mlp_dim // model
    assert not [c for c in between if c.in_loop and c.largest >= smallest]
  of_device = sum(
    leaf.nbytes
    // (1 if leaf.ndim == 1 or "rel" in jax.tree_util.keystr(path) else model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  )
  # Summed and given back. Parts are gathered, which XLA moves out of the loop,
  # and summed in each microbatch, so that nobody holds a whole gradient.
  passes = 1 + microbatches if zero is True else 2
  bound = passes * of_device * (data - 1) / data
  sent = sum(each.sent * each.times for each in between)
  print(f"{data}x{model}, zero {zero}: {sent:,.0f} of at least {bound:,.0f}")
  assert 0.9 * bound < sent < 1.1 * bound
