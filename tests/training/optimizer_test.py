import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax.errors import InputError
from instructrec_jax.training import optimizer


def rms(x):
  return np.sqrt(np.mean(np.square(x)))


def adafactor_update(gradient, parameter, memory, *, step, learning_rate):
  """Adafactor (Shazeer and Stern 2018, algorithms 4 and 5), as T5X has it."""
  decay = 1 - (step + 1) ** -0.8
  square = np.square(gradient) + 1e-30
  if min(gradient.shape) >= 128:
    for axis, name in ((1, "row"), (0, "column")):
      old = memory.get(name, 0.0)
      memory[name] = decay * old + (1 - decay) * square.mean(axis)
    row, column = memory["row"], memory["column"]
    second_moment = np.outer(row, column) / row.mean()
  else:
    memory["full"] = decay * memory.get("full", 0.0) + (1 - decay) * square
    second_moment = memory["full"]
  update = gradient / np.sqrt(second_moment)
  update /= max(1.0, rms(update))
  return -learning_rate * max(rms(parameter), 1e-3) * update


@pytest.mark.parametrize("shape", [(128, 160), (127, 160)])
def test_adafactor_is_the_published_algorithm_with_t5x_constants(shape):
  rng = np.random.default_rng(0)
  expected = rng.normal(0, 0.1, shape)
  memory = {}
  transform = optimizer.adafactor(optimizer.constant(1e-2))
  params = jnp.asarray(expected, jnp.float32)
  state = transform.init(params)
  for step in range(5):
    gradient = rng.normal(0, 10.0 ** rng.integers(-3, 3), shape)
    expected = expected + adafactor_update(
      gradient, expected, memory, step=step, learning_rate=1e-2
    )
    updates, state = transform.update(
      jnp.asarray(gradient, jnp.float32), state, params
    )
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params, expected, rtol=1e-4, atol=1e-6)


def test_adamw_clips_and_decays():
  transform = optimizer.adamw(0.1, weight_decay=0.5)
  params = jnp.full(4, 2.0)
  small, huge = (
    transform.update(jnp.full(4, scale), transform.init(params), params)[0]
    for scale in (1e3, 1e6)
  )
  np.testing.assert_allclose(small, huge, rtol=1e-5)
  # The first step of Adam has size 1; then there is the decay.
  np.testing.assert_allclose(small, -0.1 * (1 + 0.5 * 2.0), rtol=1e-3)


@pytest.mark.parametrize("make", [optimizer.adafactor, optimizer.adamw])
def test_the_last_learning_rate_is_in_the_state(make):
  transform = make(optimizer.linear(1.0, warmup_steps=4, total_steps=8))
  params = jnp.ones(4)
  state = transform.init(params)
  rates = []
  for _ in range(6):
    _, state = transform.update(jnp.ones(4), state, params)
    rates.append(float(state.hyperparams["learning_rate"]))
  np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.75, 1, 0.75])


@pytest.mark.parametrize("make", [optimizer.adafactor, optimizer.adamw])
@pytest.mark.parametrize("kind", [float, optimizer.constant])
def test_a_resumed_state_goes_on_at_the_rate_that_is_bound_now(make, kind):
  params, gradient = jnp.ones(4), jnp.ones(4)
  state = make(kind(1e-2)).init(params)
  _, state = make(kind(1e-2)).update(gradient, state, params)
  moved, after = make(kind(1e-3)).update(gradient, state, params)
  slow = make(kind(1e-3))
  state = slow.init(params)
  for _ in range(2):
    expected, state = slow.update(gradient, state, params)
  np.testing.assert_allclose(moved, expected, rtol=1e-6)
  np.testing.assert_allclose(after.hyperparams["learning_rate"], 1e-3)


@pytest.mark.parametrize(
  ("schedule", "rates"),
  [
    (optimizer.constant(2.0), {0: 2, 1: 2, 1000: 2}),
    (optimizer.constant(2.0, 10), {0: 0, 5: 1, 10: 2, 1000: 2}),
    (
      optimizer.inverse_sqrt(2.0, 100),
      {0: 0, 50: 1, 100: 2, 400: 1, 10000: 0.2},
    ),
    (optimizer.linear(2.0, 10, 110), {5: 1, 10: 2, 60: 1, 110: 0, 200: 0}),
    (optimizer.linear(2.0, 0, 100), {0: 2, 50: 1, 100: 0}),
    (
      optimizer.warmup_stable_decay(2.0, 10, 20, 50),
      {5: 1, 10: 2, 29: 2, 30: 2, 40: 1, 50: 0, 99: 0},
    ),
    (optimizer.warmup_stable_decay(2.0, 0, 2, 2), {0: 2, 1: 1, 2: 0}),
  ],
)
def test_schedules(schedule, rates):
  for step, rate in rates.items():
    np.testing.assert_allclose(schedule(step), rate, rtol=1e-6, err_msg=step)


@pytest.mark.parametrize(
  "make",
  [
    lambda: optimizer.constant(0.0),
    lambda: optimizer.constant("1e-3"),  # type: ignore
    lambda: optimizer.inverse_sqrt(1e-2, -1),
    lambda: optimizer.linear(1e-3, warmup_steps=10, total_steps=10),
    lambda: optimizer.warmup_stable_decay(1e-3, 10, 10, total_steps=19),
    lambda: optimizer.warmup_stable_decay(1e-3, decay_steps=0),
  ],
)
def test_impossible_schedules_are_refused(make):
  with pytest.raises(InputError):
    make()


def test_the_output_layer_alone_can_learn_slower():
  rng = np.random.default_rng(0)
  params, gradients = (
    {
      "layer": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
      "logits_dense": {"kernel": jnp.asarray(rng.normal(size=(4, 5)))},
    }
    for _ in range(2)
  )
  plain, slow = (
    optimizer.adamw(1e-2, weight_decay=0.1, output_rate=share)
    for share in (1.0, 0.25)
  )
  (one, _), (other, _) = (
    each.update(gradients, each.init(params), params) for each in (plain, slow)
  )
  np.testing.assert_array_equal(other["layer"], one["layer"])
  np.testing.assert_allclose(
    other["logits_dense"]["kernel"], one["logits_dense"]["kernel"] / 4
  )
