import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from instructrec_jax.checkpoints.training_run import Checkpoints
from instructrec_jax.errors import InputError
from instructrec_jax.training.state import TrainState

METRIC = "validation/hr@1"


def state(step, value=None):
  value = step if value is None else value
  return TrainState(
    step=jnp.int32(step),
    params={"kernel": jnp.full((4, 3), value, jnp.float32)},
    optimizer_state=({"moment": jnp.full(5, -value, jnp.float32)},),
  )


def on_device(tree):
  device = SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda _: device, tree)


def restore(folder, like):
  checkpoints = Checkpoints(folder, best_metric=METRIC)
  restored = checkpoints.restore(like, on_device(like))
  checkpoints.close()
  return restored


@pytest.fixture
def save(tmp_path):
  """Saves states with these values of the best metric."""

  def save(values):
    checkpoints = Checkpoints(tmp_path, best_metric=METRIC)
    for step, value in values.items():
      metrics = {} if value is None else {METRIC: value}
      checkpoints.save(state(step), metrics=metrics)
    checkpoints.close()
    return tmp_path

  return save


def kept(folder):
  return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_the_best_and_the_latest_are_kept(save):
  assert kept(save({1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.4})) == [2, 4, 5]


def test_without_validation_the_latest_are_kept(save):
  assert kept(save(dict.fromkeys(range(1, 6)))) == [4, 5]


def test_the_latest_state_comes_back(save):
  folder = save({3: None, 7: None})
  restored = restore(folder, state(0))
  for saved, found in zip(
    jax.tree.leaves(state(7)), jax.tree.leaves(restored), strict=True
  ):
    np.testing.assert_array_equal(saved, found)


def test_a_state_can_be_donated_right_after_saving(tmp_path):
  donate = jax.jit(
    lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0
  )
  checkpoints = Checkpoints(tmp_path, best_metric=METRIC, keep=20)
  now = TrainState(
    step=jnp.int32(0),
    params={"kernel": jnp.zeros((256, 256))},
    optimizer_state=jnp.zeros(9),
  )
  for _ in range(10):
    now = donate(now)
    checkpoints.save(now, metrics={})
    now = donate(now)
  checkpoints.close()
  assert kept(tmp_path) == list(range(1, 20, 2))
  restored = restore(tmp_path, now)
  assert restored.step == 19
  assert (np.asarray(restored.params["kernel"]) == 19).all()


def test_a_half_written_step_is_passed_over(save):
  folder = save({3: None})
  half = folder / "checkpoints" / "4.orbax-checkpoint-tmp"
  (half / "params").mkdir(parents=True)
  assert restore(folder, state(0)).step == 3


def test_another_optimizers_checkpoint_is_refused(save):
  folder = save({3: None})
  like = state(0).replace(optimizer_state={"other": jnp.zeros(2)})
  with pytest.raises(InputError, match="another optimizer"):
    restore(folder, like)


def test_a_damaged_checkpoint_is_refused(save):
  folder = save({3: None})
  for path in (folder / "checkpoints" / "3" / "params").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:20])
  with pytest.raises(InputError, match="damaged"):
    restore(folder, state(0))
