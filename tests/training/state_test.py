import functools

import jax
import optax
import pytest
from jax.sharding import PartitionSpec

from instructrec_jax import mesh as mesh_lib
from instructrec_jax.errors import InputError
from instructrec_jax.seq2seq.config import T5Config
from instructrec_jax.training import optimizer
from instructrec_jax.training.state import initial_state, state_shardings

pytestmark = pytest.mark.usefixtures("all_devices")

# 128: large enough for Adafactor to factor the kernels.
CONFIG = T5Config(
  vocab_size=128,
  emb_dim=128,
  num_heads=2,
  head_dim=64,
  num_encoder_layers=1,
  num_decoder_layers=1,
  mlp_dim=128,
)


def shapes_and_shardings(transform, **axes):
  shapes = jax.eval_shape(
    functools.partial(initial_state, CONFIG, transform, seed=0)
  )
  mesh = mesh_lib.make_mesh(**axes)
  return shapes, state_shardings(CONFIG, transform, state=shapes, mesh=mesh)


@pytest.mark.parametrize("make", [optimizer.adafactor, optimizer.adamw])
def test_an_optimizer_lies_as_its_parameters_do(make):
  state, shardings = shapes_and_shardings(make(), data=4, model=2)
  assert jax.tree.structure(state) == jax.tree.structure(shardings)
  split = {
    leaf.shape: sharding.spec
    for leaf, sharding in zip(
      jax.tree.leaves(state.params),
      jax.tree.leaves(shardings.params),
      strict=True,
    )
  }
  assert PartitionSpec("model", None) in split.values()
  for leaf, sharding in zip(
    jax.tree.leaves(state.optimizer_state),
    jax.tree.leaves(shardings.optimizer_state),
    strict=True,
  ):
    # A matrix is a moment of a parameter; all else is small and held whole.
    if leaf.ndim == 2 and leaf.shape != (CONFIG.emb_dim, CONFIG.emb_dim):
      assert sharding.spec == split[leaf.shape]


def test_moments_of_adamw_are_split_as_often_as_parameters():
  _, shardings = shapes_and_shardings(optimizer.adamw(), data=4, model=2)

  def count(tree):
    return sum("model" in leaf.spec for leaf in jax.tree.leaves(tree))

  assert count(shardings.params) > 20
  assert count(shardings.optimizer_state) == 2 * count(shardings.params)


def test_a_mesh_that_does_not_divide_the_model_is_refused():
  config = CONFIG.replace(mlp_dim=130)
  transform = optax.sgd(0.1)
  shapes = jax.eval_shape(
    functools.partial(initial_state, config, transform, seed=0)
  )
  mesh = mesh_lib.make_mesh(data=1, model=8)
  with pytest.raises(InputError, match="130"):
    state_shardings(config, transform, state=shapes, mesh=mesh)
