"""What gin/t5x checks for T5X."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from instructrec_jax.errors import InputError
from instructrec_jax.seqio_bridge.t5x_bindings import (
  initial_checkpoint,
  model_partitions,
  of_adapters,
  tuned_checkpoint,
)


def _checkpoint(folder, **params):
  folder.mkdir(parents=True)
  tree = {"target": {"query": {"kernel": np.ones((4, 6))} | params}}
  (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
  return str(folder)


@pytest.fixture
def adapted(tmp_path):
  """A checkpoint with adapters of rank 2."""
  adapters = {"lora_a": np.ones((4, 2)), "lora_b": np.ones((2, 6))}
  return _checkpoint(tmp_path / "lora" / "checkpoint_3", **adapters)


def test_devices_that_divide_the_heads_pass(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  assert model_partitions(1, None, 32) == 1
  assert model_partitions(None, (1, 1, 1, 4), 4) is None
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert model_partitions(4, None, 4) == 4


def test_others_are_one_sentence(monkeypatch):
  monkeypatch.setattr(jax, "device_count", lambda: 8)
  with pytest.raises(InputError, match=r"MODEL_SUBMESH=\"\(1, 4\)\""):
    model_partitions(1, None, 4)
  for partitions in (1, 4):
    with pytest.raises(InputError, match="over 8 devices .on a CPU.*4 heads"):
      model_partitions(partitions, None, 4)
  with pytest.raises(InputError, match=r"MODEL_SUBMESH=\"\(1, 1, 1, 2\)\""):
    model_partitions(None, (1, 1, 1, 4), 6)
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  with pytest.raises(InputError, match=r"pass --gin.MODEL_PARTITIONS=4\."):
    model_partitions(8, None, 12)


def test_an_initial_checkpoint_is_looked_for(tmp_path):
  for path in (None, "gs://bucket/checkpoint_3"):
    assert initial_checkpoint(path) == path
  with pytest.raises(InputError, match="INITIAL_CHECKPOINT_PATH is .*no check"):
    initial_checkpoint(str(tmp_path / "checkpoint_3"))
  path = _checkpoint(tmp_path / "checkpoint_3")
  assert initial_checkpoint(path) == path


def test_an_initial_checkpoint_has_no_adapters_to_lose(adapted):
  with pytest.raises(InputError, match="merge them, `instructrec convert"):
    initial_checkpoint(adapted)


def test_adapters_are_evaluated_as_they_were_trained(tmp_path, adapted):
  plain = _checkpoint(tmp_path / "checkpoint_3")
  for path in (None, ["a", "b"], "gs://bucket/checkpoint_3", plain):
    assert tuned_checkpoint(path, 0, 16) == path
  assert tuned_checkpoint(str(tmp_path), 0, 16) == str(tmp_path)
  with pytest.raises(InputError, match="no adapters .*LORA_RANK=0"):
    tuned_checkpoint(plain, 2, 16)
  # Where nothing tells the alpha, the rank alone is checked.
  assert tuned_checkpoint(adapted, 2, 5) == adapted
  with pytest.raises(InputError, match=r"pass --gin\.LORA_RANK=2\."):
    tuned_checkpoint(adapted, 0, 16)
  (tmp_path / "lora" / "config.gin").write_text("LORA_ALPHA = 32\n")
  assert tuned_checkpoint(adapted, 2, 32.0) == adapted
  for rank, alpha in ((2, 16), (0, 32), (4, 32)):
    with pytest.raises(InputError, match="LORA_RANK=2 --gin.LORA_ALPHA=32"):
      tuned_checkpoint(adapted, rank, alpha)


def test_an_optimizer_of_adapters_leaves_the_rest():
  params = {"query": {"kernel": jnp.ones((4, 6)), "lora_a": jnp.ones((4, 2))}}
  transform = of_adapters([optax.scale(-2.0), optax.adamw(0.1)])
  state = transform.init(params)
  arrays = [x for x in jax.tree.leaves(state) if x.ndim]
  assert [x.shape for x in arrays] == [(4, 2), (4, 2)]
  updates, _ = transform.update(params, state, params)
  assert not updates["query"]["kernel"].any()
  # In their order: Adam's step goes up a gradient that was turned around.
  np.testing.assert_allclose(updates["query"]["lora_a"], 0.1, rtol=1e-3)
