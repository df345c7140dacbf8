import jax
import numpy as np
import pytest

from instructrec_jax.seq2seq import parameters


@pytest.fixture(scope="session")
def random_params():
  """Parameters of a config, with nothing to compile and no norm at 1."""

  def draw(config, *, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
      if path[-1].key == "scale":
        return rng.uniform(0.5, 1.5, shape.shape).astype(np.float32)
      fan_in = 1 if path[-1].key == "embedding" else shape.shape[0]
      return rng.normal(0, fan_in**-0.5, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(
      leaf, parameters.parameter_shapes(config)
    )

  return draw
